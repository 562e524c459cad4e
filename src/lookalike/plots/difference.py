"""Why one class rather than another: the parts that decide on the image, and the whole map beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import WHOLE, Extent, cells_of_image
from lookalike.plots.heatmap import paint
from lookalike.plots.regions import colours_of, draw_region
from lookalike.plots.tiles import GAP, Picture, caption_height, draw_tile, tile_axes, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_difference(
    image: np.ndarray,
    by_position: np.ndarray,
    masks: Sequence[np.ndarray],
    caption: str,
    *,
    title: str = "",
    covered: Extent = WHOLE,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an image with outlines of the parts that decide, and beside it what each position adds.

    Args:
        image: uint8 [H, W, C].
        by_position: What each position adds to the lead [h, w].
        masks: The parts that decide, each [h, w], bool.
        caption: Written below the image: a first line, and what the parts add after a line break.
        title: Written below the map, likewise.
        covered: The part of the image that the cells of the map cover: top, left, bottom, right, as shares.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    image = checks.array("image", image, ("H", "W", "C"))
    by_position = checks.array("by_position", by_position, ("h", "w"))
    right = 1 + GAP
    caption, title = wrapped(caption), wrapped(title)
    ax = tile_axes(ax, right + 1, 1 + max(caption_height(caption), caption_height(title)))
    draw_tile(ax, image, 0, 0, caption=caption)
    for mask, colour in zip(masks, colours_of(len(masks)), strict=True):
        draw_region(ax, mask, Picture.at(image, 0, 0), colour, covered)
    height, width = by_position.shape
    cells = cells_of_image((height, width), (image.shape[0], image.shape[1]), covered)
    pixels = np.where(cells >= 0, by_position.ravel()[cells], 0)
    limit = float(np.abs(by_position).max()) or 1.0
    draw_tile(ax, paint(pixels / limit, 1.0, image), right, 0, caption=title)
    return ax
