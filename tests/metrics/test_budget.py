"""A bound on the time of an evaluation and of a report: what is left out, and that nothing else changes."""

import dataclasses

import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics import budget as budget_module
from lookalike.metrics.budget import Budget, Plan, by_worth
from lookalike.metrics.sections import SECTIONS
from lookalike.report import write_report
from tests.report.page import data_of

QUICK = {"n_images": 4, "n_steps": 3, "n_draws": 1, "progress": False}
AT_ONCE = ("faithfulness", "transparency", "calibration", "diversity")  # by the embeddings alone


class Counting(Budget):
    """A budget whose time is over when it has been asked for the time left so often."""

    def __init__(self, n_asked):
        super().__init__(60)
        self.n_asked = n_asked

    @property
    def left(self):
        self.n_asked -= 1
        return 1000.0 if self.n_asked >= 0 else -1.0


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    x = torch.rand(40, 3, 8, 8) / 2 + labels.view(-1, 1, 1, 1) / 2
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    data = (x, labels)
    return convert(network, data, n_prototypes=2, progress=False), data


@pytest.fixture(scope="module")
def whole(case):
    return evaluate(case[0], case[1], train=case[1], **QUICK)


def without_budget(card):
    return dataclasses.replace(card, info={name: value for name, value in card.info.items() if name != "budget"})


def test_with_enough_time_nothing_changes(case, whole):
    card = evaluate(case[0], case[1], train=case[1], budget=600, **QUICK)
    assert card.runs == whole.runs
    assert card.notes == whole.notes
    assert set(card.info["budget"]["estimates"]) == {"explanations", "robustness"}
    assert all(seconds > 0 for seconds in card.info["budget"]["estimates"].values())


def test_the_estimate_counts_every_row_that_passes(case, monkeypatch):
    """Ordering curves, then each image clean and noisy; and the maps of both classifiers."""
    monkeypatch.setattr(budget_module, "_time_of_a_row", lambda context, clock: 1.0)
    monkeypatch.setattr(budget_module, "_time_of_a_map", lambda context, clock: 0.0)
    card = evaluate(case[0], case[1], budget=1e6, only=("robustness",), **QUICK)
    n, steps, draws = QUICK["n_images"], QUICK["n_steps"], QUICK["n_draws"]
    # the orders: of the model's maps, of the black box's, and by chance
    curves = n * (1 + draws * (3 * (steps - 1) + 1))
    assert card.info["budget"]["estimates"]["robustness"] == curves + n * (1 + draws)


@pytest.mark.parametrize(("only", "n_maps"), [(("robustness",), 2), (("explanations", "robustness"), 1)])
def test_the_estimate_counts_the_maps_of_both_classifiers_once(case, monkeypatch, only, n_maps):
    monkeypatch.setattr(budget_module, "_time_of_a_row", lambda context, clock: 0.0)
    monkeypatch.setattr(budget_module, "_time_of_a_map", lambda context, clock: 1.0)
    estimates = evaluate(case[0], case[1], budget=1e6, only=only, **QUICK).info["budget"]["estimates"]
    n = QUICK["n_images"]
    assert estimates["robustness"] == n * n_maps
    assert estimates.get("explanations", 3 * n) == 3 * n
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    headless = convert(network, case[1], n_prototypes=2, head="output", progress=False)
    alone = evaluate(headless, case[1], budget=1e6, only=("robustness",), **QUICK)
    assert alone.info["budget"]["estimates"]["robustness"] == n


def test_without_time_the_embeddings_alone_are_judged_and_the_rest_is_named(case, whole, tmp_path):
    model, data = case
    file = tmp_path / "part.json"
    card = evaluate(model, data, train=data, budget=1e-9, resume=file, **QUICK)
    assert list(card.details) == [*AT_ONCE, "data"]
    assert card["accuracy"] == whole["accuracy"]
    left_out = set(whole.details) - {*AT_ONCE, "data"}
    assert set(card.info["budget"]["left_out"]) == left_out
    assert card.notes[0].startswith("left out, to end within the budget of 0 s: ")
    assert all(name in card.notes[0] for name in left_out)
    rest = evaluate(model, data, train=data, resume=file, **QUICK)
    assert without_budget(rest).runs == whole.runs


def test_a_section_is_stopped_when_the_time_is_over(case, whole):
    n_before = 1 + sum(
        section not in ("faithfulness", "data") for section in whole.details
    )  # asked once per section, and at first
    reasons = {}
    for n_asked in range(n_before, n_before + 6):
        card = evaluate(case[0], case[1], train=case[1], budget=Counting(n_asked), **QUICK)
        reasons |= {reason: name for name, reason in card.info["budget"]["left_out"].items()}
        assert all(card.runs[name] == whole.runs[name] for name in card.runs)
    assert reasons["stopped when the time was over"] in ("robustness", "explanations")


def test_what_does_not_fit_is_left_out_and_cheaper_sections_are_not():
    plan = Plan(Budget(100), {"robustness": 1000.0})
    assert [name for name in ("explanations", "robustness", "embedding") if plan.admits(SECTIONS[name])] == [
        "explanations", "embedding",
    ]  # fmt: skip
    assert plan.left_out == {"robustness": "it takes about 17 min"}
    names = [section.name for section in by_worth([SECTIONS[name] for name in SECTIONS])]
    assert names.index("faithfulness") == 0
    assert names.index("explanations") < names.index("robustness") < names.index("sanity")


class Clock:
    """A clock that a network moves: each image that passes takes some seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """Passes images on, and lets the time pass that they take."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.now += self.seconds * len(x)
        return x


@pytest.fixture
def slow():
    torch.manual_seed(0)
    clock = Clock()
    labels = torch.arange(60) % 2
    x = torch.rand(60, 3, 8, 8) / 2 + labels.view(-1, 1, 1, 1) / 2
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    passing = Slow(clock, 0.0)
    model = convert(nn.Sequential(passing, *layers), (x, labels), n_prototypes=2, progress=False)
    return model, (x, labels), clock, passing


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.15])
def test_an_evaluation_ends_within_its_budget_by_the_clock(slow, seconds):
    model, data, clock, passing = slow
    passing.seconds = seconds
    card = evaluate(model, data, budget=Budget(30, clock=clock), n_images=40, progress=False)
    assert 0 < clock.now <= 31
    assert "faithfulness" in card.details
    left_out = card.info["budget"]["left_out"]
    assert ("robustness" in left_out) == (seconds > 0.001)
    if seconds == 0.05:
        assert "explanations" in card.details


def test_training_images_that_take_too_long_to_read_are_left_unread(slow):
    model, (x, labels), clock, passing = slow
    passing.seconds = 0.2
    train = (x.repeat(10, 1, 1, 1), labels.repeat(10))
    card = evaluate(model, (x[:20], labels[:20]), train=train, budget=Budget(60, clock=clock), progress=False)
    assert clock.now <= 62
    assert card.info["budget"]["left_out"]["embedding"] == "reading the training images takes about 2 min"
    assert "ghosting" in card.runs  # as it was counted at the conversion


def test_what_took_longer_than_expected_makes_the_plan_more_careful():
    plan = Plan(Budget(100, clock=Clock()), {"explanations": 10.0, "robustness": 40.0})
    assert plan.admits(SECTIONS["robustness"])
    plan.measured(SECTIONS["explanations"], 30.0)
    assert not plan.admits(SECTIONS["robustness"])
    assert plan.left_out == {"robustness": "it takes about 2 min"}


def test_the_estimate_fits_a_line_of_a_terminal():
    plan = Plan(Budget(5000, clock=Clock()), {"explanations": 1000.0, "robustness": 100_000.0})
    assert plan.announcement(10) == "Evaluating within 83 min; expected: explanations 2.8 h, robustness 277.8 h"
    assert Plan(None, {"robustness": 1.0}).announcement(1) is None


def test_what_cannot_be_estimated_does_not_begin_at_the_very_end():
    clock = Clock()
    plan = Plan(Budget(100, clock=clock))
    clock.now = 98
    assert not plan.admits(SECTIONS["embedding"])
    assert plan.admits(SECTIONS["faithfulness"])


class Threshold(nn.Module):
    """Passes on where images are bright, so that no relevance reaches the pixels."""

    def forward(self, x):
        return (x > 0.5).float()


def test_no_time_is_expected_for_maps_that_cannot_be_made(case):
    data = case[1]
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    model = convert(nn.Sequential(Threshold(), *layers), data, n_prototypes=1, progress=False)
    card = evaluate(model, data, budget=600, **QUICK)
    assert any(note.startswith("section 'explanations' was not measured: ") for note in card.notes)
    assert card.info["budget"]["estimates"]["explanations"] == 0
    assert card.info["budget"]["left_out"] == {}


@pytest.mark.parametrize(("seconds", "has_all"), [(0.01, True), (0.1, True), (0.4, False)])
def test_a_report_ends_within_its_budget_and_has_maps_first(slow, tmp_path, seconds, has_all):
    model, data, clock, passing = slow
    passing.seconds = seconds
    file = tmp_path / "report.html"
    write_report(model, data, file, budget=Budget(60, clock=clock), n_maps=20, progress=False)
    assert clock.now <= 63
    text = file.read_text(encoding="utf-8")
    samples = data_of(file)["samples"]
    n_mapped = sum(sample["near"][0]["map"] is not None for sample in samples)
    assert n_mapped == 20 if has_all else 3 <= n_mapped < 20, n_mapped
    assert (f"eat-maps were made for {n_mapped} of the {len(samples)} test images shown, of 60" in text) == (
        not has_all
    )


@pytest.mark.parametrize("budget", [0, -1, "soon"])
def test_a_budget_is_a_time_above_0(case, budget):
    with pytest.raises(LookalikeError, match="budget"):
        evaluate(case[0], case[1], budget=budget, **QUICK)


def test_a_report_ends_in_time_and_says_what_it_lacks(case, tmp_path):
    file = tmp_path / "report.html"
    write_report(case[0], case[1], file, budget=1e-9, **QUICK)
    text = file.read_text(encoding="utf-8")
    assert "eat-maps were made for 0 of the 16 test images shown, of 40" in text
    assert "the section on parts" in text
    assert "robustness, which tests whether heat-maps point to pixels that the model needs (no time was left)" in text
    assert "turn to noise in" not in text  # it says of no test how it was made that was not made
    assert "explanations on" not in text
