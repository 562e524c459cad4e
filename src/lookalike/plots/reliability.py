"""The reliability diagram: how often predictions are correct, by how sure they sound."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lookalike._core import checks
from lookalike.plots.radar import SERIES
from lookalike.plots.tiles import INK, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_reliability(
    confidence: Sequence[float | None],
    accuracy: Sequence[float | None],
    counts: Sequence[int],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the accuracy of each bin over its mean confidence; on the diagonal, probabilities can be read as chances.

    Args:
        confidence: Mean probability of the predicted class in each bin [B]; None for an empty bin.
        accuracy: Share of correct predictions in each bin [B]; None for an empty bin.
        counts: Number of predictions in each bin [B]; larger bins have larger dots.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    sizes = checks.array("counts", counts, ("B",), "whole")
    ax = plain_axes(ax, (3.4, 3.2))
    bins = [
        (mean, share, int(n))
        for mean, share, n in zip(confidence, accuracy, sizes, strict=True)
        if n and mean is not None and share is not None
    ]
    largest = max((n for *_, n in bins), default=1)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="as sure as correct")
    ax.scatter(
        [mean for mean, *_ in bins],
        [share for _, share, _ in bins],
        s=[15 + 120 * n / largest for *_, n in bins],
        color=SERIES[0],
        label="predictions, by probability",
    )
    ax.set_xlabel("probability of the predicted class", color=INK, fontsize=9)
    ax.set_ylabel("share that is correct", color=INK, fontsize=9)
    ax.set_xlim(0, 1.03)
    ax.set_ylim(0, 1.03)
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return ax
