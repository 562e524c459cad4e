"""This looks like that: an input beside its nearest prototypes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike.plots.heatmap import common_limit, paint, shares
from lookalike.plots.tiles import FRAME, GAP, INK, LINE, RIGHT, TILE_INCHES, WRONG, draw_tile, tile_axes

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
    heat_maps: "LikenessMaps | None" = None,
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
        heat_maps: Relevance maps, drawn beneath; all on one scale.
        ax: Where to; None makes a figure of fitting size.

    Returns:
        The Axes.
    """
    image = checks.array("image", image, ("H", "W", "C"))
    checks.instance("prototypes", prototypes, (list, tuple), "a list of images")
    for picture in prototypes:
        if picture is not None:
            checks.array("prototypes", picture, ("H", "W", "C"))
    checks.instance("caption", caption, str, "a text")
    captions = checks.names("captions", captions, len(prototypes))
    checks.flag("wrong", wrong)
    checks.optional(checks.instance, "heat_maps", heat_maps, LikenessMaps, "LikenessMaps")
    columns = 1 + _WORDS_WIDTH + len(prototypes) * (1 + GAP)
    ax = tile_axes(ax, columns, likeness_height(heat_maps is not None))
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
    if heat_maps is not None:
        _draw_maps(ax, image, prototypes, heat_maps)
    return ax


def likeness_height(with_maps: bool) -> float:
    """Returns the height of a likeness in tiles."""
    return _HEIGHT + (2 * (1 + GAP) + LINE if with_maps else 0)


def _draw_maps(
    ax: "Axes", image: np.ndarray, prototypes: Sequence[np.ndarray | None], heat_maps: "LikenessMaps"
) -> None:
    on_input = [shares(values) for values in heat_maps.on_input]
    on_prototype = [None if values is None else shares(values) for values in heat_maps.on_prototype]
    black_box = None if heat_maps.black_box is None else shares(heat_maps.black_box)
    drawn = [*on_input, *(m for m in (*on_prototype, black_box) if m is not None)]
    limit = common_limit(drawn)
    second, third = _HEIGHT, _HEIGHT + 1 + GAP
    if black_box is not None:
        caption = "what the original\nprediction rests on"
        draw_tile(ax, paint(black_box, limit, image), 0.02, second, caption=caption, size=0.96)
    for y, words in ((second, "this part here"), (third, "looks like\nthat part there")):
        ax.text(1 + _WORDS_WIDTH / 2, y + 0.5, words, ha="center", va="center", fontsize=8, color=INK, style="italic")
    for column, (here, there, picture) in enumerate(zip(on_input, on_prototype, prototypes, strict=True)):
        x = 1 + _WORDS_WIDTH + column * (1 + GAP)
        draw_tile(ax, paint(here, limit, image), x, second, size=0.96, frame=FRAME)
        if there is not None:
            draw_tile(ax, paint(there, limit, picture), x, third, size=0.96, frame=FRAME)


@dataclass(frozen=True)
class LikenessMaps:
    """The relevance maps of a likeness, each [H, W].

    Attributes:
        on_input: For each prototype, which pixels of the input are like it.
        on_prototype: The same on the prototype's own training image; None where there is no image.
        black_box: What the black box's own prediction rests on; None where there is none.
    """

    on_input: Sequence[np.ndarray]
    on_prototype: Sequence[np.ndarray | None]
    black_box: np.ndarray | None = None


def sheet_axes(rows: int, n_prototypes: int, columns: int = 1, with_maps: bool = False) -> "list[Axes]":
    """Makes a figure with a place for each of several likenesses; returns their Axes, row by row.

    The figure belongs to no window: save it with ``axes[0].figure.savefig``.
    """
    from matplotlib.figure import Figure

    for name, value, least in (("rows", rows, 1), ("n_prototypes", n_prototypes, 0), ("columns", columns, 1)):
        checks.whole_number(name, value, least)
    checks.flag("with_maps", with_maps)
    width = (1 + _WORDS_WIDTH + n_prototypes * (1 + GAP)) * TILE_INCHES
    height = likeness_height(with_maps) * TILE_INCHES
    lines = -(-rows // columns)
    figure = Figure(figsize=(columns * (width + 0.25), lines * (height + 0.15)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[rows:]:
        ax.axis("off")
    return list(axes[:rows])
