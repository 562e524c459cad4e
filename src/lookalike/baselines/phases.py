"""The phases of a training, as readable data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lookalike._core.errors import LookalikeError


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs that train the same parts with the same losses.

    Attributes:
        name: Its name in the log.
        epochs: Number of epochs.
        trains: The parts whose weights change.
        losses: The terms of the loss and their weights.
        still: The parts that stay in eval mode, so that the statistics of their batch norms do not change.
        push: Whether each prototype moves onto the nearest training embedding of its class at the end.
    """

    name: str
    epochs: int
    trains: tuple[str, ...]
    losses: Mapping[str, float] = field(default_factory=dict)
    still: tuple[str, ...] = ()
    push: bool = False


def n_epochs(phases: Sequence[Phase]) -> int:
    """Returns the total number of epochs."""
    return sum(phase.epochs for phase in phases)


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase:
    """Returns the phase of an epoch, counted from 0.

    Raises:
        LookalikeError: If the training has fewer epochs.
    """
    epoch_in_phase = epoch
    for phase in phases:
        if epoch_in_phase < phase.epochs:
            return phase
        epoch_in_phase -= phase.epochs
    raise LookalikeError(f"there is no epoch {epoch}; the training has {n_epochs(phases)}")


def is_last(phases: Sequence[Phase], epoch: int) -> bool:
    """Says whether an epoch, counted from 0, is the last of its phase."""
    return epoch + 1 == n_epochs(phases) or phase_at(phases, epoch) is not phase_at(phases, epoch + 1)
