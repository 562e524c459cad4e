"""A bound on the time of an evaluation and of a report: what is left out, and that nothing else changes."""

import dataclasses

import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics.budget import Budget, Plan, by_worth
from lookalike.metrics.sections import SECTIONS
from lookalike.report import write_report

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


@pytest.mark.parametrize("budget", [0, -1, "soon"])
def test_a_budget_is_a_time_above_0(case, budget):
    with pytest.raises(LookalikeError, match="budget"):
        evaluate(case[0], case[1], budget=budget, **QUICK)


def test_a_report_ends_in_time_and_says_what_it_lacks(case, tmp_path):
    file = tmp_path / "report.html"
    write_report(case[0], case[1], file, budget=1e-9, **QUICK)
    text = file.read_text(encoding="utf-8")
    assert "eat-maps were made for 0 of the 40 test images shown" in text
    assert "the section on parts" in text
    assert "robustness (no time was left)" in text
