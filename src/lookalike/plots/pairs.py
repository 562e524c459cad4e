"""Two images with linked outlines: this part here looks like that part there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import WHOLE, Extent
from lookalike.plots.regions import colours_of, draw_region
from lookalike.plots.tiles import MUTED, Picture, caption_height, draw_tile, tile_axes, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BETWEEN = 0.5  # tiles between the images, for the links
_NOTE = 0.16  # height of the note below the captions, in tiles


def plot_pairs(
    image: np.ndarray,
    prototype_image: np.ndarray,
    regions: Sequence[tuple[np.ndarray, np.ndarray, float]],
    captions: tuple[str, str],
    *,
    note: str = "",
    covered: tuple[Extent, Extent] = (WHOLE, WHOLE),
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an input and a prototype's image; corresponding regions have outlines of one colour, joined by a line.

    Args:
        image: The input, uint8 [H, W, C].
        prototype_image: uint8 [H, W, C].
        regions: Region of the input [h, w], region of the prototype's image [h, w], and the share that the pair
            carries.
        captions: Of the two images.
        note: A line below, such as "no part explains this".
        covered: The part of each image that the cells of its regions cover: top, left, bottom, right, as shares.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    image = checks.array("image", image, ("H", "W", "C"))
    prototype_image = checks.array("prototype_image", prototype_image, ("H", "W", "C"))
    right = 1 + _BETWEEN
    lines = [wrapped(caption) for caption in captions]
    below = 1 + max(caption_height(caption) for caption in lines)
    ax = tile_axes(ax, 2 + _BETWEEN, below + (_NOTE if note else 0))
    draw_tile(ax, image, 0, 0, caption=lines[0])
    draw_tile(ax, prototype_image, right, 0, caption=lines[1])
    pictures = Picture.at(image, 0, 0), Picture.at(prototype_image, right, 0)
    for number, ((here, there, share), colour) in enumerate(zip(regions, colours_of(len(regions)), strict=True)):
        draw_region(ax, here, pictures[0], colour, covered[0])
        draw_region(ax, there, pictures[1], colour, covered[1])
        y = 0.2 + 0.28 * number
        ax.plot([1.05, right - 0.05], [y, y], color=colour, linewidth=2.2)
        ax.text(1 + _BETWEEN / 2, y - 0.03, f"{share:.0%}", ha="center", va="bottom", fontsize=8, color=MUTED)
    if note:
        ax.text(
            1 + _BETWEEN / 2, below + _NOTE / 2, note, ha="center", va="center", fontsize=8, color=MUTED, style="italic"
        )
    return ax
