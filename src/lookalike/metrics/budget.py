"""A bound on the time of an evaluation: what fits is measured, the most worthwhile first, and the rest is left out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
_LEAST_SHARE = 0.03  # of the budget must be left to begin a section whose time cannot be told beforehand [ours]
_BATCH_SHARE = 0.04  # of the budget may pass between two looks at the clock
_READING_SHARE = 0.3  # of the time left may go into reading the training images
_ALWAYS = ("faithfulness", "transparency", "calibration", "diversity")  # the embeddings tell them at once
# First how good the model is, which the embeddings tell at once; then what its explanations are worth; then the rest.
_WORTH = (
    "faithfulness", "same_embedding", "transparency", "calibration", "diversity", "attributes", "explanations",
    "robustness", "localisation", "embedding",
)  # fmt: skip

_IN_WORDS = {
    "robustness": ", which tests whether heat-maps point to pixels that the model needs",
    "explanations": ", which compares the heat-maps with the original's",
    "localisation": ", which tests whether heat-maps are on the objects",
    "sanity": ", which tests whether heat-maps depend on what the network learned",
}  # sections whose names do not tell a reader what is missing


class OutOfTimeError(Exception):
    """Ends a section in the middle: the time is over."""


class Budget:
    """Seconds that may pass from now on.

    Args:
        seconds: The bound.
        started: When it began, by ``time.monotonic``; None is now.
        asked: The bound that the user gave, of which this is a part; None if it is the whole.
        clock: Returns the seconds that have passed since some moment.

    Attributes:
        seconds_per_image: Seconds that it took to read and embed an image; 0 as long as none was.
    """

    seconds_per_image: float = 0.0

    def __init__(
        self,
        seconds: float,
        started: float | None = None,
        asked: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = checks.number("budget", seconds, above=0)
        self.asked = self.seconds if asked is None else asked
        self.clock = clock
        self._started = clock() if started is None else started

    @property
    def left(self) -> float:
        """Seconds left; negative if the time is over."""
        return self.seconds - (self.clock() - self._started)

    @classmethod
    def of(cls, budget: "float | Budget | None") -> "Budget | None":
        """Returns a budget that begins now, or the given one, which has begun; None for None."""
        return budget if budget is None or isinstance(budget, Budget) else cls(budget)

    def left_out(self, names: str) -> str:
        """Returns a sentence on what was left out."""
        return f"left out, to end within the budget of {duration(self.asked)}: {names}"

    def part_of_left(self, share: float) -> "Budget":
        """Returns a budget that begins now and ends after a share of the time that is left."""
        part = Budget(max(share * self.left, 1e-9), self.clock(), self.asked, self.clock)
        part.seconds_per_image = self.seconds_per_image
        return part

    def allows_reading(self, n_images: int | None) -> bool:
        """Says whether there is time to read and embed so many images; not if nobody knows how many."""
        return n_images is not None and n_images * self.seconds_per_image <= _READING_SHARE * self.left

    @staticmethod
    @contextmanager
    def embedding_within(budget: "Budget | None") -> Iterator[Callable[[int], None]]:
        """Learns from its block, which reads and embeds images, how long one takes; the block says how many it read."""
        started = 0.0 if budget is None else budget.clock()

        def took(n_images: int) -> None:
            if budget is not None:
                budget.seconds_per_image = (budget.clock() - started) / max(n_images, 1)

        yield took

    def at_once(self, seconds_per_image: float, most: int) -> int:
        """Returns how many images to handle between two looks at the clock, 1 to ``most``."""
        return max(1, min(most, int(_BATCH_SHARE * self.seconds / max(seconds_per_image, 1e-9))))

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
        pace: How much longer than expected the sections took that were measured, at least 1.
    """

    budget: Budget | None
    estimates: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    pace: float = 1.0

    def admits(self, section: Section) -> bool:
        """Says whether a section still fits, and notes it if it does not."""
        if self.budget is None or section.name in _ALWAYS:
            return True
        left = self.budget.left
        unknown = _LEAST_SHARE * self.budget.seconds
        expected = self.pace * self.estimates[section.name] if section.name in self.estimates else unknown
        if left > 0 and expected <= left:
            return True
        reason = f"it takes about {duration(expected)}" if left > 0 else "no time was left"
        self.left_out.setdefault(section.name, reason)
        return False

    def measured(self, section: Section, seconds: float) -> None:
        """Learns from a section how much longer than expected the others will take."""
        expected = self.estimates.get(section.name)
        if expected:
            self.pace = max(1.0, seconds / expected)

    def stopped(self, section: Section) -> None:
        """Notes a section that ran out of time."""
        self.left_out[section.name] = "stopped when the time was over"

    def notes(self) -> list[str]:
        """Returns a sentence on what was left out."""
        if self.budget is None or not self.left_out:
            return []
        names = "; ".join(f"{name}{_IN_WORDS.get(name, '')} ({reason})" for name, reason in self.left_out.items())
        return [self.budget.left_out(names)]

    def announcement(self, n_runs: int) -> str | None:
        """Returns a sentence on the time that the sections will take; None if nothing takes long."""
        if self.budget is None or not self.estimates:
            return None
        times = ", ".join(f"{name} {duration(seconds * n_runs)}" for name, seconds in self.estimates.items())
        return f"Evaluating within {duration(max(self.budget.left, 0))}; expected: {times}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        seconds = None if self.budget is None else self.budget.asked
        return {"seconds": seconds, "estimates": self.estimates, "left_out": self.left_out}


def by_worth(sections: Sequence[Section]) -> list[Section]:
    """Returns the sections, the most worthwhile first; those that are only measured on request come last."""
    rank = {name: position for position, name in enumerate(_WORTH)}
    return sorted(sections, key=lambda section: rank.get(section.name, len(rank)))


def plan(context: Context, sections: Sequence[Section], budget: Budget | None) -> Plan:
    """Estimates the time of the sections that take most of it, by a few passes and maps.

    The context then makes no more maps at once than lets the clock be looked at often.
    """
    planned, names = Plan(budget), {section.name for section in sections}
    if budget is None or budget.left <= 0 or not names & {"explanations", "robustness"}:
        return planned
    options, n = context.options, len(context.sample(0))
    of_row, of_map = _time_of_a_row(context, budget.clock), _time_of_a_map(context, budget.clock)
    context.maps_batch = budget.at_once(3 * of_map, context.maps_batch)
    n_classifiers = 1 if context.black_box is None else 2
    if "explanations" in names:  # the model's head and two controls from one pass, and the black box
        planned.estimates["explanations"] = n * 3 * of_map
    if "robustness" in names:
        rows = context.passes.ordering_rows(n, options.n_steps, options.n_draws) + n * (1 + options.n_draws)
        n_maps = n * (1 if "explanations" in names else n_classifiers)  # the black box's maps are made once
        planned.estimates["robustness"] = rows * of_row + n_maps * of_map
    return planned


def _time_of_a_row(context: Context, clock: Callable[[], float]) -> float:
    rows = context.images(0)[:_TRIED_ROWS]
    with torch.no_grad():
        context.passes.embeddings(rows)  # the first pass prepares weights
        started = clock()
        context.passes.embeddings(rows).sum().item()  # reading a value waits for the device
    return (clock() - started) / len(rows)


def _time_of_a_map(context: Context, clock: Callable[[], float]) -> float:
    rows = context.images(0)[:_TRIED_MAPS]
    prototypes = context.nearest(0)[:_TRIED_MAPS, None]
    try:
        context.explain_likeness(rows[:1], prototypes[:1])
        started = clock()
        context.explain_likeness(rows, prototypes).sum().item()
    except RelevanceError:  # there are no maps: the sections that need them say why
        return 0.0
    return (clock() - started) / len(rows)
