"""Relevance maps over their image: red pixels speak for a class or prototype, blue ones against it.

A photograph stays in colour below its map, and a line encloses the pixels that hold half of the relevance in favour.
Maps of convolutional networks have the grid of the strides in them, finer than the network sees; they are smoothed, and
``raw`` shows them as they are. Small pictures, such as digits, are shown pixel by pixel.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import check_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "RdBu_r"  # diverging, white at zero; colour-blind readers can distinguish red and blue
OUTLINED = 0.5  # share of the positive relevance inside the line
_FAINT = 0.25  # contrast of a grey image below the map
_SMALL = 64  # pixels: a picture with shorter sides than this is shown pixel by pixel
_SMOOTHING = 0.03  # deviation of the smoothing, share of the shorter side: a third of a cell of a 10 × 10 feature map
_ISLAND = 0.02  # share of the positive relevance below which an island of the region is not outlined
_PALE = 0.35  # share of white in a photograph below the map, so that colours on it are seen
_SEEN, _SEEN_SHARE = 0.15, 0.001  # of the deepest colour, and of the pixels: fewer and paler ones are not seen
_OPAQUE = 0.85  # of the deepest colours over a photograph


def common_limit(maps: Sequence[np.ndarray]) -> float:
    """Returns the relevance that gets the deepest colours in all maps of a figure.

    It is the 99.5% quantile of the absolute relevance: by the maximum, single pixels would make all others pale. Where
    fewer pixels than that have any relevance, it is the maximum.
    """
    values = np.concatenate([np.abs(values).ravel() for values in maps]) if maps else np.zeros(0)
    if not values.size:
        return 1.0
    return float(np.quantile(values, 0.995)) or float(values.max()) or 1.0


def smoothed(relevance: np.ndarray) -> np.ndarray:
    """Smooths a map [H, W] to about the resolution of the network's features; returns small maps unchanged.

    Smoothing keeps the sum of the relevance.
    """
    from scipy.ndimage import gaussian_filter

    if min(relevance.shape) < _SMALL:
        return relevance
    blurred: np.ndarray = gaussian_filter(relevance.astype(np.float64), _SMOOTHING * min(relevance.shape))
    return blurred


def shares(relevance: np.ndarray, *, raw: bool = False) -> np.ndarray:
    """Prepares a map [H, W] for drawing: smooths it, and scales it so that its absolute values sum to one.

    So maps of different models or prototypes can be compared.

    Args:
        relevance: The map.
        raw: Do not smooth it.
    """
    relevance = relevance if raw else smoothed(relevance)
    total = float(np.abs(relevance).sum())
    return relevance / total if total > 0 else relevance


def outline(relevance: np.ndarray, share: float = OUTLINED) -> np.ndarray:
    """Returns the border of the smallest region with a share of a map's positive relevance, bool [H, W].

    The border is inside the region; islands with less than a fiftieth of the relevance have none. It is empty for a map
    without positive relevance.
    """
    from scipy.ndimage import binary_erosion, label, sum_labels

    positive = np.clip(relevance, 0, None)
    total = float(positive.sum())
    if total <= 0:
        return np.zeros(relevance.shape, dtype=bool)
    ordered = np.sort(positive.ravel())[::-1]
    summed = np.cumsum(ordered)
    # rounding may leave the last sum below the total
    threshold = ordered[min(int(np.searchsorted(summed, share * total)), len(ordered) - 1)]
    islands, n_islands = label(positive >= threshold)
    relevance_of_islands = sum_labels(positive, islands, np.arange(n_islands + 1))
    region = (relevance_of_islands >= _ISLAND * total)[islands] & (islands > 0)
    width = max(1, round(min(relevance.shape) / 110))
    border: np.ndarray = region & ~binary_erosion(region, iterations=width, border_value=1)
    return border


def what_stands_out(relevance: np.ndarray, limit: float) -> Literal["part", "against", "blank"]:
    """Says what a reader sees on a map [H, W] that ``paint`` draws with this limit.

    Returns:
        ``"part"`` if pixels that speak for the likeness are seen, ``"against"`` if only others are, else ``"blank"``.
    """
    strength = relevance / limit
    if (strength > _SEEN).mean() >= _SEEN_SHARE:
        return "part"
    return "against" if (strength < -_SEEN).mean() >= _SEEN_SHARE else "blank"


def paint(relevance: np.ndarray, limit: float, image: np.ndarray | None = None) -> np.ndarray:
    """Colours a map [H, W], as ``shares`` prepares it, over its image uint8 [H, W, C]. Returns uint8 [H, W, 3].

    A colour photograph stays in colour, and a line encloses half of the positive relevance if pixels with it are seen.
    Grey and small pictures become faint.
    """
    strength = np.clip(relevance / limit, -1, 1).astype(np.float32)
    colours = _colours()[np.minimum((strength + 1) * 128, 255).astype(np.uint8)]
    if image is not None and is_photograph(image):
        pale = _PALE + np.float32((1 - _PALE) / 255) * image
        opacity = _OPAQUE * np.sqrt(np.abs(strength))[..., None]
        colours = (1 - opacity) * pale + opacity * colours
        if what_stands_out(relevance, limit) == "part":  # a line around pixels that nobody sees would point to nothing
            colours[outline(relevance)] = 0.1
    elif image is not None:
        grey = image.mean(-1, keepdims=True) / 255
        # The background must stay white, so that colours are seen: an image of light lines on black is inverted.
        faint_image = 1 - _FAINT * (1 - grey) if grey.mean() > 0.5 else 1 - _FAINT * grey
        colours = colours * faint_image
    return np.asarray((colours * 255).round().astype(np.uint8))


@functools.cache
def _colours() -> np.ndarray:
    """Returns the colour map as float32 [256, 3]: looking colours up in it is faster than calling matplotlib's."""
    from matplotlib import colormaps

    return colormaps[COLOUR_MAP](np.arange(256))[:, :3].astype(np.float32)


def is_photograph(image: np.ndarray) -> bool:
    """Says whether an image is large and in colour."""
    if image.shape[-1] != 3 or min(image.shape[:2]) < _SMALL:
        return False
    channels = image.astype(np.int16)
    coloured = channels.max(-1) - channels.min(-1) > 20
    return bool(coloured.mean() > 0.002)  # a cut-out on white may have little colour


def _check_limit(name: str, value: float) -> float:
    return checks.number(name, value, above=0)


def plot_heat_map(
    relevance: np.ndarray,
    *,
    image: np.ndarray | None = None,
    limit: float | None = None,
    raw: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws a relevance map.

    Args:
        relevance: Relevance of each pixel [H, W].
        image: Image that the map explains, uint8 [H, W, C], drawn below the colours.
        limit: Relevance that gets the deepest colours, the same for all maps of a figure; None takes this map's own.
        raw: Show the map pixel by pixel; otherwise maps of 64 pixels and more are smoothed.
        ax: Axes to draw on; None makes a figure.
    """
    relevance = checks.array("relevance", relevance, ("H", "W"))
    if image is not None:
        image = checks.array("image", image, (*relevance.shape, "C"))
    checks.optional(_check_limit, "limit", limit)
    checks.flag("raw", raw)
    if not relevance.size:
        raise LookalikeError("there is no relevance to draw")
    if not np.isfinite(relevance).all():
        raise LookalikeError("relevance must be finite; there are NaN or infinite values")
    if ax is None:
        ax = new_axes((2.5, 2.5))
    check_axes(ax)
    relevance = relevance if raw else smoothed(relevance)
    bound = common_limit([relevance]) if limit is None else limit
    ax.imshow(paint(relevance, bound, image), interpolation="nearest")
    ax.axis("off")
    return ax
