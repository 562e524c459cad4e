"""Regions of a grid on a picture: their colours, cells and outlines."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike._core.extent import WHOLE, Extent
from lookalike.plots.tiles import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# told apart by people with any colour vision, on dark and on bright pictures (Okabe and Ito, 2008)
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
_TINT = 0.25  # opacity
_INSET = 0.011  # tiles: half the width of a line
_MANY = "tab20"  # for more regions than colours
_TONES = ((0.9, 0.95), (0.45, 0.9), (0.9, 0.6))  # saturation and value, for still more


def colours_of(number: int) -> np.ndarray:
    """Returns colours for a number of regions, RGB from 0 to 1 [n, 3]; no two are the same."""
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb, to_rgb

    if number <= len(COLOURS):
        return np.array([to_rgb(colour) for colour in COLOURS[:number]]).reshape(-1, 3)
    if number <= colormaps[_MANY].N:
        return colormaps[_MANY](np.arange(number))[:, :3]
    tones = np.array(_TONES)[np.arange(number) % len(_TONES)]
    hues = np.arange(number) / number  # neighbours differ in tone
    colours: np.ndarray = hsv_to_rgb(np.column_stack([hues, tones]))
    return colours


def draw_frame(ax: "Axes", picture: Picture, part: Extent, colour: Any, rank: int = 0) -> None:
    """Draws a frame around a part of a picture, further inside for each rank, so that none hides another."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    within, inset = picture.part(part), 2 * _INSET * rank
    inset = min(inset, within.width / 3, within.height / 3)
    size = within.width - 2 * inset, within.height - 2 * inset
    corner = within.left + inset, within.top + inset
    rim = [withStroke(linewidth=3.2, foreground="white")]  # so that it is seen on a picture of its colour, too
    ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=1.8, path_effects=rim))


def draw_cells(ax: "Axes", colours: np.ndarray, picture: Picture, covered: Extent) -> None:
    """Draws colours [h, w, 4] on the part of a picture that the cells of a grid cover."""
    from matplotlib.patches import Rectangle

    drawn = ax.imshow(colours, extent=picture.part(covered), interpolation="nearest", aspect="equal")
    corner = picture.left, picture.top
    drawn.set_clip_path(Rectangle(corner, picture.width, picture.height, transform=ax.transData))


def draw_region(ax: "Axes", mask: np.ndarray, picture: Picture, colour: Any, covered: Extent = WHOLE) -> None:
    """Draws a mask [h, w] on a picture: its cells in a tint, and their border within them.

    The tint tells the inside from a hole. The border keeps within the mask, so that those of neighbours are both seen.
    """
    from matplotlib.colors import to_rgb

    tint = np.concatenate([np.broadcast_to(to_rgb(colour), (*mask.shape, 3)), _TINT * mask[..., None]], 2)
    draw_cells(ax, tint, picture, covered)
    within = picture.part(covered)
    rows, columns = mask.shape
    padded = np.pad(mask, 1)
    xs = np.linspace(within.left, within.right, columns + 1).clip(picture.left, picture.right)
    ys = np.linspace(within.top, within.bottom, rows + 1).clip(picture.top, picture.bottom)
    for row in range(rows + 1):
        for column in range(columns):
            above, below = padded[row, column + 1], padded[row + 1, column + 1]
            if above != below:
                y = ys[row] + (_INSET if below else -_INSET)
                ax.plot(xs[[column, column + 1]], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
    for row in range(rows):
        for column in range(columns + 1):
            before, after = padded[row + 1, column], padded[row + 1, column + 1]
            if before != after:
                x = xs[column] + (_INSET if after else -_INSET)
                ax.plot([x, x], ys[[row, row + 1]], color=colour, linewidth=1.8, solid_capstyle="round")
