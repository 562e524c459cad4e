import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from lookalike.embedding.silhouette import pairwise_distances, silhouettes, silhouettes_of_distances


@pytest.mark.parametrize("cells", [8_000_000, 100])
def test_silhouettes_are_those_of_scikit_learn(monkeypatch, cells):
    monkeypatch.setattr("lookalike.embedding.silhouette._CELLS", cells)
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 5)), rng.integers(0, 4, 60) * 3
    labels[7], points[8] = 99, points[9]  # alone in its cluster; a point that occurs twice
    expected = silhouette_samples(points, labels)
    assert silhouettes(torch.as_tensor(points), labels) == pytest.approx(expected, abs=1e-12)
    distances = pairwise_distances(torch.as_tensor(points))
    assert silhouettes_of_distances(distances, labels, labels) == pytest.approx(expected, abs=1e-12)


def test_points_that_are_all_equal_have_zero():
    assert silhouettes(torch.ones(6, 2), np.array([0, 0, 0, 1, 1, 1])).tolist() == [0.0] * 6


def test_the_filters_of_warnings_are_left_alone(monkeypatch):
    """Filters that one thread changes for a while can stay changed where another does the same."""
    monkeypatch.setattr(warnings, "catch_warnings", None)
    silhouettes(torch.rand(20, 2), np.arange(20) % 2)
