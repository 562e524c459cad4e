"""Prototypes to look at: impure, starved, or resting on one source of images [ours]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lookalike._core.wording import counted
from lookalike.model.prototypes import Prototypes

_IMPURE = 0.75  # of the samples most similar to a prototype, of its own class
_STARVED = 0.1  # of the usual number of samples behind a prototype of its class
_ONE_SOURCE, _ELSEWHERE = 0.9, 0.5  # share of a source behind a prototype, and at most in its class
_LEAST = 5  # samples behind a prototype, to say something about their source


@dataclass(frozen=True)
class PrototypeFault:
    """A prototype to look at.

    Attributes:
        kind: ``"impure"``, ``"starved"`` or ``"one source"``.
        prototype: Its number.
        score: From 0 to 1; the larger, the worse.
        reason: Why, in one sentence.
    """

    kind: Literal["impure", "starved", "one source"]
    prototype: int
    score: float
    reason: str


def prototype_faults(
    prototypes: Prototypes, behind: np.ndarray, sources: Sequence[str] | None = None
) -> list[PrototypeFault]:
    """Looks at each prototype.

    Args:
        prototypes: The prototypes, with the training data behind each.
        behind: The prototype of its own class that each training sample is most similar to [N].
        sources: Where each sample comes from [N], such as the camera; None if that is not known.
    """
    faults = []
    for j in range(len(prototypes)):
        name, count, purity = prototypes.class_of(j), int(prototypes.counts[j]), float(prototypes.purity[j])
        of_class = prototypes.labels == prototypes.labels[j]
        usual = float(prototypes.counts[of_class].float().mean())
        if purity < _IMPURE:
            reason = f"prototype {j} ({name}): only {purity:.0%} of the images most similar to it are of {name!r}"
            faults.append(PrototypeFault("impure", j, 1 - purity, reason))
        if count < _STARVED * usual or count == 0:
            reason = (
                f"prototype {j} ({name}): {counted(count, 'image')} behind it, where {usual:.0f} "
                f"{'is' if round(usual) == 1 else 'are'} usual in its class"
            )
            faults.append(PrototypeFault("starved", j, 1 - count / max(usual, 1.0), reason))
        if sources is not None:
            faults += _one_source(prototypes, j, behind, sources)
    return sorted(faults, key=lambda fault: -fault.score)


def _one_source(prototypes: Prototypes, j: int, behind: np.ndarray, sources: Sequence[str]) -> list[PrototypeFault]:
    """Compares the sources behind a prototype with those of its class."""
    rows = np.flatnonzero(behind == j).tolist()
    of_its_class = np.flatnonzero((prototypes.labels == prototypes.labels[j]).numpy())
    of_class = np.flatnonzero(np.isin(behind, of_its_class)).tolist()
    if len(rows) < _LEAST:
        return []
    names, counts = np.unique([sources[row] for row in rows], return_counts=True)
    source, share = str(names[counts.argmax()]), float(counts.max() / len(rows))
    in_class = sum(sources[row] == source for row in of_class) / len(of_class)
    if share < _ONE_SOURCE or in_class > _ELSEWHERE:
        return []
    reason = (
        f"prototype {j} ({prototypes.class_of(j)}): {share:.0%} of the images behind it come from {source!r}, of its "
        f"class {in_class:.0%}"
    )
    return [PrototypeFault("one source", j, share - in_class, reason)]
