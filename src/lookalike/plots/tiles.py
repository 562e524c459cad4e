"""Layout of pictures in one Axes: each picture is a tile of a grid, with a caption below."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike._core import checks
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
GAP = 0.14  # between tiles, in tiles


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

    height, width = image.shape[:2]
    scale = size / max(height, width)
    w, h = width * scale, height * scale
    left, top = x + (size - w) / 2, y + (size - h) / 2
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    picture = AxesImage(  # imshow would look after limits and ticks as well, for as long as it takes to draw
        ax,
        cmap="gray",
        norm=Normalize(0, 255),
        interpolation="nearest" if max(height, width) < 64 else "antialiased",
        origin="upper",
        extent=(left, left + w, top + h, top),
        resample=True,
    )
    picture.set_data(pixels)
    picture.set_clip_path(ax.patch)
    ax.add_image(picture)
    if frame is not None:
        ax.add_patch(Rectangle((left, top), w, h, fill=False, edgecolor=frame, linewidth=2.5, clip_on=False))
    if caption:
        name, *further = caption.split("\n")  # the first line names what is shown
        for text, height, fontsize, colour in ((name, 0.05, 8.5, INK), ("\n".join(further), 0.2, 7.5, MUTED)):
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


def shorten(text: str, length: int) -> str:
    """Shortens a text to one line of at most ``length`` characters. ``$`` is escaped: it would begin a formula."""
    text = visible(" ".join(text.split()))
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
