"""K-means of one class without one part of its samples, then without another, for all parts at once [ours].

Advice clusters a few samples of a class again and again, each time without those that are held out. One such clustering
takes a millisecond of arithmetic, and five of calls. Here all of them take each step together:

    points of a class  [n, D]   →   their products G = X Xᵀ  [n, n], once
    V divisions × R starts of k clusters: which points each cluster has   M  [V, R·k, n]

A centre is a mean of points, c = w X with weights w = M / count, so G tells all distances, and D plays no part:

    ‖x_i − c_j‖² = G_ii − 2 (w_j G)_i + w_j G w_jᵀ                        one product  M G  for all of them

A held-out point has weight 0 everywhere: it is neither drawn as a first centre, nor averaged, nor counted.
"""

import numpy as np
import torch
from torch import Tensor

from lookalike.conversion.clustering import draw_in_proportion

_STARTS, _EXPLORING_STEPS = 8, 5  # as ``clustering.kmeans`` explores for one start
_MOST_STEPS = 100
_SAME = 1e-12  # of the largest squared distance to the mean: below, two points coincide


def cluster_without(points: Tensor, kept: Tensor, n_clusters: int, rng: np.random.Generator) -> Tensor:
    """Clusters the points that each division keeps by k-means, from greedy k-means++ seedings.

    Args:
        points: The points in the Euclidean space of the clustering: [n, D] for all divisions, or [V, n, D].
        kept: The points that each division keeps [V, n]; each keeps at least one.
        n_clusters: k.
        rng: Source of randomness.

    Returns:
        Weights [V, k, n], float64: the centres of a division are its weights times the points. A row adds up to 1. It
        is 0 for a cluster without points, as where a division keeps fewer distinct points than k.

    Example:
        >>> points, kept = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([[True, True, True], [True, False, True]])
        >>> weights = cluster_without(points, kept, 2, np.random.default_rng(0))
        >>> (weights @ points.double()).sort(1).values.squeeze(2)
        tensor([[1., 5.],
                [0., 5.]], dtype=torch.float64)
    """
    x = points.double()
    x = x - x.mean(-2, keepdim=True)  # a common offset would cost digits
    products = (x @ x.mT).expand(len(kept), -1, -1)
    seeds, is_used = _seed(products, kept, n_clusters, rng)
    weights = torch.nn.functional.one_hot(seeds, len(products[0])).double()
    weights, inertias = _lloyd(products, kept, weights, is_used, _EXPLORING_STEPS)
    best = inertias.argmin(1)[:, None]
    weights, is_used = (values[torch.arange(len(kept))[:, None], best] for values in (weights, is_used))
    return _lloyd(products, kept, weights, is_used, _MOST_STEPS)[0][:, 0]


def _seed(products: Tensor, kept: Tensor, n_clusters: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draws greedy k-means++ seedings, as ``clustering._seed_greedily`` does, of all divisions.

    Returns:
        Seedings as indices of points [V, R, k], and whether a seed is not equal to an earlier one [V, R, k].
    """
    trials = 2 + int(np.log(n_clusters))
    norms, weight = products.diagonal(dim1=1, dim2=2), kept.double()[:, None]
    seeds = torch.zeros(len(kept), _STARTS, n_clusters, dtype=torch.int64)
    is_used = torch.ones_like(seeds, dtype=torch.bool)
    seeds[..., 0] = draw_in_proportion(weight.expand(-1, _STARTS, -1), 1, rng)[..., 0]
    same = _SAME * norms.amax(1)[:, None, None]
    closest = _distances_to(products, norms, seeds[..., 0]) * weight
    for j in range(1, n_clusters):
        closest = closest.where(closest > same, 0)
        candidates = draw_in_proportion(closest, trials, rng)  # [V, R, trials]
        squares = _distances_to(products, norms, candidates.flatten(1)).unflatten(1, candidates.shape[1:])
        squares = torch.minimum(squares * weight[:, None], closest[:, :, None])
        best = squares.sum(3).argmin(2, keepdim=True)
        seeds[..., j] = candidates.gather(2, best)[..., 0]
        is_used[..., j] = closest.amax(2) > 0
        closest = squares.take_along_dim(best[..., None], 2)[:, :, 0]
    return seeds, is_used


def _distances_to(products: Tensor, norms: Tensor, indices: Tensor) -> Tensor:
    """Returns the squared distances [V, c, n] of all points to the points at some indices [V, c]."""
    rows = products.take_along_dim(indices[..., None], 1)
    return (norms[:, None] + norms.gather(1, indices)[..., None] - 2 * rows).clamp_min(0)


def _lloyd(products: Tensor, kept: Tensor, weights: Tensor, is_used: Tensor, max_steps: int) -> tuple[Tensor, Tensor]:
    """Moves the centres of all starts to the means of their points, until no point changes its cluster.

    A centre that loses all of its points, which hardly ever happens, goes on from the mean of all points.

    Args:
        products: [V, n, n].
        kept: [V, n].
        weights: The centres to begin with, as weights of points [V, R, k, n].
        is_used: Whether a start uses its cluster [V, R, k].
        max_steps: Largest number of steps.

    Returns:
        The last centres, as weights of points [V, R, k, n], and the last inertia of each start [V, R].
    """
    clusters = torch.arange(weights.shape[2])[:, None]
    labels, inertias = torch.tensor(-1), torch.empty(0, dtype=torch.float32)
    for _ in range(max_steps):
        distances = _distances_to_means(products, weights).masked_fill(~is_used[..., None], torch.inf)
        squares, nearest = distances.min(2)
        inertias = (squares * kept[:, None]).sum(2)
        if bool(((nearest == labels) | ~kept[:, None]).all()):
            break
        members = (nearest[:, :, None] == clusters) & kept[:, None, None]
        labels, weights = nearest, members / members.sum(3, keepdim=True).clamp_min(1).double()
    return weights, inertias


def _distances_to_means(products: Tensor, weights: Tensor) -> Tensor:
    """Returns the squared distances [V, R, k, n] of all points to the means of some, by their weights [V, R, k, n]."""
    to_points = (weights.flatten(1, 2) @ products).view_as(weights)
    norms = products.diagonal(dim1=1, dim2=2)[:, None, None]
    squared_means = (weights * to_points).sum(3, keepdim=True)
    return (norms - 2 * to_points + squared_means).clamp_min(0)
