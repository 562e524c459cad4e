"""How often each prototype is activated (paper section 4.3.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.radar import SERIES
from lookalike.plots.tiles import INK, MUTED, WRONG, plain_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 30


def plot_activations(
    counts: Sequence[int] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws a bar for each prototype, class by class; ghosts, which are never activated, are marked in red.

    Args:
        counts: How many training samples activate each prototype [P].
        labels: The prototypes' classes [P].
        class_names: K names.
        ax: Where to; None makes a figure.

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
    places = np.arange(len(order)) + 0.8 * group  # a gap between classes
    colours = [SERIES[g % 2 * 2] for g in group]
    ax.bar(places, counts[order], width=0.85, color=colours)
    ghosts = counts[order] == 0
    if ghosts.any():
        ax.plot(places[ghosts], np.zeros(int(ghosts.sum())), "x", color=WRONG, markersize=6, label="never activated")
        ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    classes = np.unique(labels)
    centres = [places[labels[order] == k].mean() for k in classes]
    step = -(-len(classes) // _NAMED)
    names = [shorten(class_names[int(k)], 12) for k in classes]
    turned = max(map(len, names)) > 4
    ax.set_xticks(
        centres[::step],
        names[::step],
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        fontsize=8,
        color=INK,
    )
    ax.set_xlim(places.min() - 1, places.max() + 1)
    ax.set_ylabel("training images", color=INK, fontsize=9)
    ax.set_xlabel("prototypes by class", color=MUTED, fontsize=8)
    return ax
