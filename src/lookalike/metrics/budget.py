"""A bound on the time of an evaluation: what fits is measured, the most worthwhile first, and the rest is left out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lookalike._core import checks
from lookalike._core.errors import RelevanceError
from lookalike._core.progress import duration
from lookalike.metrics.context import Context
from lookalike.metrics.sections import Section

_TRIED_ROWS = 4  # images that pass to learn the time of a pass
_TRIED_MAPS = 2
_ALWAYS = ("faithfulness", "transparency", "calibration", "diversity")  # the embeddings tell them at once
# First how good the model is, which the embeddings tell at once; then what its explanations are worth; then the rest.
_WORTH = (
    "faithfulness", "same_embedding", "transparency", "calibration", "diversity", "attributes", "explanations",
    "robustness", "localisation", "embedding",
)  # fmt: skip


class OutOfTimeError(Exception):
    """Ends a section in the middle: the time is over."""


class Budget:
    """Seconds that may pass from now on.

    Args:
        seconds: The bound.
        started: When it began, by ``time.monotonic``; None is now.
        asked: The bound that the user gave, of which this is a part; None if it is the whole.
    """

    def __init__(self, seconds: float, started: float | None = None, asked: float | None = None) -> None:
        self.seconds = checks.number("budget", seconds, above=0)
        self.asked = self.seconds if asked is None else asked
        self._started = time.monotonic() if started is None else started

    @property
    def left(self) -> float:
        """Seconds left; negative if the time is over."""
        return self.seconds - (time.monotonic() - self._started)

    @classmethod
    def of(cls, budget: "float | Budget | None") -> "Budget | None":
        """Returns a budget that begins now, or the given one, which has begun; None for None."""
        return budget if budget is None or isinstance(budget, Budget) else cls(budget)

    def left_out(self, names: str) -> str:
        """Returns a sentence on what was left out."""
        return f"left out, to end within the budget of {duration(self.asked)}: {names}"

    def part(self, share: float) -> "Budget":
        """Returns the budget that ends after a share of this one."""
        return Budget(share * self.seconds, self._started, self.asked)

    def stopping(self, advance: Callable[[int], object]) -> Callable[[int], object]:
        """Returns a function that advances a bar, and stops the work if the time is over.

        Raises:
            OutOfTimeError: When it is called and the time is over.
        """

        def advance_or_stop(steps: int = 1) -> None:
            advance(steps)
            if self.left < 0:
                raise OutOfTimeError

        return advance_or_stop


@dataclass
class Plan:
    """Which sections are measured within a budget.

    Attributes:
        budget: The budget; None without a bound.
        estimates: Expected seconds of a run by section, as far as they can be told beforehand.
        left_out: Why each section was left out, by its name.
    """

    budget: Budget | None
    estimates: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def admits(self, section: Section) -> bool:
        """Says whether a section still fits, and notes it if it does not."""
        if self.budget is None or section.name in _ALWAYS:
            return True
        left, expected = self.budget.left, self.estimates.get(section.name, 0.0)
        if left > 0 and expected <= left:
            return True
        reason = f"it takes about {duration(expected)}" if left > 0 else "no time was left"
        self.left_out.setdefault(section.name, reason)
        return False

    def stopped(self, section: Section) -> None:
        """Notes a section that ran out of time."""
        self.left_out[section.name] = "stopped when the time was over"

    def notes(self) -> list[str]:
        """Returns a sentence on what was left out."""
        if self.budget is None or not self.left_out:
            return []
        names = "; ".join(f"{name} ({reason})" for name, reason in self.left_out.items())
        return [self.budget.left_out(names)]

    def announcement(self, n_runs: int) -> str | None:
        """Returns a sentence on the time that the sections will take; None if nothing takes long."""
        if self.budget is None or not self.estimates:
            return None
        times = ", ".join(f"{name} about {duration(seconds * n_runs)}" for name, seconds in self.estimates.items())
        return f"Evaluating within {duration(max(self.budget.left, 0))}: {times}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        seconds = None if self.budget is None else self.budget.asked
        return {"seconds": seconds, "estimates": self.estimates, "left_out": self.left_out}


def by_worth(sections: Sequence[Section]) -> list[Section]:
    """Returns the sections, the most worthwhile first; those that are only measured on request come last."""
    rank = {name: position for position, name in enumerate(_WORTH)}
    return sorted(sections, key=lambda section: rank.get(section.name, len(rank)))


def plan(context: Context, sections: Sequence[Section], budget: Budget | None) -> Plan:
    """Estimates the time of the sections that take most of it, by a few passes and maps."""
    planned, names = Plan(budget), {section.name for section in sections}
    if budget is None or budget.left <= 0 or not names & {"explanations", "robustness"}:
        return planned
    options, n = context.options, len(context.sample(0))
    of_row, of_map = _time_of_a_row(context), _time_of_a_map(context)
    n_classifiers = 1 if context.black_box is None else 2
    if "explanations" in names:  # the model's head and two controls from one pass, and the black box
        planned.estimates["explanations"] = n * 3 * of_map
    if "robustness" in names:
        rows = context.passes.ordering_rows(n, options.n_steps, options.n_draws) + n * (1 + options.n_draws)
        n_maps = n * (1 if "explanations" in names else n_classifiers)  # the black box's maps are made once
        planned.estimates["robustness"] = rows * of_row + n_maps * of_map
    return planned


def _time_of_a_row(context: Context) -> float:
    rows = context.images(0)[:_TRIED_ROWS]
    with torch.no_grad():
        context.passes.embeddings(rows)  # the first pass prepares weights
        started = time.monotonic()
        context.passes.embeddings(rows).sum().item()  # reading a value waits for the device
    return (time.monotonic() - started) / len(rows)


def _time_of_a_map(context: Context) -> float:
    rows = context.images(0)[:_TRIED_MAPS]
    prototypes = context.nearest(0)[:_TRIED_MAPS, None]
    try:
        context.explain_likeness(rows[:1], prototypes[:1])
        started = time.monotonic()
        context.explain_likeness(rows, prototypes).sum().item()
    except RelevanceError:  # there are no maps: the sections that need them say why
        return 0.0
    return (time.monotonic() - started) / len(rows)
