"""Clustering of a class that does not fit into memory: first a sample of it, then passes over all of it in chunks.

Source: paper section 3.2, "Large data"; the sample and the chunks are [ours].
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lookalike._core.cores import memory
from lookalike._core.errors import LookalikeError
from lookalike.conversion.clustering import Array, assign, cluster, sums_of_clusters

MemoryLimit = int | str | None

_COPIES = 4  # copies of a class's embeddings in memory while it is clustered, projections and distances included
BYTES_OF_SINGLE = 4  # a float32
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_PASSES = 20  # over the whole class, at most; it starts from the sample's centres and so is nearly settled
_TOLERANCE = 1e-4  # stop when the inertia improves by less than this share
_LLOYD_CLUSTERERS = (
    "kmeans",
    "faiss",
    "minibatch",
)  # centres are means: more passes improve them


def bytes_of(limit: MemoryLimit) -> int:
    """Returns a memory limit in bytes, given so or as ``"2GiB"``; None is half of what this process may have.

    Example:
        >>> bytes_of("1.5 GiB")
        1610612736
    """
    if limit is None:
        return memory() // 2
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(limit))
    if match is None or match[2] not in _UNITS or not float(match[1]) > 0:
        raise LookalikeError(f"memory_limit takes bytes, or a text such as '2GiB', not {limit!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def streamed_classes(counts: Array, dim: int, limit: MemoryLimit) -> list[int]:
    """Returns the classes whose clustering in one piece would take more than a memory limit.

    Args:
        counts: Number of samples of each class [K].
        dim: D.
        limit: Memory for the clustering of one class.
    """
    max_samples = bytes_of(limit) // (_COPIES * BYTES_OF_SINGLE * dim)
    return np.flatnonzero(counts > max_samples).tolist()


def cluster_in_parts(
    n_points: int,
    read: Callable[[Array], Array],
    choose_number: Callable[[Array], int],
    clusterer: str = "kmeans",
    *,
    limit: MemoryLimit,
    n_init: int = 10,
    seed: int = 0,
    min_sample: int = 1,
) -> Array:
    """Clusters points that are never all in memory.

    First, a random sample that fits is clustered. Then k-means continues on all points, with one pass over them per
    iteration, until the inertia falls by less than a ten-thousandth or 20 passes are done. Clusterers whose centres are
    not means keep the sample's centres.

    Args:
        n_points: n, at least 1.
        read: Returns the points [m, D], float32, of ascending row numbers [m].
        choose_number: Returns the number of clusters for a sample.
        clusterer: Name of a registered clusterer.
        limit: Memory.
        n_init: Number of random starts on the sample.
        seed: Seed; the same seed gives the same centres.
        min_sample: Smallest number of points in the sample.

    Returns:
        Centres [k, D].

    Raises:
        LookalikeError: If that many points do not fit within the limit.
    """
    dim = read(np.arange(1)).shape[1]
    min_sample, bytes_per_point = min(min_sample, n_points), _COPIES * BYTES_OF_SINGLE * dim
    n_fitting = min(n_points, bytes_of(limit) // bytes_per_point)
    if n_fitting < max(1, min_sample):
        raise LookalikeError(
            f"memory_limit={limit!r} is too little: the clustering needs {min_sample:,} embeddings of {dim:,} "
            f"dimensions at once, which take {min_sample * bytes_per_point:,} bytes; give at least that"
        )
    rng = np.random.default_rng(seed)
    sample = read(np.sort(rng.choice(n_points, n_fitting, replace=False)))
    centres = cluster(sample, choose_number(sample), clusterer, n_init=n_init, seed=seed).centres
    if clusterer not in _LLOYD_CLUSTERERS:
        return centres
    return _improve(centres, lambda: _chunks(n_points, n_fitting, read))


def _improve(centres: Array, chunks: Callable[[], Iterator[Array]]) -> Array:
    """Runs Lloyd's iterations over all points, in chunks, from given centres [k, D].

    Returns:
        The last centres that have points.
    """
    inertia, filled = np.inf, np.ones(len(centres), dtype=bool)
    for _ in range(_PASSES):
        sums, counts, new_inertia = np.zeros(centres.shape), np.zeros(len(centres)), 0.0
        for points in chunks():
            labels, squares = assign(points, centres)
            new_inertia += float(squares.sum(dtype=np.float64))
            counts += np.bincount(labels, minlength=len(centres))
            sums += sums_of_clusters(torch.from_numpy(points), torch.from_numpy(labels), len(centres)).numpy()
        filled = counts > 0
        if not new_inertia < inertia * (1 - _TOLERANCE):
            break
        inertia = new_inertia
        centres = centres.copy()
        centres[filled] = sums[filled] / counts[filled, None]
    return centres[filled]


def _chunks(n_points: int, step: int, read: Callable[[Array], Array]) -> Iterator[Any]:
    """Yields points in chunks of at most ``step`` rows."""
    for start in range(0, n_points, step):
        yield read(np.arange(start, min(start + step, n_points)))
