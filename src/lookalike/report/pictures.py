"""Pictures and figures as text to embed in an HTML file."""

import base64
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike._core.extent import Extent
from lookalike._core.untouched import undoing
from lookalike.plots.pixels import figure_pixels
from lookalike.plots.tiles import INK, MUTED, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

SIDE = 224  # pixels of a picture's longer side, at most
_DPI, _DPI_ON_PAGE = 180, 110  # of drawings: enlarged, and among others, where their text is legible, too
_LEGIBLE = 1.2  # pixels per point of a figure on a phone: text of 8 points stays legible, and the rest is a swipe away
_PHONE = 340  # pixels that a phone shows: a figure that is legible at this width has no more, so that nothing is cut
_SHARP = 64  # pictures up to this size are small already: they are stored without loss
_FRAMED, _FRAME = 128, 80  # least side of a picture with a frame, if it is enlarged; and of the side, a frame's width
_QUALITY = 72  # of lossy compression; a photograph takes some 9 kB


def picture(pixels: np.ndarray, side: int = SIDE, frame: Extent | None = None) -> str:
    """Returns a picture uint8 [H, W, C] as a data URI, shrunk to at most ``side`` pixels, and a part of it framed."""
    from PIL import Image, features

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    small = max(image.size) <= _SHARP
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if frame is not None:
        image = _framed(image, frame)
    buffer = io.BytesIO()
    if features.check("webp"):
        kind = "webp"
        image.convert("RGB").save(buffer, "WEBP", lossless=small, quality=_QUALITY, method=4)
    elif small:
        kind = "png"
        image.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _framed(image: "Image", frame: Extent) -> "Image":
    """Returns an image with a part of it framed; a small one is enlarged, so that the frame is thin."""
    from PIL import Image, ImageDraw

    enlarged = max(1, _FRAMED // max(image.size))
    image = image.convert("RGB").resize((enlarged * image.width, enlarged * image.height), Image.Resampling.NEAREST)
    first, last = (
        (round(x * image.width), round(y * image.height))
        for x, y in ((frame.left, frame.top), (frame.right, frame.bottom))
    )
    width = max(2, max(image.size) // _FRAME)
    last = max(last[0] - 1, first[0]), max(last[1] - 1, first[1])
    draw = ImageDraw.Draw(image)
    # a white rim, so that the frame is seen on red pictures, too
    draw.rectangle((first[0] - 1, first[1] - 1, last[0] + 1, last[1] + 1), outline="white")
    draw.rectangle((*first, *last), outline=WRONG, width=width)
    return image


def drawing(draw: Callable[[], "Axes"]) -> tuple[str, int]:
    """Returns a figure that is mostly pictures as a data URI, and its width on the page; enlarged it is wider.

    As text it would take ten times the space.
    """
    pixels = figure_pixels(draw(), _DPI)[..., :3]
    return picture(pixels, max(pixels.shape)), round(pixels.shape[1] * _DPI_ON_PAGE / _DPI)


def _least_width(points: float) -> float:
    """Returns the least width of a figure in pixels: all of it on a phone if its text is legible there."""
    return min(_LEGIBLE * points, _PHONE) if points <= _PHONE else _LEGIBLE * points


def figure(draw: Callable[["Axes | None"], "Axes"], alt: str, ax: "Axes | None" = None) -> str:
    """Returns a figure as an inline SVG. Its text has the page's own colour, so that it is legible in dark mode, too.

    Args:
        draw: Function that draws on the given Axes, or on new ones if it gets None.
        alt: Description of the figure for screen readers.
        ax: Axes to draw on.
    """
    from html import escape

    import matplotlib as mpl

    # Text stays text, in the page's font. The salt makes ids reproducible, and distinct between the page's figures.
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": alt, "font.family": "sans-serif"}
    rc_params, buffer = dict(mpl.rcParams), io.StringIO()

    def save() -> None:
        mpl.rcParams.update(options)
        matplotlib_figure = draw(ax).get_figure(root=True)
        assert matplotlib_figure is not None
        matplotlib_figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None, "Creator": None},
        )

    undoing(lambda: dict.update(mpl.rcParams, {name: rc_params[name] for name in options}), save)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # the page has the style
    # The page defines these colours, for light and for dark mode.
    for colour, name in ((INK, "ink"), (MUTED, "muted"), ("#000000", "ink")):
        svg = svg.replace(f": {colour}", f": var(--{name})")
    text = escape(alt)
    # The figure shrinks to narrow screens, but does not grow beyond 1.25 pixels per point.
    return re.sub(
        r'<svg [^>]*?width="([\d.]+)pt" height="[\d.]+pt"|<svg ',
        lambda match: (
            f'<svg role="img" aria-label="{text}" class="figure" '
            + (
                f'style="max-width:{1.25 * float(match[1]):.0f}px;--least:{_least_width(float(match[1])):.0f}px" '
                if match[1]
                else ""
            )
            + 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
        ),
        svg,
        count=1,
    )
