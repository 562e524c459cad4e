"""The accuracy-rejection curve: how accurate a model is if it answers only when it is sure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lookalike._core import checks
from lookalike.plots.radar import SERIES
from lookalike.plots.tiles import INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_rejection(
    shares: Sequence[float], accuracy: Sequence[float], chosen: float | None = None, *, ax: "Axes | None" = None
) -> "Axes":
    """Draws the accuracy over the share of inputs that are answered, the surest first.

    Args:
        shares: Shares of answered inputs, ascending [n].
        accuracy: Share of correct answers among these [n].
        chosen: Share that is answered with a bound on the errors; None draws no mark.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    shares = checks.array("shares", shares, ("n",)).tolist()
    accuracy = checks.array("accuracy", accuracy, (len(shares),)).tolist()
    ax = plain_axes(ax, (3.8, 3.2))
    ax.plot([100 * share for share in shares], [100 * value for value in accuracy], color=SERIES[0], linewidth=1.8)
    if chosen:
        ax.axvline(100 * chosen, color=INK, linewidth=1, linestyle=":", label="answered within the bound")
        ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    ax.set_xlabel("answered (%), the surest first", color=INK, fontsize=9)
    ax.set_ylabel("of these correct (%)", color=INK, fontsize=9)
    ax.set_xlim(0, 102)
    return ax
