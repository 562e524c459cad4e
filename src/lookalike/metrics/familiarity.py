"""How many test images are unfamiliar, and how often the answers on these are wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lookalike._core.wording import why_unfamiliar
from lookalike.metrics.findings import Finding

_MANY = 0.1  # of the test images: ten times the usual rate of false alarms [ours]


@dataclass(frozen=True)
class Familiarity:
    """Counts of unfamiliar and other test images.

    Attributes:
        n: Number of unfamiliar images.
        n_wrong: Number of wrong answers on them.
        n_others: Number of other images.
        n_others_wrong: Number of wrong answers on the others.
        is_calibrated: Whether the novelty score of a calibration decided it, and not the distance.
        of_patches: Whether the distances are those of patches.
    """

    n: int
    n_wrong: int
    n_others: int
    n_others_wrong: int
    is_calibrated: bool
    of_patches: bool = False  # in scorecards of earlier versions, which do not say it

    @classmethod
    def of(cls, unfamiliar: np.ndarray, wrong: np.ndarray, *, is_calibrated: bool, of_patches: bool) -> "Familiarity":
        """Counts images by whether they are unfamiliar [N] and wrong [N]."""
        return cls(
            int(unfamiliar.sum()),
            int((unfamiliar & wrong).sum()),
            int((~unfamiliar).sum()),
            int((~unfamiliar & wrong).sum()),
            is_calibrated,
            of_patches,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def familiarity_finding(counts: Mapping[str, Any] | None) -> Finding | None:
    """Says how many test images are unfamiliar, if over a tenth are.

    Args:
        counts: The values of ``Familiarity.to_dict``; None if it was not measured.
    """
    if counts is None:
        return None
    counted = Familiarity(**counts)
    total = counted.n + counted.n_others
    if counted.n <= _MANY * total:
        return None
    share = f"{counted.n_wrong / counted.n:.1%}"
    why = why_unfamiliar(is_calibrated=counted.is_calibrated, of_patches=counted.of_patches)
    others = ""
    if counted.n_others:
        of_others = f"{counted.n_others_wrong:,} of the other {counted.n_others:,}"
        others = f", and {of_others} ({counted.n_others_wrong / counted.n_others:.1%})"
    return Finding(
        "unfamiliar",
        "caution",
        f"{counted.n:,} of the {total:,} test images are unfamiliar. Of these {counted.n:,} answers, "
        f"{counted.n_wrong:,} {'is' if counted.n_wrong == 1 else 'are'} wrong ({share}){others}. "
        f"Unfamiliar means of an image: {why}.",
    )
