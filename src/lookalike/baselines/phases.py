"""How a training runs, as data that a person can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lookalike._core.errors import LookalikeError


@dataclass(frozen=True)
class Phase:
    """Some epochs in which the same parts learn from the same losses.

    Attributes:
        name: What it is called in the log.
        epochs: How many.
        trains: The parts whose weights change.
        losses: The terms of the loss and their weights.
        still: The parts that stay in eval mode, their batch norms' statistics included.
        push: Whether, at its end, each prototype becomes the nearest training embedding of its class.
    """

    name: str
    epochs: int
    trains: tuple[str, ...]
    losses: Mapping[str, float] = field(default_factory=dict)
    still: tuple[str, ...] = ()
    push: bool = False


def n_epochs(phases: Sequence[Phase]) -> int:
    """Returns how many epochs the phases have together."""
    return sum(phase.epochs for phase in phases)


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    """Returns the phase of an epoch, counted from 0.

    Raises:
        LookalikeError: If the training has fewer epochs.
    """
    rest = epoch
    for phase in phases:
        if rest < phase.epochs:
            return phase
        rest -= phase.epochs
    raise LookalikeError(f"there is no epoch {epoch}; the training has {n_epochs(phases)}")


def is_last(phases: Sequence[Phase], epoch: int) -> bool:
    """Says whether an epoch, counted from 0, is the last of its phase."""
    return epoch + 1 == n_epochs(phases) or phase_at(phases, epoch) is not phase_at(phases, epoch + 1)
