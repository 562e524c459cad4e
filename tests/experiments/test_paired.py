"""Paired comparisons: Student's interval over seeds, the chance of the test images, and what cannot be paired."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from lookalike._core.errors import LookalikeError
from lookalike.experiments import Cells, Findings, Plan, write_findings
from lookalike.experiments.paired import Pairing, compare_rows, discordant_at_most, paired_over_seeds
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT, AUROC, with_total_seconds
from lookalike.experiments.tables import Row


def test_without_test_images_it_is_students_interval_of_paired_samples():
    first, second = [0.31, 0.36, 0.29, 0.40], [0.25, 0.29, 0.24, 0.31]
    found = paired_over_seeds(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert (found.n_above, found.n_below) == (4, 0)


def test_equal_seeds_leave_mcnemars_interval():
    """Three seeds with the same difference have no spread; what is left is the test images' chance."""
    found = paired_over_seeds([0.95] * 3, [0.93] * 3, discordant=[0.04] * 3, test_images=500)
    half = 1.959963984540054 * math.sqrt((0.04 - 0.02**2) / 500)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half))


def test_the_interval_holds_the_chance_of_seeds_and_of_test_images():
    """95% intervals hold the true difference at least that often, over drawn test sets and trainings."""
    rng, n, seeds, hits, by_seed_alone = np.random.default_rng(0), 300, 5, 0, 0
    for _ in range(400):
        hard = rng.uniform(size=n)  # both models and all seeds share the test images
        first = np.stack([hard > 0.10 + rng.normal(0, 0.01) for _ in range(seeds)])
        second = np.stack([(hard > 0.13 + rng.normal(0, 0.01)) for _ in range(seeds)])
        discordant = (first != second).mean(1).tolist()
        accuracies = first.mean(1).tolist(), second.mean(1).tolist()
        both = paired_over_seeds(*accuracies, discordant=discordant, test_images=n)
        alone = paired_over_seeds(*accuracies)
        hits += both.low <= 0.03 <= both.high
        by_seed_alone += alone.low <= 0.03 <= alone.high
    assert hits / 400 >= 0.95
    assert by_seed_alone < hits


def test_shares_differ_by_at_most_one():
    found = paired_over_seeds([0.9, 0.1], [0.1, 0.9], discordant=[0.8, 0.8], test_images=10)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert paired_over_seeds([90.0, 10.0], [10.0, 90.0]).high > 1.0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (([0.5], [0.4]), {}, "needs the same two or more seeds, not 1 and 1 values"),
        (([0.5, 0.6], [0.4]), {}, "not 2 and 1 values"),
        (([0.5, 0.6], [0.4, 0.4]), {"discordant": [0.1], "test_images": 9}, "1 shares of 9 test images"),
        (([0.5, 0.6], [0.4, 0.4]), {"discordant": [0.1, 0.1]}, "2 shares of 0 test images"),
    ],
)
def test_what_cannot_be_paired_is_refused(values, options, message):
    with pytest.raises(LookalikeError, match=message):
        paired_over_seeds(*values, **options)


def test_the_bound_on_discordant_images_holds_for_real_predictions():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    box, first, second = (np.where(rng.uniform(size=200) < p, labels, rng.integers(0, 3, 200)) for p in (0.9, 0.8, 0.7))

    def row(predictions, name="model"):
        return Row((name,), {"accuracy": [(predictions == labels).mean()], "agreement": [(predictions == box).mean()]})

    black_box = Row(("black box",), {"accuracy": [(box == labels).mean()]})
    for a, b, rows in ((first, second, (row(first), row(second))), (first, box, (row(first), black_box))):
        discordant = ((a == labels) != (b == labels)).mean()
        (bound,) = discordant_at_most(*rows)
        assert discordant <= bound <= 2 - rows[0].values["accuracy"][0] - rows[1].values["accuracy"][0]
    assert discordant_at_most(row(first), black_box)[0] == pytest.approx(1 - (first == box).mean())


def test_rows_are_compared_within_their_data_and_network_and_with_all_seeds_alone():
    rows = [
        Row(("a", "net", "black box"), {"accuracy": [0.9, 0.8]}),
        Row(("a", "net", "KMEx"), {"accuracy": [0.8, 0.7], "agreement": [0.9, 0.9], "auroc": [0.5, 0.6]}),
        Row(("a", "net", "FLINT"), {"accuracy": [0.7], "agreement": [0.7]}),
        Row(("b", "net", "KMEx"), {"accuracy": [0.1, 0.2], "agreement": [0.9, 0.9]}),
    ]
    pairing = Pairing("black box", ("accuracy", "auroc"))
    ((row, differences),) = compare_rows(rows, pairing, 2, {"a": 50})
    assert row.names == ("a", "net", "KMEx")
    assert list(differences) == ["accuracy"]
    assert differences["accuracy"].mean == pytest.approx(-0.1)
    assert compare_rows(rows, pairing, 2, {"b": 50}) == []  # accuracy without the number of test images
    assert compare_rows(rows, pairing, 1, {"a": 50}) == []


def test_a_difference_is_told_in_the_unit_of_its_column():
    found = paired_over_seeds([0.95, 0.94], [0.97, 0.97], discordant=[0.0, 0.0], test_images=100)
    assert found.to_text(ACCURACY) == "-2.5 (-8.9 to +3.9), 2 of 2 below"
    assert paired_over_seeds([0.5, 0.5], [0.5, 0.5]).to_text(AUROC) == "+0.000 (+0.000 to +0.000), equal in all"


def test_the_written_page_and_json_hold_the_comparison(tmp_path):
    rows = [
        Row(("digits", "net", "black box"), {"accuracy": [0.9, 0.8]}),
        Row(("digits", "net", "KMEx"), {"accuracy": [0.8, 0.7], "agreement": [0.9, 0.9]}),
    ]
    findings = Findings(("data", "network", "model"), (ACCURACY, AGREEMENT), rows)
    plan = Plan(seeds=(0, 1))
    write_findings("accuracy", plan, findings, tmp_path, Cells(tmp_path), test_images={"digits": 400})
    page = (tmp_path / "accuracy.md").read_text()
    assert "Difference from the row *black box*, paired by seed" in page
    assert "| digits | net | KMEx | -10.0 (-12.9 to -7.1), 2 of 2 below |" in page
    assert json.loads((tmp_path / "accuracy.json").read_text())["test_images"] == {"digits": 400}


def test_a_conversions_total_time_holds_what_is_converted_seed_by_seed():
    rows = [
        Row(("d", "n", "black box"), {"train_seconds": [70.0, 90.0]}),
        Row(("d", "n", "KMEx"), {"train_seconds": [5.0, 1.0]}),
        Row(("d", "n", "FLINT"), {"train_seconds": [100.0, 300.0]}),
        Row(("d", "n", "FLINT + KMEx"), {"train_seconds": [3.0, 4.0]}),
        Row(("d", "n", "ProtoVAE + KMEx"), {"train_seconds": [3.0, 4.0]}),
    ]
    totals = [row.values.get("total_seconds") for row in with_total_seconds(rows)]
    assert totals == [[70.0, 90.0], [75.0, 91.0], [100.0, 300.0], [103.0, 304.0], None]
