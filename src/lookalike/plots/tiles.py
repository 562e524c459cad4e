"""Layout of pictures in one Axes: each picture is a tile of a grid, with a caption below."""

import contextlib
import functools
import re
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lookalike._core import checks
from lookalike._core.extent import Extent
from lookalike._core.names import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1a1a1a"
MUTED = "#5f6368"
WRONG = "#d32f2f"
RIGHT = "#9aa0a6"
FRAME = "#e0e0e0"

TILE_INCHES = 1.25
LINE = 0.17  # height of a caption's line, in tiles
CAPTION = 0.34  # height of a caption of one line with its margins, in tiles
_NAME_SIZE, _FURTHER_SIZE = 8.5, 7.5  # points: of a caption's first line, and of its further lines
_CAPTION_POINTS = 0.95 * 72 * TILE_INCHES  # width of a caption
_MOST_LINES = 4  # of a caption, besides its first
GAP = 0.14  # between tiles, in tiles
_GENERIC = ("serif", "sans-serif", "cursive", "fantasy", "monospace")


def check_axes(ax: Any) -> None:
    """Checks that a value is matplotlib Axes.

    Raises:
        LookalikeError: If it is not.
    """
    from matplotlib.axes import Axes

    checks.instance("ax", ax, Axes, "Axes of matplotlib")


def new_axes(size: tuple[float, float], *, polar: bool = False) -> "Axes":
    """Makes a figure of a size in inches with one Axes, which a notebook displays as a picture.

    The figure has no window, so its memory is freed when nothing refers to it; pyplot would keep it until it is closed.
    Save it with ``ax.figure.savefig``.
    """
    from matplotlib.figure import Figure

    from lookalike.plots.notebook_axes import NotebookAxes, NotebookPolarAxes

    kind = NotebookPolarAxes if polar else NotebookAxes
    return Figure(figsize=size, layout="constrained").add_subplot(axes_class=kind)


def tile_axes(ax: "Axes | None", columns: float, rows: float) -> "Axes":
    """Prepares Axes for a grid of tiles: no frame, no ticks, y downwards. Makes a figure if there are none."""
    if ax is None:
        ax = new_axes((columns * TILE_INCHES, rows * TILE_INCHES))
    check_axes(ax)
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


class Picture(NamedTuple):
    """The edges of a picture in the coordinates of the axes, whose y grows downwards."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    @classmethod
    def at(cls, image: np.ndarray, x: float, y: float, size: float = 1.0) -> "Picture":
        """Returns where ``draw_tile`` fits a picture [H, W, C] into a square at (x, y)."""
        height, width = (side * size / max(image.shape[:2]) for side in image.shape[:2])
        x, y = x + (size - width) / 2, y + (size - height) / 2
        return cls(x, x + width, y + height, y)

    def part(self, covered: Extent) -> "Picture":
        """Returns the edges of a part of it."""
        top, bottom = (self.top + share * self.height for share in covered.down)
        first, last = (self.left + share * self.width for share in covered.across)
        return Picture(first, last, bottom, top)


def draw_tile(
    ax: "Axes",
    image: np.ndarray,
    x: float,
    y: float,
    *,
    caption: str = "",
    frame: str | None = None,
    size: float = 1.0,
) -> None:
    """Draws a picture uint8 [H, W, C] with its upper left corner at (x, y), fitted into a square of ``size``."""
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle

    edges = Picture.at(image, x, y, size)
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    picture = AxesImage(  # imshow would look after limits and ticks as well, for as long as it takes to draw
        ax,
        cmap="gray",
        norm=Normalize(0, 255),
        interpolation="nearest" if max(image.shape[:2]) < 64 else "antialiased",
        origin="upper",
        extent=edges,
        resample=True,
    )
    picture.set_data(pixels)
    picture.set_clip_path(ax.patch)
    ax.add_image(picture)
    if frame is not None:
        corner = edges.left, edges.top
        ax.add_patch(
            Rectangle(corner, edges.width, edges.height, fill=False, edgecolor=frame, linewidth=2.5, clip_on=False)
        )
    if caption:
        name, *further = caption.split("\n")  # the first line names what is shown
        for text, height, fontsize, colour in (
            (name, 0.05, _NAME_SIZE, INK),
            ("\n".join(further), 0.2, _FURTHER_SIZE, MUTED),
        ):
            if not text:
                continue
            ax.text(
                x + size / 2,
                y + size + height,
                text,
                ha="center",
                va="top",
                fontsize=fontsize,
                color=colour,
                linespacing=1.2,
            )


def legible(text: str) -> str:
    """Returns a text as the font can draw it: characters that it lacks, such as emoji, are left out.

    Of a text that has no others, their code points remain: names that differ must not look the same.
    """
    from matplotlib import rcParams

    text = visible(text)
    drawn = _glyphs(tuple(rcParams["font.family"]))
    kept = " ".join("".join(character for character in text if ord(character) in drawn).split())
    if kept != text:
        kept = re.sub(r" (?=[,.;:)])", "", kept)  # what stood before the comma is left out
    is_telling = any(unicodedata.category(character)[0] in "LNPS" for character in kept)
    return kept if is_telling or not text.strip() else " ".join(f"U+{ord(sign):04X}" for sign in "".join(text.split()))


@functools.cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    """Returns the characters of the fonts that matplotlib draws with, by their families; a later one fills gaps."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    characters: set[int] = set()
    for family in families:
        with contextlib.suppress(ValueError):  # a family that is not installed
            generic = family in _GENERIC
            properties = FontProperties() if generic else FontProperties(family=[family])
            characters.update(get_font(findfont(properties, fallback_to_default=generic)).get_charmap())
    return frozenset(characters or get_font(findfont(FontProperties())).get_charmap())


def wrapped(caption: str) -> str:
    """Breaks a caption's lines so that none is wider than its tile; what is over is cut with an ellipsis.

    Its first line stays one line. Words that are too long for a line are broken.
    """
    name, *further = (legible(" ".join(line.split())) for line in caption.split("\n"))
    lines = _lines(" ".join(further), _FURTHER_SIZE)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-2] + "…"]
    first = _lines(name, _NAME_SIZE, between="")
    name = first[0] if len(first) < 2 else first[0][:-2] + "…"
    return "\n".join(line.replace("$", r"\$") for line in (name, *lines))


def _lines(text: str, size: float, between: str = " ") -> list[str]:
    """Breaks a text into lines that fit below a tile: between words, or within one that is too long."""
    lines = [""]
    for word in text.split(" ") if between else text:
        joined = f"{lines[-1]}{between}{word}" if lines[-1] else word
        if _width(joined, size) <= _CAPTION_POINTS:
            lines[-1] = joined
        elif _width(word, size) <= _CAPTION_POINTS:
            lines.append(word)
        else:
            lines += _lines(word, size, between="")
    return [line for line in lines if line]


def _width(text: str, size: float) -> float:
    """Returns the width of a text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0])


def caption_height(caption: str) -> float:
    """Returns the height of a caption that ``draw_tile`` draws, with its margins, in tiles."""
    n_further = caption.count("\n")
    return 0.22 + 0.11 * n_further + (0.04 if n_further else 0)


def as_label(name: str) -> str:
    """Returns a name for a legend, from which matplotlib leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def shorten(text: str, length: int) -> str:
    """Shortens a text to one line of at most ``length`` characters. ``$`` is escaped: it would begin a formula."""
    text = legible(" ".join(text.split()))
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text.replace("$", r"\$")


def plain_axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """Prepares Axes for a chart: no top and right frame, muted colours. Makes a figure of ``size`` inches if needed."""
    if ax is None:
        ax = new_axes(size)
    check_axes(ax)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.tick_params(colors=INK, labelsize=8)
    return ax
