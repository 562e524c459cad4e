"""Regions of a grid on a picture: their colours, cells and outlines."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# told apart by people with any colour vision, on dark and on bright pictures (Okabe and Ito, 2008)
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
_TINT = 0.25  # opacity
_INSET = 0.011  # tiles: half the width of a line
_MANY = "tab20"  # for more regions than colours


def colours_of(number: int) -> np.ndarray:
    """Returns colours for a number of regions, RGB from 0 to 1 [n, 3]."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if number <= len(COLOURS):
        return np.array([to_rgb(colour) for colour in COLOURS[:number]]).reshape(-1, 3)
    return colormaps[_MANY](np.arange(number) % 20)[:, :3]


def picture_extent(image: np.ndarray, x: float, y: float, size: float = 1.0) -> tuple[float, float, float, float]:
    """Returns left, right, bottom and top of a picture [H, W, C] that ``draw_tile`` fits into a square at (x, y)."""
    height, width = np.array(image.shape[:2]) * size / max(image.shape[:2])
    left, top = x + (size - width) / 2, y + (size - height) / 2
    return left, left + width, top + height, top


def draw_region(ax: "Axes", mask: np.ndarray, extent: tuple[float, float, float, float], colour: Any) -> None:
    """Draws a mask [h, w] on a picture: its cells in a tint, and their border within them.

    The tint tells the inside from a hole. The border keeps within the mask, so that those of neighbours are both seen.
    """
    from matplotlib.colors import to_rgb

    tint = np.concatenate([np.broadcast_to(to_rgb(colour), (*mask.shape, 3)), _TINT * mask[..., None]], 2)
    ax.imshow(tint, extent=extent, interpolation="nearest", aspect="equal")
    left, right, bottom, top = extent
    rows, columns = mask.shape
    padded = np.pad(mask, 1)
    xs, ys = np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)
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
