"""Embeddings to prototypes: each class is clustered by itself (paper, section 3.2, step 1)."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from lookalike._core import checks
from lookalike._core.draws import combined_seed
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.files import at_least_single, read_rows
from lookalike._core.names import name_key
from lookalike._core.progress import progress_bar
from lookalike.conversion.automatic_number import ENOUGH_FOR_AUTO, choose_n_clusters
from lookalike.conversion.clustering import CLUSTERERS, cluster
from lookalike.conversion.out_of_core import MemoryLimit, bytes_of, cluster_in_parts, streamed_classes
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

_TOO_SMALL = 1e-17  # squared distances between smaller embeddings vanish in single precision

DEFAULT_N_PROTOTYPES = 5
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

    n_prototypes: NPrototypes = DEFAULT_N_PROTOTYPES
    clusterer: str = "kmeans"
    n_init: int = 10
    seed: int = 0
    memory_limit: MemoryLimit = None

    def __post_init__(self) -> None:
        check_number_of_prototypes(self.n_prototypes)
        _ = CLUSTERERS[self.clusterer]
        checks.field(self, "n_init", checks.whole_number, 1)
        checks.field(self, "seed", checks.seed)
        bytes_of(self.memory_limit)

    def to_dict(self, class_names: list[str] | None = None) -> dict[str, Any]:
        """Returns the options that decide which prototypes are found, as plain values.

        Args:
            class_names: K names, by which numbers per class are listed; None lists them as they were given.
        """
        number = self.n_prototypes
        if isinstance(number, Mapping) and class_names is not None:
            plain: Any = dict(zip(class_names, numbers_per_class(number, class_names), strict=True))
        elif isinstance(number, Mapping):
            plain = {"others" if name is None else str(name): int(value) for name, value in number.items()}
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
        embeddings: [N, D], finite. From a memory map, one class's rows are read at a time.
        labels: Classes of the embeddings [N], from 0.
        class_names: K names.
        similarity: Fitted; the clustering runs in its Euclidean space.
        clustering: Number of prototypes and how to cluster; None takes the defaults.
        kept: Storage for each class's prototypes. They are stored as soon as they are found; a stored class is not
            clustered again.
        progress: Show a progress bar.

    Returns:
        The prototypes in the order of their classes, without their training data (``survey`` adds these).

    Raises:
        LookalikeError: If a class has no samples, ``n_prototypes`` names no class or no number, embeddings are too
            large or too small to be compared, or ``memory_limit`` fits fewer of them than prototypes were asked for.

    Warns:
        LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for.
    """
    clustering = clustering or Clustering()
    numbers = numbers_per_class(clustering.n_prototypes, class_names)
    counts = np.bincount(labels, minlength=len(class_names))
    check_classes(counts, class_names)
    large = set(streamed_classes(counts, embeddings.shape[1], clustering.memory_limit))
    vectors = []
    order = np.argsort(labels, kind="stable")
    rows_of_class = np.split(order, np.cumsum(counts)[:-1])
    with progress_bar("Clustering", len(class_names), progress) as advance:
        for k, rows in enumerate(rows_of_class):
            prototypes = None if kept is None else kept.get(k)
            if prototypes is None:
                read = functools.partial(_read_members, embeddings, rows)
                settings = (k, class_names[k], similarity, clustering, numbers[k])
                if k in large:
                    prototypes, note = _learn_large_class(read, len(rows), *settings)
                else:
                    prototypes, note = learn_class(read(np.arange(len(rows))), *settings)
                if note is not None:
                    warn_of(note)
                if kept is not None:
                    kept.put(k, prototypes)
            vectors.append(prototypes)
            advance()
    prototype_labels = torch.arange(len(vectors)).repeat_interleave(torch.tensor([len(rows) for rows in vectors]))
    largest = max(float(prototypes.abs().max()) for prototypes in vectors)
    if 0 < largest < _TOO_SMALL:
        raise LookalikeError(
            f"all embeddings are so small (the largest prototype has {largest:.2g}) that their squared distances "
            "vanish in single precision: scale the embeddings"
        )
    return Prototypes(torch.cat(vectors), prototype_labels, class_names)


def learn_class(
    members: np.ndarray,
    k: int,
    name: str,
    similarity: Similarity,
    clustering: Clustering,
    n_prototypes: int | None,
) -> tuple[torch.Tensor, str | None]:
    """Clusters the embeddings of one class into its prototypes.

    Args:
        members: The class's embeddings [n, D], in the data's order.
        k: The class's number. Its seed is derived from it.
        name: The class's name, for the note.
        similarity: Fitted; the clustering runs in its Euclidean space.
        clustering: Options of the whole conversion.
        n_prototypes: Number of prototypes; None chooses it automatically.

    Returns:
        The prototypes [L, D], and a warning if there are fewer than were asked for.
    """
    space = similarity.project(torch.from_numpy(members)).numpy()
    _check_magnitude(space, name)
    class_seed = _seed_of_class(clustering.seed, k)
    n_prototypes = n_prototypes or choose_n_clusters(space, clusterer=clustering.clusterer, seed=class_seed)
    clustered = cluster(space, n_prototypes, clustering.clusterer, n_init=clustering.n_init, seed=class_seed)
    note = None
    if len(clustered.centres) < n_prototypes:
        note = (
            f"class {name!r} has {len(clustered.centres)} distinct embeddings; "
            f"{n_prototypes} prototypes asked: using {len(clustered.centres)}"
        )
    return similarity.unproject(torch.from_numpy(clustered.centres)), note


def _learn_large_class(
    read: Callable[[np.ndarray], np.ndarray],
    n: int,
    k: int,
    name: str,
    similarity: Similarity,
    clustering: Clustering,
    n_prototypes: int | None,
) -> tuple[torch.Tensor, str | None]:
    """Clusters a class that does not fit into memory; as ``learn_class``, with its embeddings read on demand."""
    class_seed, limit = _seed_of_class(clustering.seed, k), clustering.memory_limit
    n_chosen = n_prototypes

    def project(rows: np.ndarray) -> np.ndarray:
        space = similarity.project(torch.from_numpy(read(rows))).numpy()
        _check_magnitude(space, name)
        return space

    def choose_number(sample: np.ndarray) -> int:
        nonlocal n_chosen
        n_chosen = n_prototypes or choose_n_clusters(sample, clusterer=clustering.clusterer, seed=class_seed)
        return n_chosen

    centres = cluster_in_parts(
        n,
        project,
        choose_number,
        clustering.clusterer,
        limit=limit,
        n_init=clustering.n_init,
        seed=class_seed,
        min_sample=n_prototypes or ENOUGH_FOR_AUTO,
    )
    note = None
    if n_chosen is not None and len(centres) < n_chosen:
        note = (
            f"class {name!r} has {len(centres)} distinct embeddings in the sample that memory_limit={limit!r} holds; "
            f"{n_chosen} prototypes asked: using {len(centres)}"
        )
    return similarity.unproject(torch.from_numpy(centres)), note


def _check_magnitude(space: np.ndarray, name: str) -> None:
    """Refuses embeddings so large that their squared distances overflow single precision.

    Raises:
        LookalikeError: If they are.
    """
    largest = float(np.abs(space).max()) if space.size else 0.0
    bound = float(np.sqrt(np.finfo(np.float32).max / (4 * space.shape[1])))
    if space.dtype == np.float32 and largest > bound:
        raise LookalikeError(
            f"class {name!r} has embeddings as large as {largest:.2g}; squared distances of {space.shape[1]} "
            f"dimensions fit single precision up to {bound:.2g}: scale the embeddings"
        )


def _read_members(embeddings: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Copies a class's embeddings at some positions [n] within the class; half precision becomes float32."""
    return read_rows(embeddings, rows[positions], at_least_single(embeddings.dtype))


def _seed_of_class(seed: int, k: int) -> int:
    """Returns a seed for one class, so that its prototypes do not depend on which other classes there are."""
    return combined_seed(seed, k) >> 1


class KeptClasses(Protocol):
    """Stores the prototypes of classes that are clustered already."""

    def get(self, k: int) -> torch.Tensor | None:
        """Returns a class's prototypes [L, D]; None if they are not stored."""

    def put(self, k: int, prototypes: torch.Tensor) -> None:
        """Stores a class's prototypes."""


def check_number_of_prototypes(n_prototypes: NPrototypes) -> None:
    """Checks the type and the values of ``n_prototypes``, before the classes are known.

    Raises:
        LookalikeError: If it is not a number, a mapping or ``"auto"``.
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
    """Returns the requested number of prototypes of each class [K]; None where it is chosen automatically.

    Args:
        n_prototypes: One number, ``"auto"``, or numbers by class name or label; the number of the key None is that of
            all classes which the mapping does not name.
        class_names: K names.

    Raises:
        LookalikeError: If a mapping names an unknown class, or leaves one out and has no number for the others.

    Example:
        >>> numbers_per_class({"owl": 2, None: 5}, ["crow", "owl"])
        [5, 2]
    """
    check_number_of_prototypes(n_prototypes)
    if isinstance(n_prototypes, str):
        return [None] * len(class_names)
    if not isinstance(n_prototypes, Mapping):
        return [int(n_prototypes)] * len(class_names)
    numbers: list[int | None] = []
    n_prototypes = {name_key(key) if isinstance(key, str) else key: value for key, value in n_prototypes.items()}
    keys = [name_key(name) for name in class_names]
    of_others = n_prototypes.pop(None, None)
    unknown = [key for key in n_prototypes if key not in keys and key not in range(len(class_names))]
    if unknown:
        raise LookalikeError(
            f"n_prototypes names {unknown[0]!r}, which is not a class; the classes are {', '.join(class_names[:8])}"
        )
    for k, name in enumerate(keys):
        if name in n_prototypes and k in n_prototypes:
            raise LookalikeError(f"n_prototypes has two numbers for class {name!r}: one by its name, one by {k}")
        number = n_prototypes.get(name, n_prototypes.get(k, of_others))
        if number is None:
            raise LookalikeError(
                f"n_prototypes has no number for class {name!r}; give one for each class, or one for all others: "
                "{None: 5, …} in Python, --n-prototypes 5,CLASS=NUMBER"
            )
        numbers.append(int(number))
    return numbers


def check_classes(counts: np.ndarray, class_names: list[str]) -> None:
    """Checks that every class has samples and every label is a known class.

    Args:
        counts: Number of samples of each label, from 0 to K − 1 or to the highest label.
        class_names: K names.

    Raises:
        LookalikeError: If a class has no samples or a label has no name.
    """
    if len(counts) > len(class_names):
        raise LookalikeError(f"there is a label {len(counts) - 1} and there are only {len(class_names)} class names")
    empty = [repr(class_names[k]) for k in np.flatnonzero(counts == 0)]
    if empty:
        raise LookalikeError(
            f"class {', '.join(empty[:8])} has no training samples; every class needs at least one "
            "(number the classes from 0 without gaps)"
        )
