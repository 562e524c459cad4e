"""Embeddings to prototypes: each class is clustered by itself (paper, section 3.2, step 1)."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.files import at_least_single, read_rows
from lookalike._core.names import name_key
from lookalike._core.progress import progress_bar
from lookalike.conversion.clustering import CLUSTERERS, choose_n_clusters, cluster
from lookalike.conversion.out_of_core import MemoryLimit, bytes_of, cluster_in_parts, streamed_classes
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

_LEAST_FOR_AUTO = 200  # embeddings that show how many clusters a class falls into
_TOO_SMALL = 1e-17  # squares of differences below it vanish in single precision

NPrototypes = int | Literal["auto"] | Mapping[Any, int]


@dataclass(frozen=True)
class Clustering:
    """How each class's embeddings are clustered into its prototypes.

    Attributes:
        n_prototypes: L_k: a number for all classes, a mapping from class to number, or ``"auto"``.
        clusterer: The name of a registered clusterer.
        n_init: Number of random starts, of which the best is kept.
        seed: Seed. The prototypes of a class do not depend on the other classes.
        memory_limit: Memory for the clustering of one class, in bytes or as ``"2GiB"``; None is half of the
            machine's memory. A class that does not fit is clustered from a sample and then in parts.
    """

    n_prototypes: NPrototypes = 5
    clusterer: str = "kmeans"
    n_init: int = 10
    seed: int = 0
    memory_limit: MemoryLimit = None

    def __post_init__(self) -> None:
        check_number_of_prototypes(self.n_prototypes)
        _ = CLUSTERERS[self.clusterer]
        checks.whole_number("n_init", self.n_init, 1)
        checks.seed("seed", self.seed)
        bytes_of(self.memory_limit)

    def to_dict(self) -> dict[str, Any]:
        """Returns the options that decide which prototypes are found, as plain values."""
        number = self.n_prototypes
        if isinstance(number, Mapping):
            plain: Any = {str(name): int(value) for name, value in number.items()}
        else:
            plain = number if isinstance(number, str) else int(number)
        return {"n_prototypes": plain, "clusterer": self.clusterer, "n_init": self.n_init, "seed": self.seed}


def learn_prototypes(
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: list[str],
    similarity: Similarity,
    clustering: Clustering | None = None,
    *,
    kept: "KeptClasses | None" = None,
    progress: bool | None = False,
) -> Prototypes:
    """Clusters each class's embeddings into its prototypes (paper section 3.2, step 1).

    Args:
        embeddings: [N, D], finite; of a memory map only one class's rows are read at a time.
        labels: [N], from 0.
        class_names: K names.
        similarity: Fitted; the clustering runs in its Euclidean space.
        clustering: How many prototypes, and how they are found; None takes the defaults.
        kept: Keeps each class's prototypes as soon as they are found, and gives those that it has.
        progress: Show a progress bar.

    Returns:
        The prototypes, by class, not yet surveyed.

    Raises:
        LookalikeError: If a class has no samples, ``n_prototypes`` names no class or no number, embeddings are too
            large or too small to be compared, or ``memory_limit`` holds fewer of them than prototypes are asked for.

    Warns:
        LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for.
    """
    clustering = clustering or Clustering()
    numbers = numbers_per_class(clustering.n_prototypes, class_names)
    counts = np.bincount(labels, minlength=len(class_names))
    check_classes(counts, class_names)
    large = set(streamed_classes(counts, embeddings.shape[1], clustering.memory_limit))
    vectors, owners = [], []
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    with progress_bar("Clustering", len(class_names), progress) as advance:
        for k, rows in enumerate(groups):
            found = None if kept is None else kept.get(k)
            if found is None:
                read = functools.partial(_read_members, embeddings, rows)
                if k in large:
                    found, note = _learn_large_class(
                        read, len(rows), k, class_names[k], similarity, clustering, numbers[k]
                    )
                else:
                    found, note = learn_class(
                        read(np.arange(len(rows))), k, class_names[k], similarity, clustering, numbers[k]
                    )
                if note is not None:
                    warn_of(note)
                if kept is not None:
                    kept.put(k, found)
            vectors.append(found)
            owners += [k] * len(found)
            advance()
    largest = max(float(found.abs().max()) for found in vectors)
    if 0 < largest < _TOO_SMALL:
        raise LookalikeError(
            f"all embeddings are so small (the largest prototype has {largest:.2g}) that their squared distances "
            "vanish in single precision: scale the embeddings"
        )
    return Prototypes(torch.cat(vectors), torch.tensor(owners, dtype=torch.int64), class_names)


def learn_class(
    members: np.ndarray,
    k: int,
    name: str,
    similarity: Similarity,
    clustering: Clustering,
    number: int | None,
) -> tuple[torch.Tensor, str | None]:
    """Clusters the embeddings of one class into its prototypes.

    Args:
        members: The class's embeddings [n, D], in the data's order.
        k: Its number, of which its own seed is made.
        name: Its name, for the note.
        similarity: Fitted; the clustering runs in its Euclidean space.
        clustering: Of the whole conversion.
        number: How many prototypes; None chooses.

    Returns:
        The prototypes [L, D], and what to warn of if they are fewer than were asked for.
    """
    space = similarity.project(torch.from_numpy(members)).numpy()
    _check_size(space, name)
    class_seed = _seed_of_class(clustering.seed, k)
    number = number or choose_n_clusters(space, method=clustering.clusterer, seed=class_seed)
    found = cluster(space, number, clustering.clusterer, n_init=clustering.n_init, seed=class_seed)
    note = None
    if len(found.centres) < number:
        note = (
            f"class {name!r} has {len(found.centres)} distinct embeddings; "
            f"{number} prototypes asked: using {len(found.centres)}"
        )
    return similarity.unproject(torch.from_numpy(found.centres)), note


def _learn_large_class(
    read: Callable[[np.ndarray], np.ndarray],
    n: int,
    k: int,
    name: str,
    similarity: Similarity,
    clustering: Clustering,
    number: int | None,
) -> tuple[torch.Tensor, str | None]:
    """Clusters a class of which only a part is in memory at any time."""
    class_seed, limit = _seed_of_class(clustering.seed, k), clustering.memory_limit
    chosen = number

    def project(rows: np.ndarray) -> np.ndarray:
        space = similarity.project(torch.from_numpy(read(rows))).numpy()
        _check_size(space, name)
        return space

    def choose(sample: np.ndarray) -> int:
        nonlocal chosen
        chosen = number or choose_n_clusters(sample, method=clustering.clusterer, seed=class_seed)
        return chosen

    dim = read(np.arange(1)).shape[1]
    centres = cluster_in_parts(
        n,
        dim,
        project,
        choose,
        clustering.clusterer,
        limit=limit,
        n_init=clustering.n_init,
        seed=class_seed,
        least=number or _LEAST_FOR_AUTO,
    )
    note = None
    if chosen is not None and len(centres) < chosen:
        note = (
            f"class {name!r} has {len(centres)} distinct embeddings in the sample that memory_limit={limit!r} holds; "
            f"{chosen} prototypes asked: using {len(centres)}"
        )
    return similarity.unproject(torch.from_numpy(centres)), note


def _check_size(space: np.ndarray, name: str) -> None:
    """Refuses embeddings whose squared distances their numbers cannot hold.

    Raises:
        LookalikeError: If they are that large.
    """
    largest = float(np.abs(space).max()) if space.size else 0.0
    bound = float(np.sqrt(np.finfo(np.float32).max / (4 * space.shape[1])))
    if space.dtype == np.float32 and largest > bound:
        raise LookalikeError(
            f"class {name!r} has embeddings as large as {largest:.2g}; squared distances of {space.shape[1]} "
            f"dimensions fit single precision up to {bound:.2g}: scale the embeddings"
        )


def _read_members(embeddings: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Returns some of a class's embeddings, copied; in float32 if they are kept in less."""
    return read_rows(embeddings, rows[which], at_least_single(embeddings.dtype))


def _seed_of_class(seed: int, k: int) -> int:
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0] >> 1)


class KeptClasses(Protocol):
    """Keeps the prototypes of classes that are clustered already."""

    def get(self, k: int) -> torch.Tensor | None:
        """Returns a class's prototypes [L, D]; None if they are not there."""

    def put(self, k: int, prototypes: torch.Tensor) -> None:
        """Keeps a class's prototypes."""


def check_number_of_prototypes(n_prototypes: NPrototypes) -> None:
    """Checks the kind of ``n_prototypes``, before the classes are known.

    Raises:
        LookalikeError: If it is no number, mapping or ``"auto"``.
    """
    if isinstance(n_prototypes, str) and n_prototypes == "auto":
        return
    if isinstance(n_prototypes, Mapping):
        for name, value in n_prototypes.items():
            checks.whole_number(f"n_prototypes[{name!r}]", value, 1)
        return
    if isinstance(n_prototypes, str) or not hasattr(n_prototypes, "__int__"):
        raise checks.unfit("n_prototypes", n_prototypes, "a number, a mapping or 'auto'")
    checks.whole_number("n_prototypes", n_prototypes, 1)


def numbers_per_class(n_prototypes: NPrototypes, class_names: list[str]) -> list[int | None]:
    """Returns how many prototypes each class is to have [K]; None where that is chosen automatically.

    Raises:
        LookalikeError: If ``n_prototypes`` names no class or no number.
    """
    check_number_of_prototypes(n_prototypes)
    if isinstance(n_prototypes, str):
        return [None] * len(class_names)
    if not isinstance(n_prototypes, Mapping):
        return [int(n_prototypes)] * len(class_names)
    numbers: list[int | None] = []
    n_prototypes = {name_key(key) if isinstance(key, str) else key: value for key, value in n_prototypes.items()}
    keys = [name_key(name) for name in class_names]
    for k, name in enumerate(keys):
        if name not in n_prototypes and k not in n_prototypes:
            raise LookalikeError(f"n_prototypes has no number for class {name!r}")
        numbers.append(int(n_prototypes[name] if name in n_prototypes else n_prototypes[k]))
    unknown = [key for key in n_prototypes if key not in keys and key not in range(len(class_names))]
    if unknown:
        raise LookalikeError(
            f"n_prototypes names {unknown[0]!r}, which is no class; there are {', '.join(class_names[:8])}"
        )
    return numbers


def check_classes(counts: np.ndarray, class_names: list[str]) -> None:
    """Sees to it that every class has samples, and every sample a class.

    Args:
        counts: How many samples each label has, at least [K].
        class_names: K names.

    Raises:
        LookalikeError: If a class has none, or a label no name.
    """
    if len(counts) > len(class_names):
        raise LookalikeError(f"there is a label {len(counts) - 1} and there are only {len(class_names)} class names")
    empty = [repr(class_names[k]) for k in np.flatnonzero(counts == 0)]
    if empty:
        raise LookalikeError(
            f"class {', '.join(empty[:8])} has no training samples; every class needs at least one "
            "(number the classes from 0 without gaps)"
        )
