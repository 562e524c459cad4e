"""Why one class rather than another: the parts that decide on the image, and the whole map beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike.plots.heatmap import paint
from lookalike.plots.regions import colours_of, draw_outline, picture_extent
from lookalike.plots.tiles import CAPTION, GAP, draw_tile, shorten, tile_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_difference(
    image: np.ndarray,
    by_position: np.ndarray,
    masks: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    title: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an image with outlines of the parts that decide, and beside it what each position adds.

    Args:
        image: uint8 [H, W, C].
        by_position: What each position adds to the lead [h, w].
        masks: The parts that decide, each [h, w], bool.
        captions: What each part adds; the first is written below the image.
        title: Written below the map.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    image = checks.array("image", image, ("H", "W", "C"))
    by_position = checks.array("by_position", by_position, ("h", "w"))
    right = 1 + GAP
    ax = tile_axes(ax, right + 1, 1 + CAPTION)
    draw_tile(ax, image, 0, 0, caption=shorten(captions[0], 24) if captions else "no part decides")
    for mask, colour in zip(masks, colours_of(len(masks)), strict=True):
        draw_outline(ax, mask, picture_extent(image, 0, 0), colour)
    rows = np.arange(image.shape[0]) * by_position.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * by_position.shape[1] // image.shape[1]
    pixels = by_position[np.ix_(rows, columns)]
    limit = float(np.abs(by_position).max()) or 1.0
    draw_tile(ax, paint(pixels / limit, 1.0, image), right, 0, caption=shorten(title, 24))
    return ax
