"""An image beside its concepts, one colour each, with a legend."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import WHOLE, Extent
from lookalike.plots.regions import colours_of, draw_cells
from lookalike.plots.tiles import GAP, INK, Picture, draw_tile, shorten, tile_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CONCEPTS = 12  # in the legend; the others are drawn, without a line of their own
_LEGEND_WIDTH = 1.9  # tiles
_LINE = 0.13  # height of a line of the legend, in tiles
_OPACITY = 0.6  # of the colours over the image


def plot_segments(
    image: np.ndarray,
    concepts: np.ndarray,
    captions: Mapping[int, str],
    *,
    covered: Extent = WHOLE,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an image, and beside it the concept of each position in colour.

    A cell of the grid has one colour up to its border: the network knows no finer one.

    Args:
        image: uint8 [H, W, C].
        concepts: Number of the concept of each position [h, w].
        captions: What to call each concept that occurs.
        covered: The part of the image that the cells cover: top, left, bottom, right, as shares.
        ax: Axes to draw on; None makes a figure that fits.

    Returns:
        The Axes.
    """
    image = checks.array("image", image, ("H", "W", "C"))
    concepts = checks.array("concepts", concepts, ("h", "w"))
    numbers, counts = np.unique(concepts, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    numbers, counts = numbers[order], counts[order]
    colours = colours_of(len(numbers))
    left = 1 + GAP
    n_lines = min(len(numbers), _MOST_CONCEPTS) + (len(numbers) > _MOST_CONCEPTS)
    ax = tile_axes(ax, 2 * left + _LEGEND_WIDTH, max(1.0, n_lines * _LINE) + 0.05)
    draw_tile(ax, image, 0, 0)
    grey = image.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
    draw_tile(ax, grey, left, 0)
    rank = np.searchsorted(np.sort(numbers), concepts)
    colour_of_cell = colours[np.argsort(numbers, kind="stable")][rank]
    painted = np.concatenate([colour_of_cell, np.full((*rank.shape, 1), _OPACITY)], 2)
    draw_cells(ax, painted, Picture.at(image, left, 0), covered)
    for line, (number, count) in enumerate(zip(numbers[:_MOST_CONCEPTS], counts, strict=False)):
        y = (line + 0.5) * _LINE
        ax.plot([2 * left + 0.05], [y], marker="s", markersize=6, color=colours[line])
        text = f"{shorten(captions.get(int(number), str(number)), 22)} · {count / concepts.size:.0%}"
        ax.text(2 * left + 0.15, y, text, va="center", fontsize=7.5, color=INK)
    if len(numbers) > _MOST_CONCEPTS:
        y = (_MOST_CONCEPTS + 0.5) * _LINE
        text = f"and {len(numbers) - _MOST_CONCEPTS} more"
        ax.text(2 * left + 0.15, y, text, va="center", fontsize=7.5, color=INK)
    return ax
