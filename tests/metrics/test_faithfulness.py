"""Predictions: shares, their intervals, classes, against an independent NumPy count."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix

from lookalike._core.errors import LookalikeError
from lookalike.metrics import FaithfulnessOfPredictions, faithfulness_of_predictions, paired_difference, share
from lookalike.metrics.faithfulness import accuracy, agreement


@pytest.fixture
def three():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    a = np.where(rng.random(200) < 0.8, y, rng.integers(0, 4, 200))
    b = np.where(rng.random(200) < 0.9, y, rng.integers(0, 4, 200))
    return y, a, b


def test_equals_an_independent_count(three):
    y, a, b = three
    found = faithfulness_of_predictions(*(torch.from_numpy(v) for v in (a, y, b)))
    assert found.accuracy.value == pytest.approx(accuracy_score(y, a))
    assert found.black_box_accuracy.value == pytest.approx(accuracy_score(y, b))
    assert found.difference.value == pytest.approx(accuracy_score(y, a) - accuracy_score(y, b))
    assert found.agreement.value == pytest.approx(np.mean(a == b))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(b, a))
    for k, one in enumerate(found.per_class):
        mine = y == k
        assert one.n == mine.sum()
        assert one.accuracy.value == pytest.approx(np.mean(a[mine] == k))
        assert one.agreement.value == pytest.approx(np.mean(a[mine] == b[mine]))
        wrong = a[mine & (a != k)]
        assert one.mistaken_for == np.bincount(wrong, minlength=4).argmax()


def test_batches_sum_and_states_do_not_grow(three):
    y, a, b = (torch.from_numpy(v) for v in three)
    metric = FaithfulnessOfPredictions(4)
    sizes = []
    for rows in (slice(0, 50), slice(50, 51), slice(51, 200)):
        metric.update(a[rows], y[rows], b[rows])
        sizes.append(sum(getattr(metric, name).numel() for name in metric._defaults))
    assert len(set(sizes)) == 1
    assert metric.result() == faithfulness_of_predictions(a, y, b)
    assert float(metric.compute()["agreement"]) == pytest.approx(float((a == b).float().mean()))
    with pytest.raises(LookalikeError, match="must lie between 0 and 3"):
        metric.update(a + 4, y, b)
    with pytest.raises(LookalikeError, match="predictions are missing"):
        metric.update(a, y)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (98, 100), (1, 3)])
def test_wilson_interval(k, n):
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    found = share(k, n)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_the_interval_of_a_difference_covers():
    """About 95% of the intervals hold the true difference."""
    rng = np.random.default_rng(0)
    n, held = 300, 0
    for _ in range(400):
        draw = rng.multinomial(n, [0.9, 0.06, 0.03, 0.01])
        found = paired_difference(int(draw[1]), int(draw[2]), n)
        held += found.low <= 0.03 <= found.high
    assert 0.92 <= held / 400 <= 0.985


def test_no_samples_are_an_error():
    with pytest.raises(LookalikeError, match="no samples"):
        faithfulness_of_predictions(torch.tensor([]), torch.tensor([]))
    with pytest.raises(LookalikeError, match="no samples"):
        paired_difference(0, 0, 0)


def test_all_wrong_classes_that_tie_are_kept():
    predictions, labels = torch.tensor([1, 2, 1, 2, 3, 0, 1]), torch.tensor([0, 0, 0, 0, 0, 0, 1])
    first, second, *_ = faithfulness_of_predictions(predictions, labels, n_classes=4).per_class
    assert (first.mistaken_for, first.also_mistaken_for) == (1, [2])
    assert (second.mistaken_for, second.also_mistaken_for) == (None, [])


@pytest.mark.parametrize("measure", [accuracy, agreement])
def test_predictions_and_what_they_are_compared_with_are_whole_numbers(measure):
    whole, fractions = torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0, 2.5])
    for pair in ((whole, fractions), (fractions, whole)):
        with pytest.raises(LookalikeError, match="whole number"):
            measure(*pair)
    assert measure(whole, whole) == 1
