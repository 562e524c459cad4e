"""Temperature on held-out samples, and the figures of probabilities."""

import numpy as np
import pytest
import torch

from lookalike._core.errors import LookalikeError
from lookalike.doubt import calibration_figures, fit_factor
from lookalike.doubt.calibration import ece_by_chance
from lookalike.metrics import expected_calibration_error

RNG = np.random.default_rng(0)


def drawn(scores: np.ndarray) -> np.ndarray:
    """Returns labels [N] drawn from the softmax of class scores [N, K]."""
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    return (shares.cumsum(1) < RNG.uniform(size=(len(scores), 1))).sum(1)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return torch.from_numpy(scores).log_softmax(1).numpy()


def test_the_factor_finds_the_temperature_that_labels_were_drawn_with():
    scores = RNG.normal(size=(20_000, 4)) * 3
    labels = drawn(scores)
    overconfident = 2.5 * scores
    assert fit_factor(lambda f: log_softmax(overconfident / f), labels) == pytest.approx(2.5, rel=0.05)


def test_the_factor_stays_finite_without_any_error_and_near_1_with_few_samples():
    scores = np.eye(3)[[0, 1, 2]] * 2
    factor = fit_factor(lambda f: log_softmax(scores / f), np.array([0, 1, 2]))
    assert 0.2 < factor < 1


def test_one_class_has_nothing_to_calibrate():
    with pytest.raises(LookalikeError, match="one class"):
        fit_factor(lambda f: np.zeros((5, 1)), np.zeros(5, dtype=int))


def test_ece_equals_the_metric_of_the_scorecard():
    probabilities = RNG.dirichlet(np.ones(5), 300)
    labels = RNG.integers(0, 5, 300)
    figures = calibration_figures(probabilities, labels)
    expected = expected_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels))
    assert figures.ece == pytest.approx(expected)
    assert figures.ece_low <= figures.ece <= figures.ece_high


def test_log_loss_and_brier_score_equal_scikit_learns():
    from sklearn.metrics import brier_score_loss, log_loss

    probabilities = RNG.dirichlet(np.ones(3), 200)
    labels = RNG.integers(0, 3, 200)
    figures = calibration_figures(probabilities, labels)
    assert figures.log_loss == pytest.approx(log_loss(labels, probabilities))
    assert figures.brier == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))


def test_the_error_by_chance_is_that_of_exact_probabilities():
    half = np.full(4, 0.5)  # one bin: the mean distance of four tosses' share from a half is 3/16
    assert ece_by_chance(half) == pytest.approx(3 / 16, abs=0.03)
    assert ece_by_chance(np.ones(50)) == 0
    assert ece_by_chance(np.full(2_000, 0.5)) < 0.02
