"""D_fth against hand-made and independent values."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from lookalike._core.errors import LookalikeError
from lookalike.metrics import ExplanationDivergence, explanation_divergence, relevance_shares


def test_identical_maps_are_zero_whatever_their_scale():
    maps = torch.randn(4, 5, 6)
    assert float(explanation_divergence(maps, maps).max()) == 0
    assert float(explanation_divergence(maps, 1e-20 * maps).max()) < 1e-6
    assert float(explanation_divergence(maps, -maps).max()) == 0  # absolute relevance


def test_by_hand():
    r, b = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, 2.0]]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(explanation_divergence(r, b)) == pytest.approx(expected)
    backward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(explanation_divergence(r, b, direction="black-box")) == pytest.approx(backward)
    assert float(explanation_divergence(r, b, direction="symmetric")) == pytest.approx((expected + backward) / 2)


@pytest.mark.parametrize("magnitude", ["absolute", "positive"])
def test_equals_scipy(magnitude):
    rng = np.random.default_rng(0)
    r, b = rng.normal(size=(2, 7, 4, 5))
    read = np.abs if magnitude == "absolute" else lambda v: np.maximum(v, 0)
    flat = [np.maximum(read(m).reshape(7, -1) / read(m).reshape(7, -1).sum(1, keepdims=True), 1e-12) for m in (r, b)]
    found = explanation_divergence(torch.from_numpy(r), torch.from_numpy(b), magnitude=magnitude)
    np.testing.assert_allclose(found, entropy(flat[0], flat[1], axis=1), rtol=1e-8)


def test_the_floor_keeps_it_finite_and_matters():
    r, b = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    loose, tight = (float(explanation_divergence(r, b, floor=f)) for f in (1e-3, 1e-12))
    assert math.isfinite(tight)
    assert tight > loose


def test_a_map_without_relevance_is_spread_evenly():
    assert relevance_shares(torch.zeros(1, 2, 2)).tolist() == [[0.25] * 4]


def test_the_metric_is_the_mean_over_batches():
    ours, theirs = torch.rand(9, 3, 3), torch.rand(9, 3, 3)
    metric = ExplanationDivergence()
    for rows in (slice(0, 4), slice(4, 9)):
        metric.update(ours[rows], theirs[rows])
    assert float(metric.compute()) == pytest.approx(float(explanation_divergence(ours, theirs).mean()))


def test_mistakes_are_told():
    with pytest.raises(LookalikeError, match="shapes"):
        explanation_divergence(torch.rand(1, 2, 2), torch.rand(1, 2, 3))
    with pytest.raises(LookalikeError, match="direction must be"):
        explanation_divergence(torch.rand(1, 2, 2), torch.rand(1, 2, 2), direction="both")
    with pytest.raises(LookalikeError, match="NaN"):
        relevance_shares(torch.full((1, 2, 2), torch.nan))


def test_maps_without_relevance_are_left_out():
    ours, theirs = torch.rand(3, 2, 2), torch.rand(3, 2, 2)
    ours[0], theirs[2] = 0, 0
    found = explanation_divergence(ours, theirs)
    assert found.isnan().tolist() == [True, False, True]
    metric = ExplanationDivergence()
    metric.update(ours, theirs)
    assert float(metric.compute()) == pytest.approx(float(found[1]))
