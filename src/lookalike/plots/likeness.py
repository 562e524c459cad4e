"""An input beside its nearest prototypes: this looks like that."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import Extent
from lookalike.plots.heatmap import OUTLINED, common_limit, is_photograph, paint, shares
from lookalike.plots.regions import colours_of, draw_frame
from lookalike.plots.tiles import FRAME, GAP, INK, LINE, MUTED, RIGHT, TILE_INCHES, WRONG, Picture, draw_tile, tile_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A likeness, in tiles:
#
#     [ input ]  looks like   [prototype] [prototype] …
#     [map of    this part    [map on     [map on
#      black box] here         input]      input]     …
#                looks like   [map on     [map on
#                that there    prototype]  prototype] …
_WORDS_WIDTH = 0.8  # of the column with "looks like"
_HEIGHT = 1.08 + 2 * LINE


def plot_likeness(
    image: np.ndarray,
    prototypes: Sequence[np.ndarray | None],
    *,
    caption: str,
    captions: Sequence[str],
    note: str = "",
    wrong: bool = False,
    heat_maps: "LikenessMaps | None" = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws an input and the training images of its nearest prototypes.

    Args:
        image: Input image, uint8 [H, W, C].
        prototypes: Training image of each of the nearest prototypes, nearest first; None for one without an image.
        caption: Text below the input, such as the predicted class and its probability.
        captions: Text below each prototype, such as its class and how close the input is.
        note: Text beside the captions that says what their figures mean.
        wrong: The prediction is known to be wrong; the input gets a red frame.
        heat_maps: Relevance maps to draw below, all on one scale.
        ax: Axes to draw on; None makes a figure that fits.

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
    checks.instance("note", note, str, "a text")
    checks.flag("wrong", wrong)
    checks.optional(checks.instance, "heat_maps", heat_maps, LikenessMaps, "LikenessMaps")
    columns = 1 + _WORDS_WIDTH + len(prototypes) * (1 + GAP)
    ax = tile_axes(ax, columns, likeness_height(heat_maps is not None))
    draw_tile(ax, image, 0.02, 0.04, caption=caption, frame=WRONG if wrong else RIGHT, size=0.96)
    centre = 1 + _WORDS_WIDTH / 2
    ax.text(centre, 0.5, "looks like", ha="center", va="center", fontsize=9, color=INK, style="italic")
    ax.text(centre, 1.06, note, ha="center", va="top", fontsize=6, color=MUTED, linespacing=1.2)
    for column, (picture, prototype_caption) in enumerate(zip(prototypes, captions, strict=True)):
        x = 1 + _WORDS_WIDTH + column * (1 + GAP)
        tile = np.full((8, 8, 3), 245, dtype=np.uint8) if picture is None else picture
        draw_tile(ax, tile, x, 0.04, caption=prototype_caption, size=0.96)
    if heat_maps is not None:
        _draw_maps(ax, image, prototypes, heat_maps)
    return ax


def frame_parts(
    ax: "Axes",
    image: np.ndarray,
    prototypes: Sequence[np.ndarray | None],
    parts: Sequence[tuple[Extent | None, Extent | None]],
) -> None:
    """Frames parts on a likeness that ``plot_likeness`` drew: each on the input and on its prototype, in one colour.

    Args:
        ax: Its Axes.
        image: Its input.
        prototypes: Its prototypes.
        parts: For each prototype the part of the input that looks like it, and the part of its image that it stands
            for; None for whole images.
    """
    for column, ((here, there), colour) in enumerate(zip(parts, colours_of(len(parts)), strict=True)):
        x, picture = 1 + _WORDS_WIDTH + column * (1 + GAP), prototypes[column]
        if here is not None:
            draw_frame(ax, Picture.at(image, 0.02, 0.04, 0.96), here, colour, column)
        if there is not None and picture is not None:
            draw_frame(ax, Picture.at(picture, x, 0.04, 0.96), there, colour)


def likeness_height(with_maps: bool) -> float:
    """Returns the height of the figure in tiles."""
    return _HEIGHT + (2 * (1 + GAP) + LINE if with_maps else 0)


def _draw_maps(
    ax: "Axes", image: np.ndarray, prototypes: Sequence[np.ndarray | None], heat_maps: "LikenessMaps"
) -> None:
    """Draws the second and third row of the figure: maps on the input and on the prototypes' images."""
    prepare = partial(shares, raw=heat_maps.raw)
    on_input = [prepare(values) for values in heat_maps.on_input]
    on_prototype = [None if values is None else prepare(values) for values in heat_maps.on_prototype]
    black_box = None if heat_maps.black_box is None else prepare(heat_maps.black_box)
    all_maps = [*on_input, *(m for m in (*on_prototype, black_box) if m is not None)]
    limit = common_limit(all_maps)
    second_row, third_row = _HEIGHT, _HEIGHT + 1 + GAP
    if black_box is not None:
        caption = "the original\nrests on this"
        draw_tile(ax, paint(black_box, limit, image), 0.02, second_row, caption=caption, size=0.96)
    ax.text(0.5, third_row + 0.68, _legend(image), ha="center", va="center", fontsize=7, color=MUTED, linespacing=1.3)
    for y, words in ((second_row, "this part here"), (third_row, "looks like\nthat part there")):
        ax.text(1 + _WORDS_WIDTH / 2, y + 0.5, words, ha="center", va="center", fontsize=8, color=INK, style="italic")
    for column, (map_on_input, map_on_prototype, picture) in enumerate(
        zip(on_input, on_prototype, prototypes, strict=True)
    ):
        x = 1 + _WORDS_WIDTH + column * (1 + GAP)
        draw_tile(ax, paint(map_on_input, limit, image), x, second_row, size=0.96, frame=FRAME)
        if map_on_prototype is not None:
            draw_tile(ax, paint(map_on_prototype, limit, picture), x, third_row, size=0.96, frame=FRAME)


def _legend(image: np.ndarray) -> str:
    """Says what the colours mean, and the line if there is one."""
    colours = "red: speaks for it\nblue: speaks against it"
    return f"{colours}\nline: {OUTLINED:.0%} of the red" if is_photograph(image) else colours


@dataclass(frozen=True)
class LikenessMaps:
    """Relevance maps of a likeness, each [H, W].

    Attributes:
        on_input: Relevance of the input's pixels for the similarity to each prototype.
        on_prototype: The same for the pixels of each prototype's training image; None for one without an image.
        black_box: Relevance of the input's pixels for the black box's prediction; None without a black box.
        raw: Draw large maps pixel by pixel, not smoothed.
    """

    on_input: Sequence[np.ndarray]
    on_prototype: Sequence[np.ndarray | None]
    black_box: np.ndarray | None = None
    raw: bool = False


def sheet_axes(rows: int, n_prototypes: int, columns: int = 1, with_maps: bool = False) -> "list[Axes]":
    """Makes a figure for several likenesses. Returns the Axes for each, row by row.

    The figure has no window: save it with ``axes[0].figure.savefig``.
    """
    from matplotlib.figure import Figure

    for name, value, minimum in (("rows", rows, 1), ("n_prototypes", n_prototypes, 0), ("columns", columns, 1)):
        checks.whole_number(name, value, minimum)
    checks.flag("with_maps", with_maps)
    width = (1 + _WORDS_WIDTH + n_prototypes * (1 + GAP)) * TILE_INCHES
    height = likeness_height(with_maps) * TILE_INCHES
    n_lines = -(-rows // columns)
    figure = Figure(figsize=(columns * (width + 0.25), n_lines * (height + 0.15)), layout="constrained")
    axes = figure.subplots(n_lines, columns, squeeze=False).ravel()
    for ax in axes[rows:]:
        ax.axis("off")
    return list(axes[:rows])
