"""Relevance maps: red for, blue against, over a faint picture of what they are of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import check_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "RdBu_r"  # diverging, white at zero; red and blue stay apart for colour-blind readers
_FAINT = 0.25


def common_limit(maps: Sequence[np.ndarray]) -> float:
    """Returns the relevance of the deepest colours for all maps of a figure: the largest but for one pixel in 200."""
    values = np.concatenate([np.abs(values).ravel() for values in maps]) if maps else np.zeros(1)
    return float(np.quantile(values, 0.995)) or 1.0


def shares(relevance: np.ndarray) -> np.ndarray:
    """Returns a map [H, W] scaled so that its absolute values sum to one; maps of different things then compare."""
    total = float(np.abs(relevance).sum())
    return relevance / total if total > 0 else relevance


def paint(relevance: np.ndarray, limit: float, image: np.ndarray | None = None) -> np.ndarray:
    """Returns a map [H, W] as a picture uint8 [H, W, 3], over a faint grey version of its image uint8 [H, W, C]."""
    from matplotlib import colormaps

    strength = np.clip(relevance / limit, -1, 1)
    colours = colormaps[COLOUR_MAP]((strength + 1) / 2)[..., :3]
    if image is not None:
        grey = image.mean(-1, keepdims=True) / 255
        ground = 1 - _FAINT * (1 - grey) if grey.mean() > 0.5 else 1 - _FAINT * grey  # ink is darker than paper
        colours = colours * ground
    return np.asarray((colours * 255).round().astype(np.uint8))


def _check_limit(name: str, value: float) -> float:
    return checks.number(name, value, above=0)


def plot_heat_map(
    relevance: np.ndarray, *, image: np.ndarray | None = None, limit: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draws relevance [H, W].

    Args:
        relevance: One value per pixel.
        image: What it is of, uint8 [H, W, C], drawn faintly beneath.
        limit: The relevance of the deepest colours; give the same to all maps of a figure. None takes this map's own.
        ax: Where to; None makes a figure.
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
