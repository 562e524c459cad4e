"""Clustering a class that does not fit into memory: from a sample, then by passes over the class part by part.

Source: paper section 3.2, "Large data"; how the parts are chosen is [ours].
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.conversion.clustering import Array, assign, cluster

MemoryLimit = int | str | None

_COPIES = 4  # of a class's embeddings, while it is clustered
_SINGLE = 4  # bytes of a float32
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_PASSES = 20
_TOLERANCE = 1e-4  # of the inertia
_SETTLING = ("kmeans", "faiss", "minibatch")  # clusterers whose centres are means, and go on with all points


def bytes_of(limit: MemoryLimit) -> int:
    """Reads a memory limit: bytes, or a text such as ``"2GiB"``; None is half of the machine's memory.

    Example:
        >>> bytes_of("1.5 GiB")
        1610612736
    """
    if limit is None:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):  # another kind of system
            return 2**62
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", str(limit))
    if found is None or found[2] not in _UNITS or not float(found[1]) > 0:
        raise LookalikeError(f"memory_limit takes bytes, or a text such as '2GiB', not {limit!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def streamed_classes(counts: Array, dim: int, limit: MemoryLimit) -> list[int]:
    """Returns which classes do not fit within a memory limit while they are clustered.

    Args:
        counts: How many samples each class has [K].
        dim: D.
        limit: For one class at a time.
    """
    most = bytes_of(limit) // (_COPIES * _SINGLE * dim)
    return np.flatnonzero(counts > most).tolist()


def cluster_in_parts(
    n_points: int,
    dim: int,
    read: Callable[[Array], Array],
    choose: Callable[[Array], int],
    method: str = "kmeans",
    *,
    limit: MemoryLimit,
    n_init: int = 10,
    seed: int = 0,
    least: int = 1,
) -> Array:
    """Clusters points of which only a part is in memory at any time.

    A random sample that fits is clustered. K-means then goes on with all points, a pass over them for each iteration,
    until the inertia falls by less than a ten-thousandth, or for 20 passes. Other methods keep the sample's centres.

    Args:
        n_points: n.
        dim: D.
        read: Returns the points of some rows [m, D], float32, the rows ascending.
        choose: Returns how many clusters, of a sample.
        method: A registered clusterer.
        limit: Memory.
        n_init: Random starts on the sample.
        seed: The same seed gives the same centres.
        least: How many points the sample needs at least.

    Returns:
        Centres [k, D].

    Raises:
        LookalikeError: If so many points do not fit within the limit.
    """
    least, per_point = min(least, n_points), _COPIES * _SINGLE * dim
    step = min(n_points, bytes_of(limit) // per_point)
    if step < max(1, least):
        raise LookalikeError(
            f"memory_limit={limit!r} is too little: the clustering needs {least:,} embeddings of {dim:,} dimensions "
            f"at once, which take {least * per_point:,} bytes; give at least that"
        )
    rng = np.random.default_rng(seed)
    sample = read(np.sort(rng.choice(n_points, step, replace=False)))
    centres = cluster(sample, choose(sample), method, n_init=n_init, seed=seed).centres
    if method not in _SETTLING:
        return centres
    inertia = np.inf
    for _ in range(_PASSES):
        sums, counts, found = np.zeros(centres.shape), np.zeros(len(centres)), 0.0
        for points in _parts(n_points, step, read):
            labels, squares = assign(points, centres)
            found += float(squares.sum(dtype=np.float64))
            counts += np.bincount(labels, minlength=len(centres))
            for j in range(len(centres)):
                sums[j] += points[labels == j].sum(0, dtype=np.float64)
        if not found < inertia * (1 - _TOLERANCE):
            break
        inertia = found
        filled = counts > 0
        centres = centres.copy()
        centres[filled] = sums[filled] / counts[filled, None]
    return centres


def _parts(n_points: int, step: int, read: Callable[[Array], Array]) -> Iterator[Any]:
    for start in range(0, n_points, step):
        yield read(np.arange(start, min(start + step, n_points)))
