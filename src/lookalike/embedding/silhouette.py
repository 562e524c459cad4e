"""Silhouettes of clusters: how much nearer each point is to its own cluster than to the nearest other one.

scikit-learn computes the same, but changes the warning filters of the whole process while it does: two threads that
overlap would leave them changed.
"""

import numpy as np
import torch
from torch import Tensor

_CELLS = 8_000_000  # most distances in memory


def pairwise_distances(points: Tensor) -> np.ndarray:
    """Returns the Euclidean distances between points [n, D], as [n, n] float64 with zeros on the diagonal."""
    distances = _distances(points.double(), slice(None))
    np.fill_diagonal(distances, 0)
    return distances


def silhouettes(points: Tensor, labels: np.ndarray) -> np.ndarray:
    """Returns the silhouette of each point (Rousseeuw, 1987).

    With the mean distances a to the other points of the own cluster and b to the points of the nearest other cluster,
    it is (b − a) / max(a, b). A point that is alone in its cluster has 0, as have points of which both means are 0.

    Args:
        points: Points [n, D].
        labels: Their clusters [n], at least two different ones.

    Returns:
        The silhouettes [n] in [−1, 1], float64.
    """
    order = np.argsort(labels, kind="stable")  # clusters that lie together are summed several times as fast
    points, labels = points[torch.as_tensor(order)].double(), labels[order]
    step = max(1, _CELLS // len(points))
    by_point = np.empty(len(points))
    for start in range(0, len(points), step):
        rows = slice(start, start + step)
        distances = _distances(points, rows)
        distances[np.arange(len(distances)), start + np.arange(len(distances))] = 0
        by_point[order[rows]] = silhouettes_of_distances(distances, labels[rows], labels)
    return by_point


def silhouettes_of_distances(distances: np.ndarray, own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the silhouettes [m] of points in clusters ``own`` [m] by their distances [m, n] to all, in ``labels``."""
    if (labels[1:] < labels[:-1]).any():
        order = np.argsort(labels, kind="stable")
        distances, labels = distances[:, order], labels[order]
    clusters, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    sums = np.add.reduceat(distances, starts, axis=1)
    rows, column = np.arange(len(own)), np.searchsorted(clusters, own)
    others = counts[column] - 1
    within = sums[rows, column] / np.maximum(others, 1)
    means = sums / counts
    means[rows, column] = np.inf
    nearest = means.min(1)
    larger = np.maximum(within, nearest)
    is_defined = (others > 0) & (larger > 0)
    return np.where(is_defined, (nearest - within) / np.where(is_defined, larger, 1), 0.0)


def _distances(points: Tensor, rows: slice) -> np.ndarray:
    return torch.cdist(points[rows], points).cpu().numpy()
