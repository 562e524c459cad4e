"""Novelty scores, conformal p-values, and the exchangeability test."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lookalike._core.errors import LookalikeError
from lookalike.doubt import NOVELTIES, ExchangeabilityTest, conformal_p_values
from lookalike.doubt import martingale as module
from lookalike.doubt.novelty import fit_novelty, novelty_threshold, usable_spreads

RNG = np.random.default_rng(0)
CENTRES = torch.from_numpy(RNG.normal(size=(4, 6)) * 5)
FAMILIAR = CENTRES[torch.arange(300) % 4] + torch.from_numpy(RNG.normal(size=(300, 6)) * np.arange(1, 7) / 5)
SPREADS = torch.ones(4, dtype=torch.float64)


@pytest.mark.parametrize("name", list(NOVELTIES))
def test_far_inputs_score_higher_than_familiar_ones(name):
    score = fit_novelty(name, FAMILIAR[:150], CENTRES)
    far = CENTRES.mean(0) + torch.from_numpy(RNG.normal(size=(50, 6)) * 30)
    assert score(far, CENTRES, SPREADS).min() > score(FAMILIAR[150:], CENTRES, SPREADS).median()


@pytest.mark.parametrize("name", [name for name in NOVELTIES if name not in ("joint", "direction")])
def test_scores_do_not_depend_on_the_origin_of_the_embedding(name):
    score = fit_novelty(name, FAMILIAR[:150], CENTRES)
    moved = fit_novelty(name, FAMILIAR[:150] + 100, CENTRES + 100)
    expected = score(FAMILIAR[150:], CENTRES, SPREADS)
    assert torch.allclose(moved(FAMILIAR[150:] + 100, CENTRES + 100, SPREADS), expected, rtol=1e-6, atol=1e-6)


def test_mahalanobis_equals_scipys_distance_with_the_shrunk_covariance():
    from sklearn.covariance import ledoit_wolf

    points = FAMILIAR.numpy()
    residuals = points - CENTRES.numpy()[cdist(points, CENTRES.numpy()).argmin(1)]
    inverse = np.linalg.inv(ledoit_wolf(residuals, assume_centered=True)[0])
    expected = cdist(points, CENTRES.numpy(), "mahalanobis", VI=inverse).min(1) ** 2
    assert np.allclose(fit_novelty("mahalanobis", FAMILIAR, CENTRES)(FAMILIAR, CENTRES, SPREADS), expected)


def test_direction_is_the_distance_between_points_of_length_one():
    unit = torch.nn.functional.normalize
    expected = fit_novelty("mahalanobis", unit(FAMILIAR), unit(CENTRES))(unit(FAMILIAR), unit(CENTRES), SPREADS)
    score = fit_novelty("direction", FAMILIAR, CENTRES)
    assert np.allclose(score(7 * FAMILIAR, CENTRES, SPREADS), expected)


def test_joint_is_the_sum_of_both_distances_in_units_of_left_out_inputs():
    few = FAMILIAR[:100]
    score = fit_novelty("joint", few, CENTRES)
    units = []
    for name in ("direction", "mahalanobis"):
        left_out = [
            fit_novelty(name, torch.cat([few[:i], few[i + 1 :]]), CENTRES)(few[i : i + 1], CENTRES, SPREADS)
            for i in range(len(few))
        ]
        units.append(torch.quantile(torch.cat(left_out), 0.95))
    assert np.allclose(score.units, torch.stack(units), rtol=0.05)
    parts = [fit_novelty(name, few, CENTRES)(few, CENTRES, SPREADS) for name in ("direction", "mahalanobis")]
    expected = parts[0] / score.units[0] + 0.25 * parts[1] / score.units[1]
    assert np.allclose(score(few, CENTRES, SPREADS), expected)


def test_a_joint_score_finds_images_that_are_only_brighter():
    found = {}
    for name in ("direction", "joint"):
        score = fit_novelty(name, FAMILIAR[:150], CENTRES)
        limit = torch.quantile(score(FAMILIAR[150:], CENTRES, SPREADS), 0.95)
        found[name] = float((score(3 * FAMILIAR, CENTRES, SPREADS) > limit).double().mean())
    assert found["joint"] > 0.9
    assert found["direction"] < 0.2


@pytest.mark.parametrize("name", ["joint", "direction"])
def test_directions_take_embeddings_of_equal_lengths_and_of_none(name):
    unit, centres = torch.nn.functional.normalize(FAMILIAR), torch.nn.functional.normalize(CENTRES)
    score = fit_novelty(name, unit, centres)
    assert score(unit, centres, SPREADS).max() < 1e3
    assert torch.isfinite(score(torch.zeros(2, 6, dtype=torch.float64), CENTRES, SPREADS)).all()
    assert torch.isfinite(fit_novelty(name, centres, centres)(unit, centres, SPREADS)).all()


def test_fewer_inputs_than_dimensions_have_the_same_distance():
    from sklearn.covariance import ledoit_wolf

    points, centre = RNG.normal(size=(9, 30)), torch.zeros(1, 30, dtype=torch.float64)
    inverse = np.linalg.inv(ledoit_wolf(points, assume_centered=True)[0])
    score = fit_novelty("mahalanobis", torch.from_numpy(points), centre)
    test = RNG.normal(size=(5, 30))
    expected = cdist(test, centre.numpy(), "mahalanobis", VI=inverse).min(1) ** 2
    assert np.allclose(score(torch.from_numpy(test), centre, SPREADS[:1]), expected)


def test_percentile_scores_order_inputs_by_their_distance_over_the_spread():
    spreads = torch.tensor([1.0, 2.0, torch.nan, 0.0], dtype=torch.float64)
    points = CENTRES + 1.0
    scores = NOVELTIES["percentile"]()(points, CENTRES, usable_spreads(spreads))
    assert torch.isfinite(scores).all()
    assert scores[1] == pytest.approx(scores[0] / 2)


def test_p_values_of_familiar_inputs_are_at_most_alpha_for_at_most_a_share_alpha():
    rates, rng = [], np.random.default_rng(1)
    for _ in range(400):
        values = rng.normal(size=200)
        rates.append((conformal_p_values(values[100:], np.sort(values[:100])) <= 0.05).mean())
    assert np.mean(rates) <= 0.05
    assert np.mean(rates) > 0.03


@pytest.mark.parametrize("n", [19, 20, 99, 100, 137])
def test_the_threshold_says_the_same_as_the_p_value(n):
    calibration = np.sort(RNG.normal(size=n))
    values = RNG.normal(size=500) * 2
    for rate in (0.01, 0.05, 0.2):
        by_threshold = values > novelty_threshold(calibration, rate)
        assert np.array_equal(by_threshold, conformal_p_values(values, calibration) <= rate + 1e-12)


def test_false_alarms_stay_below_the_bound_and_a_shift_is_found():
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        test = ExchangeabilityTest(rng.normal(size=100), seed)
        alarms += any(test.add(rng.normal(size=20)) >= 20 for _ in range(5))
    assert alarms <= 6  # 3 expected at most
    test = ExchangeabilityTest(RNG.normal(size=300))
    for _ in range(10):
        test.add(RNG.normal(size=30))
    assert max(test.add(RNG.normal(size=10) + 4) for _ in range(3)) > 100


def test_ties_are_no_evidence():
    test = ExchangeabilityTest(np.ones(100))
    assert max(test.add(np.ones(50)) for _ in range(4)) < 20


def test_a_restored_test_goes_on_as_if_nothing_had_happened():
    values = RNG.normal(size=300)
    whole, first = (ExchangeabilityTest(values[:100], 5) for _ in range(2))
    for test in (whole, first):
        test.add(values[100:200])
    second = ExchangeabilityTest(values[:100], 5)
    second.restore(first.added, first.log_bets, first.n_batches)
    assert second.add(values[200:]) == whole.add(values[200:])
    with pytest.raises(LookalikeError, match="bets"):
        second.restore([], [0.0], 1)


def test_a_watch_of_too_many_images_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_SCORES", 120)
    test = ExchangeabilityTest(np.zeros(100))
    with pytest.raises(LookalikeError, match="begin a new state"):
        test.add(np.zeros(21))
    assert math.isfinite(test.log_capital)
