"""Relevance maps over a faint image: red pixels speak for a class or prototype, blue ones against it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import check_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "RdBu_r"  # diverging, white at zero; colour-blind readers can distinguish red and blue
_FAINT = 0.25  # contrast of the image below the map


def common_limit(maps: Sequence[np.ndarray]) -> float:
    """Returns the relevance that gets the deepest colours in all maps of a figure.

    It is the 99.5% quantile of the absolute relevance: by the maximum, single pixels would make all others pale.
    """
    values = np.concatenate([np.abs(values).ravel() for values in maps]) if maps else np.zeros(1)
    return float(np.quantile(values, 0.995)) or 1.0


def shares(relevance: np.ndarray) -> np.ndarray:
    """Scales a map [H, W] so that its absolute values sum to one, to compare maps of different models or prototypes."""
    total = float(np.abs(relevance).sum())
    return relevance / total if total > 0 else relevance


def paint(relevance: np.ndarray, limit: float, image: np.ndarray | None = None) -> np.ndarray:
    """Colours a map [H, W]. Returns uint8 [H, W, 3], over a faint grey version of the image uint8 [H, W, C]."""
    from matplotlib import colormaps

    strength = np.clip(relevance / limit, -1, 1)
    colours = colormaps[COLOUR_MAP]((strength + 1) / 2)[..., :3]
    if image is not None:
        grey = image.mean(-1, keepdims=True) / 255
        # The background must stay white, so that colours are seen: an image of light lines on black is inverted.
        faint_image = 1 - _FAINT * (1 - grey) if grey.mean() > 0.5 else 1 - _FAINT * grey
        colours = colours * faint_image
    return np.asarray((colours * 255).round().astype(np.uint8))


def _check_limit(name: str, value: float) -> float:
    return checks.number(name, value, above=0)


def plot_heat_map(
    relevance: np.ndarray, *, image: np.ndarray | None = None, limit: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draws a relevance map.

    Args:
        relevance: Relevance of each pixel [H, W].
        image: Image that the map explains, uint8 [H, W, C], drawn faintly below the colours.
        limit: Relevance that gets the deepest colours, the same for all maps of a figure; None takes this map's own.
        ax: Axes to draw on; None makes a figure.
    """
    relevance = checks.array("relevance", relevance, ("H", "W"))
    if image is not None:
        image = checks.array("image", image, (*relevance.shape, "C"))
    checks.optional(_check_limit, "limit", limit)
    if not relevance.size:
        raise LookalikeError("there is no relevance to draw")
    if not np.isfinite(relevance).all():
        raise LookalikeError("relevance must be finite; there are NaN or infinite values")
    if ax is None:
        ax = new_axes((2.5, 2.5))
    check_axes(ax)
    bound = common_limit([relevance]) if limit is None else limit
    ax.imshow(paint(relevance, bound, image), interpolation="nearest")
    ax.axis("off")
    return ax
