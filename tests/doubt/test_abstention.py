"""The bound on errors among answered inputs, and the accuracy-rejection curve."""

import numpy as np
import pytest

from lookalike._core.errors import LookalikeError
from lookalike.doubt import accuracy_rejection, choose_abstention


def sample(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns confidences, and whether each prediction is correct; sure ones more often."""
    confidences = rng.uniform(0.3, 1, n)
    return confidences, rng.uniform(size=n) < confidences


def true_risk(threshold: float) -> float:
    """Returns the error rate of all inputs with at least this confidence."""
    return 1 - (1 + threshold) / 2


def test_the_bound_holds_in_at_least_the_promised_share_of_draws():
    error, confidence, draws = 0.2, 0.9, 300
    kept, shares = 0, []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = choose_abstention(*sample(rng, 300), sample(rng, 100)[0], error=error, confidence=confidence)
        kept += not chosen.answers_any or true_risk(max(chosen.threshold, 0.3)) <= error
        shares.append(chosen.share)
    assert kept >= draws * confidence
    assert np.mean(shares) > 0.3  # of 57% that could be answered if all were known


def test_a_model_that_is_never_sure_answers_nothing():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(size=400)
    chosen = choose_abstention(confidences, rng.uniform(size=400) < 0.5, confidences, error=0.05)
    assert not chosen.answers_any
    assert chosen.to_dict()["threshold"] is None
    assert "No threshold" in chosen.sentence()


def test_too_few_images_for_the_bound_are_refused():
    few = np.ones(44)
    with pytest.raises(LookalikeError, match=r"needs 45 validation images .* there are 44"):
        choose_abstention(few, few > 0, few, error=0.05, confidence=0.9)


def test_the_curve_ends_at_the_accuracy_and_answers_ties_together():
    confidences = np.array([0.9, 0.5, 0.5, 0.5])
    shares, accuracy = accuracy_rejection(confidences, np.array([True, False, True, True]))
    assert shares.tolist() == [0.25, 1.0]
    assert accuracy.tolist() == [1.0, 0.75]
