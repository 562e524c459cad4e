"""Prototypes that are patches of images, each framed on its training image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import Extent
from lookalike.plots.regions import draw_frame
from lookalike.plots.tiles import (
    CAPTION,
    GAP,
    INK,
    LINE,
    MUTED,
    TILE_INCHES,
    WRONG,
    Picture,
    draw_tile,
    new_axes,
    shorten,
    tile_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_LENGTH = 18  # characters of a class name
_LEGEND_WIDTH = 4.4  # tiles; a narrower figure would cut off the legend
_LEGEND = "framed: the patch of a training image nearest to the prototype · below: number · purity"


def plot_patches(
    images: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    purity: np.ndarray,
    classes: Sequence[int] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws patch prototypes as red rectangles on their nearest training images, a row per class (paper, Figure 10).

    Args:
        images: Nearest training image of each prototype, uint8 [P, H, W, C].
        boxes: Top, left, bottom and right of each patch, as shares of height and width [P, 4].
        labels: Labels of the prototypes [P].
        class_names: Names of the K classes.
        purity: Share of the training patches nearest to a prototype that are of its class [P]; NaN without any.
        classes: Classes to draw; None draws all that have prototypes.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    class_names = checks.names("class_names", class_names)
    images = checks.array("images", images, ("P", "H", "W", "C"))
    boxes = checks.array("boxes", boxes, (len(images), 4))
    labels = checks.labels_of("labels", labels, class_names, len(images))
    purity = checks.array("purity", purity, (len(images),))
    if classes is not None:
        classes = checks.labels_of("classes", classes, class_names).tolist()
    classes_drawn = sorted({int(k) for k in labels}) if classes is None else list(classes)
    prototypes_by_class = [np.flatnonzero(labels == k) for k in classes_drawn]
    names = [shorten(class_names[k], _NAME_LENGTH) for k in classes_drawn]
    margin = _margin(names)
    columns, rows = _extent(names, max((len(m) for m in prototypes_by_class), default=1))
    ax = tile_axes(ax, columns, rows)
    size = 0.96
    for row, prototypes in enumerate(prototypes_by_class):
        y = row * (1 + CAPTION)
        ax.text(margin - 0.15, y + 0.5, names[row], ha="right", va="center", fontsize=10, color=INK)
        for column, j in enumerate(prototypes):
            x = margin + column * (1 + GAP)
            purity_text = "unused" if np.isnan(purity[j]) else f"{purity[j]:.0%}"
            draw_tile(ax, images[j], x, y, caption=f"{j}: {purity_text}", size=size)
            draw_frame(ax, Picture.at(images[j], x, y, size), Extent(*boxes[j]), WRONG)
    ax.text(0.1, rows - LINE, _LEGEND, ha="left", va="center", fontsize=7.5, color=MUTED, style="italic")
    return ax


def patch_axes(class_names: Sequence[str], per_class: int) -> "Axes":
    """Makes a figure that fits the patches, without a window. Save it with ``ax.figure.savefig``."""
    class_names = checks.names("class_names", class_names)
    per_class = checks.whole_number("per_class", per_class, 0)
    columns, rows = _extent([shorten(name, _NAME_LENGTH) for name in class_names], per_class)
    return new_axes((columns * TILE_INCHES, rows * TILE_INCHES))


def _margin(names: Sequence[str]) -> float:
    return 0.3 + 0.07 * max((len(name) for name in names), default=1)


def _extent(names: Sequence[str], per_class: int) -> tuple[float, float]:
    """Returns the figure's width and height in tiles, with a line for the legend."""
    return max(_margin(names) + per_class * (1 + GAP), _LEGEND_WIDTH), max(len(names), 1) * (1 + CAPTION) + 2 * LINE
