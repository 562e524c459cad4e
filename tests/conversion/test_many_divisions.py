"""Clustering without each held-out part, all at once, is as good as one clustering after the other."""

import numpy as np
import pytest
import torch

from lookalike.conversion.clustering import cluster
from lookalike.conversion.many_divisions import cluster_without


def fifths(n, seed=0):
    """Which of n points each of five turns keeps [5, n]."""
    part = np.random.default_rng(seed).permutation(np.arange(n) % 5)
    return torch.from_numpy(part != np.arange(5)[:, None])


def inertia(points, centres):
    return float(torch.cdist(points, centres).square().min(1).values.sum())


@pytest.mark.parametrize(("n", "dim", "k"), [(40, 100, 5), (150, 3, 8), (30, 2, 1)])
def test_the_inertia_is_that_of_one_clustering_after_the_other(n, dim, k):
    rng = np.random.default_rng(n)
    x = torch.from_numpy(rng.normal(size=(n, dim)) + 4 * rng.normal(size=(6, dim))[rng.integers(0, 6, n)] + 100)
    kept = fifths(n)
    weights = cluster_without(x, kept, k, np.random.default_rng(0))
    alone, together = 0.0, 0.0
    for kept_of_turn, weights_of_turn in zip(kept, weights, strict=True):
        points = x[kept_of_turn]
        alone += cluster(points.numpy(), k, n_init=1).inertia
        together += inertia(points, weights_of_turn @ x)
    assert together <= 1.02 * alone


def test_every_centre_is_the_mean_of_the_kept_points_nearest_to_it():
    """The fixed point of k-means, with neither a held-out point nor an empty cluster; each turn has its own space."""
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(5, 60, 4)))
    kept = fifths(60)
    weights = cluster_without(x, kept, 7, np.random.default_rng(0))
    assert weights.shape == (5, 7, 60)
    assert (weights.sum(2) - 1).abs().max() < 1e-12
    for points, kept_of_turn, weights_of_turn in zip(x, kept, weights, strict=True):
        centres = weights_of_turn @ points
        nearest = torch.cdist(points, centres).argmin(1)
        for j, centre in enumerate(centres):
            members = points[kept_of_turn & (nearest == j)]
            torch.testing.assert_close(centre, members.mean(0))
    assert torch.equal(weights, cluster_without(x, kept, 7, np.random.default_rng(0)))


def test_fewer_distinct_points_than_clusters_leave_clusters_out():
    x = torch.tensor([[0.3, 1.0], [0.3, 1.0], [2.1, 7.0], [2.1, 7.0], [9.0, 9.0]])
    kept = torch.tensor([[True] * 5, [True] * 4 + [False], [True, True, False, False, False]])
    weights = cluster_without(x, kept, 4, np.random.default_rng(0))
    assert weights.any(2).sum(1).tolist() == [3, 2, 1]
    assert weights.sum(2).sum(1).tolist() == [3, 2, 1]
    found = weights[0][weights[0].any(1)] @ x.double()
    assert {tuple(point) for point in found.round(decimals=4).tolist()} == {(0.3, 1.0), (2.1, 7.0), (9.0, 9.0)}
