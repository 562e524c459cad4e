"""The tasks on embeddings: fitting a similarity, clustering a class, looking at shards for their nearest images."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.distributed.cluster import as_task, portions, result_of
from lookalike.distributed.shards import Shard, in_order, read_indices, read_rows
from lookalike.errors import LookalikeError
from lookalike.estimator import learn_class
from lookalike.progress import Advance
from lookalike.prototypes import Prototypes, Survey
from lookalike.similarity import Mahalanobis, Similarity
from lookalike.working_folder import read_sealed, write_sealed, writing_to

_SHARDS_PER_TASK = 64  # at most, when looking for the nearest images


@dataclass(frozen=True)
class Settings:
    """How a class is clustered, by its name.

    Attributes:
        numbers: How many prototypes each class is to have [K]; None chooses.
        clusterer: A registered clusterer.
        n_init: Random starts.
        seed: Of the whole conversion.
    """

    numbers: list[int | None]
    clusterer: str
    n_init: int
    seed: int


def check_similarity(similarity: Similarity) -> None:
    """Sees to it that a similarity can be fitted without all embeddings in one place.

    Raises:
        LookalikeError: If it cannot.
    """
    if similarity.name in ("mahalanobis", "head") or type(similarity).fit is Similarity.fit:
        return
    if similarity.options().get("sigma") is not None:
        return
    raise LookalikeError(
        f"the similarity {similarity.name!r} is fitted to all embeddings at once, which a cluster does not have in one "
        "place; there it works with similarity_options={'sigma': …} if it is 'rbf', and the others that work are l2, "
        "sqeuclidean, l1, log, log-l2, dot, cosine, ned, mahalanobis and head"
    )


def fit_similarity(similarity: Similarity, shards: list[Shard], dim: int, head_weight: Tensor | None) -> Similarity:
    """Fits a similarity as ``KMEx`` does: from no embedding, or from the evenly spread part that it looks at."""
    if not isinstance(similarity, Mahalanobis):
        return similarity.fit(np.zeros((1, dim), dtype=np.float32), np.zeros(1, dtype=np.int64), head_weight)
    paths = [str(shard.path) for shard in shards if shard.rows]
    fitted: Similarity = result_of(as_task(_fit_to_sample).remote(similarity, paths))
    return fitted


def _fit_to_sample(similarity: Mahalanobis, paths: list[str]) -> Similarity:
    columns = [read_indices(Path(path))[0] for path in paths]
    ordered = np.unique(np.concatenate(columns))
    chosen = ordered[:: -(-len(ordered) // similarity.max_samples)]
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
    settings: Settings,
    folder: Path,
    advance: Advance,
) -> tuple[Prototypes, list[str]]:
    """Clusters each class in a task of its own; what an earlier run has found is kept.

    Args:
        shards: All of them.
        names: K names.
        similarity: Fitted.
        settings: Of the clustering.
        folder: Where the classes' results are kept.
        advance: Moves a progress bar on by a class.

    Returns:
        The prototypes, by class, not yet surveyed; and what to warn of.
    """
    import ray

    paths = ray.put([str(shard.path) for shard in shards])
    shared, options = ray.put(similarity), ray.put(settings)
    spans = np.concatenate(
        [np.insert(shard.classes, 0, position, axis=1) for position, shard in enumerate(shards)]
    )  # shard, label, start, count
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    bounds = np.searchsorted(spans[:, 1], np.arange(len(names) + 1))
    task = as_task(_learn)
    waiting: dict[Any, int] = {}
    vectors: dict[int, Tensor] = {}
    notes: dict[int, str] = {}
    for k, name in enumerate(names):
        kept = folder / f"{k:07d}.npz"
        content = read_sealed(kept)
        if content is not None:
            vectors[k], notes[k] = _read_class(content)
            advance()
            continue
        mine = spans[bounds[k] : bounds[k + 1]][:, [0, 2, 3]]
        waiting[task.remote(paths, mine, k, name, shared, options, str(kept))] = k
    while waiting:
        for reference in ray.wait(list(waiting), num_returns=1)[0]:
            k = waiting.pop(reference)
            found, notes[k] = result_of(reference)
            vectors[k] = torch.from_numpy(np.array(found))
            advance()
    owners = torch.cat([torch.full((len(vectors[k]),), k, dtype=torch.int64) for k in range(len(names))])
    learned = Prototypes(torch.cat([vectors[k] for k in range(len(names))]), owners, names)
    return learned, [notes[k] for k in range(len(names)) if notes[k]]


def _learn(
    paths: list[str], spans: np.ndarray, k: int, name: str, similarity: Similarity, settings: Settings, target: str
) -> tuple[np.ndarray, str]:
    """Reads the rows of a class, and no others, and clusters them."""
    rows = in_order([read_rows(Path(paths[shard]), start, count) for shard, start, count in spans.tolist()])
    vectors, note = learn_class(
        rows.embeddings,
        k,
        name,
        similarity,
        number=settings.numbers[k],
        clusterer=settings.clusterer,
        n_init=settings.n_init,
        seed=settings.seed,
    )
    found = vectors.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, vectors=found, note=np.array(note or ""))
    with writing_to(Path(target).parent, "the embeddings and the classes clustered so far are safe"):
        write_sealed(Path(target), buffer.getvalue())
    return found, note or ""


def _read_class(content: bytes) -> tuple[Tensor, str]:
    with np.load(io.BytesIO(content), allow_pickle=False) as kept:
        return torch.from_numpy(kept["vectors"]), str(kept["note"])


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
    seen.owners = [owners.to(torch.int32) for owners in seen.owners]
    return seen
