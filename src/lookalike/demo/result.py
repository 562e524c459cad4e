"""What a demonstration returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """Results of the demonstration.

    Attributes:
        summary: Figures in ``summary.json``.
        rows: Table with a row per converted model: its name and figures.
        notes: Further remarks, such as on the data.
        verdict: Sentences of the first model's scorecard.
    """

    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
