"""Conformal sets: coverage, empty sets, too few samples, and MAPIE as an independent reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike._core.errors import LookalikeError
from lookalike.doubt.sets import (
    conformal_threshold,
    coverage_of_threshold,
    least_samples,
    log_survival,
    set_scores,
    set_sentence,
    set_thresholds,
)


def test_a_class_without_prototypes_is_said_to_have_none():
    assert set_sentence([("cat", -1)], 0.9) == "Only 'cat' (no prototype), with 90% coverage."


@given(n=st.integers(1, 400), coverage=st.floats(0.05, 0.995))
@settings(max_examples=60)
def test_the_threshold_is_the_smallest_that_covers_n_plus_1_exchangeable_scores(n, coverage):
    threshold = conformal_threshold(np.arange(n, dtype=float), coverage)
    if math.isinf(threshold):
        assert n / (n + 1) < coverage + 1e-9
    else:
        # a new score falls into each of the n + 1 gaps with the same probability
        assert (threshold + 1) / (n + 1) >= coverage - 1e-9
        assert threshold / (n + 1) < coverage


def test_the_least_number_of_samples_is_the_first_with_a_finite_threshold():
    for coverage in (0.5, 0.9, 0.95, 0.99, 0.999):
        n = least_samples(coverage)
        assert math.isfinite(conformal_threshold(np.zeros(n), coverage))
        assert math.isinf(conformal_threshold(np.zeros(n - 1), coverage)) or n == 1


def test_too_few_samples_are_refused_and_of_one_class_told():
    names = ["a", "b"]
    with pytest.raises(LookalikeError, match=r"coverage of 0.95 needs 19 .* there are 10: .* at most 0.909"):
        set_thresholds(np.zeros(10), np.zeros(10, dtype=int), names, 0.95, per_class=False)
    labels = np.array([0] * 30 + [1] * 5)
    for draws in (None, np.full(3, 0.999)):
        thresholds = set_thresholds(np.arange(35.0), labels, names, 0.95, per_class=True, draws=draws)
        assert thresholds.values[1] == math.inf
        in_every_set = "class 'b' has 5 validation images; a coverage of 0.95 needs 19: it is in every set"
        assert thresholds.notes[0] == in_every_set
        assert thresholds.expected[1] == 1
    assert thresholds.values[0] == 28.0  # the second highest of 30, not the highest


@given(n=st.integers(1, 300), coverage=st.floats(0.01, 0.995))
@settings(max_examples=40)
def test_drawn_thresholds_cover_exactly_on_average(n, coverage):
    draws = (np.arange(200) + 0.5) / 200
    thresholds = np.array([conformal_threshold(np.arange(n, dtype=float), coverage, draw) for draw in draws])
    covered = np.clip(thresholds + 1, 0, n + 1) / (n + 1)  # of the n + 1 gaps that a new score may fall into
    assert covered == pytest.approx([coverage_of_threshold(n, coverage, draw) for draw in draws])
    assert covered.mean() == pytest.approx(coverage, abs=0.006)
    conservative = coverage_of_threshold(n, coverage)
    assert conservative >= coverage - 1e-9
    assert covered.max() <= conservative + 1e-12
    assert covered.min() >= conservative - 1 / (n + 1) - 1e-12


@given(n=st.integers(20, 200), draw=st.floats(0, 0.999), low=st.floats(0.1, 0.95), high=st.floats(0.1, 0.95))
@settings(max_examples=40)
def test_with_one_draw_a_higher_coverage_has_the_larger_sets(n, draw, low, high):
    thresholds = [conformal_threshold(np.arange(float(n)), coverage, draw) for coverage in sorted((low, high))]
    assert thresholds[0] <= thresholds[1]


def test_few_samples_tell_how_far_the_coverage_is_beside_its_target():
    labels, names = np.repeat([0, 1], [57, 45]), ["a", "b"]
    steps = "with 45 validation images of a class, a coverage can only be met in steps of 2.2 points"

    def per_class(draws):
        return set_thresholds(np.arange(102.0), labels, names, 0.95, per_class=True, draws=draws)

    assert per_class(None).notes == [f"{steps}: for 0.95 it is 95.7% to 96.6%, on average over calibrations"]
    drawn = per_class(
        np.array([0.2, 0.9, 0.5])
    )  # the class of 57 takes 95.1% with 0.1 of all draws, that of 45 with 0.7
    assert drawn.expected == pytest.approx([55 / 58, 43 / 46])
    assert drawn.notes == [
        f"{steps}; this calibration drew 93.5% to 94.8%, so that it is 0.95 on average over calibrations; conservative "
        "sets are never below 0.95 on that average"
    ]
    assert set_thresholds(np.arange(102.0), labels, names, 0.95, per_class=False).notes == []


def test_a_far_input_has_an_empty_set_and_an_ambiguous_one_both_classes():
    novelty = np.sort(np.random.default_rng(0).exponential(size=500))
    margins = np.array([[0.0, 8.0, 9.0], [0.0, 0.1, 9.0], [0.0, 8.0, 9.0]])
    scores = set_scores(margins, np.array([0.5, 0.5, 1e6]), novelty)
    members = scores <= 2.0
    assert members.tolist() == [[True, False, False], [True, True, False], [False, False, False]]


def test_scores_rise_with_the_margin_and_with_the_novelty():
    novelty = np.sort(np.random.default_rng(1).normal(size=200))
    margins = np.sort(np.random.default_rng(2).exponential(size=(1, 6)))
    margins[0, 0] = 0
    scores = set_scores(margins, np.array([0.0]), novelty)
    assert (np.diff(scores[0]) >= 0).all()
    values = np.linspace(-5, 50, 100)
    assert (np.diff(log_survival(values, novelty)) <= 1e-12).all()
    assert log_survival(np.array([100.0]), novelty) < log_survival(np.array([50.0]), novelty)


def test_survival_of_equal_scores_is_finite():
    assert np.isfinite(log_survival(np.array([0.0, 1.0, 5.0]), np.ones(50))).all()


def test_sentences():
    assert set_sentence([], 0.9) == "Nothing I know, with 90% coverage."
    assert set_sentence([("a\x1b", 1)], 0.9) == "Only 'a\\x1b' (prototype 1), with 90% coverage."


def test_sets_equal_those_of_mapie():
    classification = pytest.importorskip("mapie.classification")
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 900)
    x = rng.normal(size=(900, 2)) + np.array([[0, 0], [2, 0], [0, 2], [2, 2]])[y]
    model = LogisticRegression().fit(x[:300], y[:300])
    reference = classification.SplitConformalClassifier(
        model, confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(x[300:600], y[300:600])
    _, expected = reference.predict_set(x[600:])
    scores = 1 - model.predict_proba(x[300:600])[np.arange(300), y[300:600]]
    members = 1 - model.predict_proba(x[600:]) <= conformal_threshold(scores, 0.9) + 1e-12
    assert np.array_equal(members, expected[:, :, 0])
