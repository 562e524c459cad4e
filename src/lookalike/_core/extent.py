"""Where the cells of a grid lie on an image: most grids cover it, some a part of it."""

from typing import NamedTuple

import numpy as np


class Extent(NamedTuple):
    """A part of an image: its sides as shares of the image's height and width."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def down(self) -> tuple[float, float]:
        """Where it begins and ends from above to below."""
        return self.top, self.bottom

    @property
    def across(self) -> tuple[float, float]:
        """Where it begins and ends from left to right."""
        return self.left, self.right


WHOLE = Extent(0.0, 0.0, 1.0, 1.0)


def cells_of_pixels(n: int, length: int, start: float, end: float) -> np.ndarray:
    """Returns in which of n cells the middle of each pixel lies along an axis [length]; −1 in none.

    Args:
        n: Number of cells.
        length: Number of pixels.
        start: Where the first cell begins, as a share of the length.
        end: Where the last cell ends.

    Example:
        >>> cells_of_pixels(2, 8, 0.25, 0.75).tolist()
        [-1, -1, 0, 0, 1, 1, -1, -1]
    """
    cells = np.floor(((np.arange(length) + 0.5) / length - start) / (end - start) * n).astype(int)
    cells[(cells < 0) | (cells >= n)] = -1
    return cells


def cells_of_image(grid: tuple[int, int], image_size: tuple[int, int], extent: Extent) -> np.ndarray:
    """Returns in which cell of a grid the middle of each pixel lies, numbered row by row [H, W]; −1 in none.

    Example:
        >>> cells_of_image((1, 2), (1, 4), Extent(0.0, 0.5, 1.0, 1.0)).tolist()
        [[-1, -1, 0, 1]]
    """
    rows = cells_of_pixels(grid[0], image_size[0], *extent.down)[:, None]
    columns = cells_of_pixels(grid[1], image_size[1], *extent.across)
    return np.where((rows >= 0) & (columns >= 0), rows * grid[1] + columns, -1)


def over_image(mask: np.ndarray, extent: Extent) -> np.ndarray:
    """Returns a mask [h, w] of cells on a grid of the same cells that covers the whole image, but for parts of a cell.

    Example:
        >>> over_image(np.array([[True, True]]), Extent(0.0, 0.5, 1.0, 1.0)).tolist()
        [[False, False, True, True]]
    """
    for axis, (start, end) in enumerate((extent.down, extent.across)):
        cell = (end - start) / mask.shape[axis]
        before, after = round(start / cell), round((1 - end) / cell)  # below 0 where cells lie outside of the image
        inside = mask.take(range(max(-before, 0), mask.shape[axis] - max(-after, 0)), axis)
        added = (max(before, 0), max(after, 0))
        mask = np.pad(inside, (added, (0, 0)) if axis == 0 else ((0, 0), added))
    return mask
