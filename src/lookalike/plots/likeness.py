"""This looks like that: an input beside its nearest prototypes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike.plots.tiles import GAP, INK, LINE, RIGHT, TILE_INCHES, WRONG, draw_tile, tile_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORDS_WIDTH = 0.8
_HEIGHT = 1.08 + 2 * LINE


def plot_likeness(
    image: np.ndarray,
    prototypes: Sequence[np.ndarray | None],
    *,
    caption: str,
    captions: Sequence[str],
    wrong: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an input and the training images of its nearest prototypes.

    Args:
        image: The input, uint8 [H, W, C].
        prototypes: For each of its nearest prototypes, the nearest first, its training image; None where there is
            none to show.
        caption: Beneath the input: what is predicted, and how surely.
        captions: Beneath each prototype: its class and similarity.
        wrong: Whether the prediction is known to be wrong: the input is framed in red.
        ax: Where to; None makes a figure of fitting size.

    Returns:
        The Axes.
    """
    columns = 1 + _WORDS_WIDTH + len(prototypes) * (1 + GAP)
    ax = tile_axes(ax, columns, _HEIGHT)
    draw_tile(ax, image, 0.02, 0.04, caption=caption, frame=WRONG if wrong else RIGHT, size=0.96)
    ax.text(
        1 + _WORDS_WIDTH / 2,
        0.5,
        "looks like",
        ha="center",
        va="center",
        fontsize=9,
        color=INK,
        style="italic",
    )
    for column, (picture, words) in enumerate(zip(prototypes, captions, strict=True)):
        x = 1 + _WORDS_WIDTH + column * (1 + GAP)
        shown = np.full((8, 8, 3), 245, dtype=np.uint8) if picture is None else picture
        draw_tile(ax, shown, x, 0.04, caption=words, size=0.96)
    return ax


def sheet_axes(rows: int, n_prototypes: int, columns: int = 1) -> "list[Axes]":
    """Makes a figure with a place for each of several likenesses; returns their Axes, row by row.

    The figure belongs to no window: save it with ``axes[0].figure.savefig``.
    """
    from matplotlib.figure import Figure

    width = (1 + _WORDS_WIDTH + n_prototypes * (1 + GAP)) * TILE_INCHES
    height = _HEIGHT * TILE_INCHES
    lines = -(-rows // columns)
    figure = Figure(figsize=(columns * (width + 0.25), lines * (height + 0.15)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[rows:]:
        ax.axis("off")
    return list(axes[:rows])
