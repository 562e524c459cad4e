"""The tasks on embeddings: fitting a similarity, clustering a class, looking at shards for their nearest images."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.progress import Advance
from lookalike._core.working_folder import read_sealed, write_sealed, writing_to
from lookalike.conversion.on_ray.cluster import as_task, portions, result_of
from lookalike.conversion.on_ray.shards import Shard, in_order, read_indices, read_rows
from lookalike.conversion.per_class import Clustering, learn_class, numbers_per_class
from lookalike.conversion.survey import Survey
from lookalike.conversion.temperature import HeldOut, hold_out
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths

_SHARDS_PER_TASK = 64  # at most, when looking for the nearest images


@dataclass(frozen=True)
class TaskSettings:
    """How the classes are clustered.

    Attributes:
        clustering: Of the whole conversion.
        holds_out: Whether a class's prototypes are also made without parts of its samples, to fit the temperature.
    """

    clustering: Clustering
    holds_out: bool = True


def check_similarity(similarity: Similarity) -> None:
    """Checks that a similarity can be fitted without all embeddings in one place.

    Raises:
        LookalikeError: If it cannot.
    """
    if similarity.fits_to == "all":
        raise LookalikeError(
            f"the similarity {similarity.name!r} is fitted to all embeddings at once, which a cluster does not have in "
            "one place; if an evenly spread sample is enough for it, declare fits_to = 'sample' and its size "
            "fit_samples, or use another similarity, such as l2"
        )


def fit_similarity(similarity: Similarity, shards: list[Shard], dim: int, head_weight: Tensor | None) -> Similarity:
    """Fits a similarity as one machine does: to no embedding, or to the evenly spread sample that it asks for."""
    if similarity.fits_to != "sample" or given_lengths(similarity):  # a length that is given is all that it would learn
        return similarity.fit(np.zeros((1, dim), dtype=np.float32), np.zeros(1, dtype=np.int64), head_weight)
    paths = [str(shard.path) for shard in shards if shard.rows]
    fitted: Similarity = result_of(as_task(_fit_to_sample).remote(similarity, paths))
    return fitted


def _fit_to_sample(similarity: Similarity, paths: list[str]) -> Similarity:
    columns = [read_indices(Path(path))[0] for path in paths]
    ordered = np.unique(np.concatenate(columns))
    chosen = ordered[:: -(-len(ordered) // similarity.fit_samples)]
    parts = []
    for path in paths:
        rows = read_rows(Path(path))
        parts.append(rows.take(np.flatnonzero(np.isin(rows.indices, chosen))))
    sample = in_order(parts)
    # its own step over the sample is 1
    return similarity.fit(sample.embeddings, sample.labels)


def learn_all(
    shards: list[Shard],
    names: list[str],
    similarity: Similarity,
    settings: TaskSettings,
    folder: Path,
    advance: Advance,
) -> "LearnedClasses":
    """Clusters each class in a task of its own; what an earlier run has found is kept.

    Args:
        shards: All of them.
        names: K names.
        similarity: Fitted.
        settings: Of the clustering.
        folder: Where the classes' results are kept.
        advance: Moves a progress bar on by a class.

    Returns:
        What was found, class by class.
    """
    import ray

    paths, shared_names = ray.put([str(shard.path) for shard in shards]), ray.put(names)
    shared, options = ray.put(similarity), ray.put(settings)
    spans = np.concatenate(
        [np.insert(shard.classes, 0, position, axis=1) for position, shard in enumerate(shards)]
    )  # shard, label, start, count
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    bounds = np.searchsorted(spans[:, 1], np.arange(len(names) + 1))
    task = as_task(_learn)
    waiting: dict[Any, int] = {}
    done: dict[int, _LearnedClass] = {}
    for k in range(len(names)):
        kept = folder / f"{k:07d}.npz"
        content = read_sealed(kept)
        earlier = None if content is None else _read_class(content, settings.holds_out)
        if earlier is not None:
            done[k] = earlier
            advance()
            continue
        mine = spans[bounds[k] : bounds[k + 1]][:, [0, 2, 3]]
        waiting[task.remote(paths, mine, k, shared_names, shared, options, str(kept))] = k
    while waiting:
        for reference in ray.wait(list(waiting), num_returns=1)[0]:
            done[waiting.pop(reference)] = _unpacked(result_of(reference))
            advance()
    classes = [done[k] for k in range(len(names))]
    owners = torch.cat([torch.full((len(one.vectors),), k, dtype=torch.int64) for k, one in enumerate(classes)])
    return LearnedClasses(
        Prototypes(torch.cat([one.vectors for one in classes]), owners, names),
        [one.note for one in classes if one.note],
        [one.held_out for one in classes if one.held_out is not None],
    )


@dataclass(frozen=True)
class LearnedClasses:
    """What the clustering of all classes gave.

    Attributes:
        prototypes: By class, not yet surveyed.
        notes: What to warn of.
        held_out: Each class's samples to fit the temperature to [K]; empty where it is not fitted.
    """

    prototypes: Prototypes
    notes: list[str]
    held_out: list[HeldOut]


@dataclass(frozen=True)
class _LearnedClass:
    """A class's prototypes [L, D], a note or nothing, and its samples to fit the temperature to."""

    vectors: Tensor
    note: str
    held_out: HeldOut | None


_HELD_OUT = ("prototypes", "filled", "samples", "folds")


def _learn(
    paths: list[str],
    spans: np.ndarray,
    k: int,
    names: list[str],
    similarity: Similarity,
    settings: TaskSettings,
    target: str,
) -> dict[str, np.ndarray]:
    """Reads the rows of a class, and no others, and clusters them; keeps and returns the arrays of the result."""
    name, numbers = names[k], numbers_per_class(settings.clustering.n_prototypes, names)
    rows = in_order([read_rows(Path(paths[shard]), start, count) for shard, start, count in spans.tolist()])
    vectors, note = learn_class(rows.embeddings, k, name, similarity, settings.clustering, numbers[k])
    arrays = {"vectors": vectors.numpy(), "note": np.array(note or "")}
    if settings.holds_out:
        held_out = hold_out(
            lambda which: rows.embeddings[which],
            len(rows),
            k,
            vectors,
            similarity,
            n_classes=len(numbers),
            seed=settings.clustering.seed,
        )
        arrays |= {f"held_out_{part}": getattr(held_out, part).numpy() for part in _HELD_OUT}
        arrays["n_training"] = np.array(held_out.n_training)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with writing_to(Path(target).parent, "the embeddings and the classes clustered so far are safe"):
        write_sealed(Path(target), buffer.getvalue())
    return arrays


def _read_class(content: bytes, holds_out: bool) -> _LearnedClass | None:
    """Reads what ``_learn`` kept; None if it was kept without the samples that are needed now."""
    with np.load(io.BytesIO(content), allow_pickle=False) as kept:
        if holds_out and "n_training" not in kept:
            return None
        return _unpacked(dict(kept))


def _unpacked(arrays: dict[str, np.ndarray]) -> _LearnedClass:
    held_out = None
    if "n_training" in arrays:
        parts = [torch.from_numpy(np.array(arrays[f"held_out_{part}"])) for part in _HELD_OUT]
        prototypes, filled, samples, folds = parts
        held_out = HeldOut(prototypes, filled, samples, folds, int(arrays["n_training"]))
    return _LearnedClass(torch.from_numpy(np.array(arrays["vectors"])), str(arrays["note"]), held_out)


def survey_all(
    prototypes: Prototypes,
    similarity: Similarity,
    shards: list[Shard],
    repeated: dict[int, np.ndarray],
    *,
    n_nearest: int,
    advance: Advance,
) -> Prototypes:
    """Finds the training data behind each prototype: tasks look at some shards each, and are merged as they end.

    Args:
        prototypes: Vectors, labels and class names.
        similarity: Fitted.
        shards: All of them.
        repeated: By the position of a shard, the indices that an earlier one has too.
        n_nearest: M, how many of the nearest samples to keep.
        advance: Moves a progress bar on by a number of shards.

    Returns:
        New prototypes, with everything filled in.
    """
    import ray

    model = ray.put((prototypes, similarity))
    task = as_task(_survey)
    nothing = np.arange(0)
    waiting: dict[Any, int] = {}
    for numbers in portions(range(len(shards)), _SHARDS_PER_TASK):
        part = [(str(shards[number].path), repeated.get(number, nothing)) for number in numbers]
        waiting[task.remote(model, part, n_nearest)] = len(part)
    seen = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    while waiting:
        for reference in ray.wait(list(waiting), num_returns=1)[0]:
            done = waiting.pop(reference)
            seen.merge(result_of(reference))
            advance(done)
    return seen.finish(prototypes)


def _survey(model: tuple[Prototypes, Similarity], part: list[tuple[str, np.ndarray]], n_nearest: int) -> Survey:
    prototypes, similarity = model
    seen = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    for path, repeated in part:
        rows = read_rows(Path(path))
        if len(repeated):
            rows = rows.take(np.flatnonzero(~np.isin(rows.indices, repeated)))
        seen.add(prototypes, similarity, rows.embeddings, rows.labels, rows.indices)
    seen.nearest_in_class = [nearest.to(torch.int32) for nearest in seen.nearest_in_class]
    return seen
