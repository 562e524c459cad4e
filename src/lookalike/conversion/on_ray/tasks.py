"""Tasks on embeddings: fitting a similarity, clustering the classes, finding the data behind each prototype."""

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
from lookalike.conversion.on_ray.shards import Shard, read_indices, read_rows, sorted_by_index
from lookalike.conversion.per_class import Clustering, learn_class, numbers_per_class
from lookalike.conversion.survey import Survey
from lookalike.conversion.temperature import HeldOut, hold_out
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths

_SHARDS_PER_TASK = 64  # at most, in the search for the nearest images


@dataclass(frozen=True)
class TaskSettings:
    """How the classes are clustered.

    Attributes:
        clustering: Clustering options of the conversion.
        holds_out: Whether to also compute each class's prototypes without held-out samples, to fit the temperature.
    """

    clustering: Clustering
    holds_out: bool = True


def check_similarity(similarity: Similarity) -> None:
    """Checks that a similarity does not need all embeddings in one place to be fitted.

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
    """Fits a similarity as on one machine: to no embeddings, or to an evenly spread sample of the size it asks for."""
    if similarity.fits_to != "sample" or given_lengths(similarity):  # a given length leaves nothing to learn
        return similarity.fit(np.zeros((1, dim), dtype=np.float32), np.zeros(1, dtype=np.int64), head_weight)
    paths = [str(shard.path) for shard in shards if shard.rows]
    fitted: Similarity = result_of(as_task(_fit_to_sample).remote(similarity, paths))
    return fitted


def _fit_to_sample(similarity: Similarity, paths: list[str]) -> Similarity:
    """Fits a similarity to an evenly spread sample of the embeddings in some shards."""
    columns = [read_indices(Path(path))[0] for path in paths]
    ordered = np.unique(np.concatenate(columns))
    sample_indices = ordered[:: -(-len(ordered) // similarity.fit_samples)]
    sample_rows = []
    for path in paths:
        rows = read_rows(Path(path))
        sample_rows.append(rows.take(np.flatnonzero(np.isin(rows.indices, sample_indices))))
    sample = sorted_by_index(sample_rows)
    # the sample is no larger than fit_samples, so ``fit`` does not thin it again
    return similarity.fit(sample.embeddings, sample.labels)


def cluster_classes(
    shards: list[Shard],
    names: list[str],
    similarity: Similarity,
    settings: TaskSettings,
    folder: Path,
    advance: Advance,
) -> "LearnedClasses":
    """Clusters each class in a task of its own; classes that an earlier run clustered are read from the folder.

    Args:
        shards: All shards.
        names: K class names.
        similarity: Fitted.
        settings: Settings of the clustering.
        folder: Folder of the classes' prototypes.
        advance: Advances a progress bar by one class.

    Returns:
        The prototypes of all classes.
    """
    import ray

    paths, shared_names = ray.put([str(shard.path) for shard in shards]), ray.put(names)
    shared_similarity, shared_settings = ray.put(similarity), ray.put(settings)
    spans = np.concatenate(
        [np.insert(shard.classes, 0, position, axis=1) for position, shard in enumerate(shards)]
    )  # shard, label, start, count
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    bounds = np.searchsorted(spans[:, 1], np.arange(len(names) + 1))
    task = as_task(_cluster_class)
    waiting: dict[Any, int] = {}
    clustered: dict[int, _LearnedClass] = {}
    for k in range(len(names)):
        class_file = folder / f"{k:07d}.npz"
        content = read_sealed(class_file)
        stored_class = None if content is None else _read_class(content, settings.holds_out)
        if stored_class is not None:
            clustered[k] = stored_class
            advance()
            continue
        spans_of_class = spans[bounds[k] : bounds[k + 1]][:, [0, 2, 3]]
        shared = (shared_names, shared_similarity, shared_settings)
        waiting[task.remote(paths, spans_of_class, k, *shared, str(class_file))] = k
    while waiting:
        for reference in ray.wait(list(waiting), num_returns=1)[0]:
            clustered[waiting.pop(reference)] = _class_from_arrays(result_of(reference))
            advance()
    classes = [clustered[k] for k in range(len(names))]
    counts = torch.tensor([len(of_class.vectors) for of_class in classes])
    prototype_labels = torch.arange(len(names)).repeat_interleave(counts)
    return LearnedClasses(
        Prototypes(torch.cat([of_class.vectors for of_class in classes]), prototype_labels, names),
        [of_class.note for of_class in classes if of_class.note],
        [of_class.held_out for of_class in classes if of_class.held_out is not None],
    )


@dataclass(frozen=True)
class LearnedClasses:
    """Result of the clustering of all classes.

    Attributes:
        prototypes: In the order of their classes, without training data.
        notes: Warnings.
        held_out: Held-out samples of each class [K], to fit the temperature to; empty if it is not fitted.
    """

    prototypes: Prototypes
    notes: list[str]
    held_out: list[HeldOut]


@dataclass(frozen=True)
class _LearnedClass:
    """A class's prototypes [L, D], a warning or an empty text, and its held-out samples."""

    vectors: Tensor
    note: str
    held_out: HeldOut | None


_HELD_OUT_FIELDS = ("prototypes", "filled", "samples", "folds")


def _cluster_class(
    paths: list[str],
    spans: np.ndarray,
    k: int,
    names: list[str],
    similarity: Similarity,
    settings: TaskSettings,
    target: str,
) -> dict[str, np.ndarray]:
    """Clusters one class, reading only its rows; writes the result to a file and returns it as arrays."""
    name, numbers = names[k], numbers_per_class(settings.clustering.n_prototypes, names)
    rows = sorted_by_index([read_rows(Path(paths[shard]), start, count) for shard, start, count in spans.tolist()])
    vectors, note = learn_class(rows.embeddings, k, name, similarity, settings.clustering, numbers[k])
    arrays = {"vectors": vectors.numpy(), "note": np.array(note or "")}
    if settings.holds_out:
        held_out = hold_out(
            lambda positions: rows.embeddings[positions],
            len(rows),
            k,
            vectors,
            similarity,
            n_classes=len(numbers),
            seed=settings.clustering.seed,
        )
        arrays |= {f"held_out_{field}": getattr(held_out, field).numpy() for field in _HELD_OUT_FIELDS}
        arrays["n_training"] = np.array(held_out.n_training)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with writing_to(Path(target).parent, "the embeddings and the classes clustered so far are safe"):
        write_sealed(Path(target), buffer.getvalue())
    return arrays


def _read_class(content: bytes, holds_out: bool) -> _LearnedClass | None:
    """Reads a file of ``_cluster_class``; None if it lacks the held-out samples that are needed now."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if holds_out and "n_training" not in arrays:
            return None
        return _class_from_arrays(dict(arrays))


def _class_from_arrays(arrays: dict[str, np.ndarray]) -> _LearnedClass:
    """Turns the arrays of ``_cluster_class`` into its result."""
    held_out = None
    if "n_training" in arrays:
        prototypes, filled, samples, folds = (
            torch.from_numpy(np.array(arrays[f"held_out_{field}"])) for field in _HELD_OUT_FIELDS
        )
        held_out = HeldOut(prototypes, filled, samples, folds, int(arrays["n_training"]))
    return _LearnedClass(torch.from_numpy(np.array(arrays["vectors"])), str(arrays["note"]), held_out)


def survey_shards(
    prototypes: Prototypes,
    similarity: Similarity,
    shards: list[Shard],
    repeated: dict[int, np.ndarray],
    *,
    n_nearest: int,
    advance: Advance,
) -> Prototypes:
    """Finds the training data behind each prototype. Each task surveys some shards; the surveys are merged.

    Args:
        prototypes: Vectors, labels and class names.
        similarity: Fitted.
        shards: All shards.
        repeated: Position of a shard → indices that an earlier shard contains too.
        n_nearest: M, the number of nearest samples to keep for each prototype.
        advance: Advances a progress bar by a number of shards.

    Returns:
        New prototypes with counts, purity, nearest samples and distances.
    """
    import ray

    model = ray.put((prototypes, similarity))
    task = as_task(_survey_shards)
    no_repeats = np.arange(0)
    waiting: dict[Any, int] = {}
    for numbers in portions(range(len(shards)), _SHARDS_PER_TASK):
        paths_and_repeats = [(str(shards[number].path), repeated.get(number, no_repeats)) for number in numbers]
        waiting[task.remote(model, paths_and_repeats, n_nearest)] = len(paths_and_repeats)
    merged = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    while waiting:
        for reference in ray.wait(list(waiting), num_returns=1)[0]:
            n_shards = waiting.pop(reference)
            merged.merge(result_of(reference))
            advance(n_shards)
    return merged.finish(prototypes)


def _survey_shards(
    model: tuple[Prototypes, Similarity], paths_and_repeats: list[tuple[str, np.ndarray]], n_nearest: int
) -> Survey:
    """Surveys some shards, without the rows that earlier shards contain too."""
    prototypes, similarity = model
    result = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    for path, repeated in paths_and_repeats:
        rows = read_rows(Path(path))
        if len(repeated):
            rows = rows.take(np.flatnonzero(~np.isin(rows.indices, repeated)))
        result.add(prototypes, similarity, rows.embeddings, rows.labels, rows.indices)
    result.nearest_in_class = [nearest.to(torch.int32) for nearest in result.nearest_in_class]
    return result
