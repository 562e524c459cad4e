"""Bar chart of the activations of each prototype (paper section 4.3.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.radar import SERIES
from lookalike.plots.tiles import INK, MUTED, WRONG, plain_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 30  # class names below the bars; of more classes, only every second, third, … is named


def plot_activations(
    counts: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws a bar for each prototype, grouped by class. Prototypes that are never activated (ghosts) have a red cross.

    Args:
        counts: Number of training samples that activate each prototype [P].
        labels: Labels of the prototypes [P].
        class_names: Names of the K classes.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    class_names = checks.names("class_names", class_names)
    counts = checks.array("counts", counts, ("P",))
    labels = checks.labels_of("labels", labels, class_names, len(counts))
    if not len(counts):
        raise LookalikeError("there are no prototypes to draw")
    ax = plain_axes(ax, (min(12.0, max(4.4, 0.14 * len(counts))), 2.6))
    order = np.argsort(labels, kind="stable")
    group = np.searchsorted(np.unique(labels), labels[order])
    positions = np.arange(len(order)) + 0.8 * group  # a gap between classes
    colours = [SERIES[g % 2 * 2] for g in group]
    ax.bar(positions, counts[order], width=0.85, color=colours)
    ghosts = counts[order] == 0
    if ghosts.any():
        ax.plot(positions[ghosts], np.zeros(int(ghosts.sum())), "x", color=WRONG, markersize=6, label="never activated")
        ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    classes = np.unique(labels)
    centres = [positions[labels[order] == k].mean() for k in classes]
    step = -(-len(classes) // _MOST_NAMES)
    names = [shorten(class_names[int(k)], 12) for k in classes]
    long_names = max(map(len, names)) > 4
    ax.set_xticks(
        centres[::step],
        names[::step],
        rotation=45 if long_names else 0,
        ha="right" if long_names else "center",
        fontsize=8,
        color=INK,
    )
    ax.set_xlim(positions.min() - 1, positions.max() + 1)
    ax.set_ylabel("training images", color=INK, fontsize=9)
    ax.set_xlabel("prototypes by class", color=MUTED, fontsize=8)
    return ax
