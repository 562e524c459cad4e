"""Matrix of the similarities between prototypes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import INK, plain_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 30  # class names along the matrix; of more classes, only every second, third, … is named


def plot_similarity_matrix(
    similarities: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the similarity between all pairs of prototypes, sorted by class.

    Args:
        similarities: Similarities by the model's own measure [P, P].
        labels: Labels of the prototypes [P].
        class_names: Names of the K classes.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    class_names = checks.names("class_names", class_names)
    labels = checks.labels_of("labels", labels, class_names)
    similarities = checks.array("similarities", similarities, (len(labels), len(labels)))
    if not len(labels):
        raise LookalikeError("there are no prototypes to draw")
    ax = plain_axes(ax, (4.4, 3.8))
    order = np.argsort(labels, kind="stable")
    image = ax.imshow(similarities[np.ix_(order, order)], cmap="cividis", interpolation="nearest")
    classes, starts = np.unique(labels[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="white", linewidth=0.6)
        ax.axvline(start - 0.5, color="white", linewidth=0.6)
    step = -(-len(classes) // _MOST_NAMES)
    names = [shorten(class_names[int(k)], 12) for k in classes][::step]
    centres = ((starts + ends - 1) / 2)[::step]
    long_names = max(map(len, names)) > 3
    ax.set_xticks(centres, names, rotation=90 if long_names else 0, fontsize=8, color=INK)
    ax.set_yticks(centres, names, fontsize=8, color=INK)
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(image, ax=ax, shrink=0.85)
        bar.set_label("similarity", color=INK, fontsize=8)
        bar.ax.tick_params(labelsize=7, colors=INK)
    return ax
