"""A relevance map, alone or beside its image."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "RdBu_r"  # diverging, white at zero; red and blue stay apart for colour-blind readers


def plot_heat_map(relevance: np.ndarray, *, limit: float | None = None, ax: "Axes | None" = None) -> "Axes":
    """Draws relevance [H, W]: red for, blue against, white for nothing.

    Args:
        relevance: One value per pixel.
        limit: The relevance of the deepest colours; give the same to all maps of a figure. None takes its largest.
        ax: Where to; None makes a figure.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(2.5, 2.5), layout="constrained")
    bound = float(np.abs(relevance).max()) if limit is None else limit
    bound = bound or 1.0
    ax.imshow(relevance, cmap=COLOUR_MAP, vmin=-bound, vmax=bound, interpolation="nearest")
    ax.axis("off")
    return ax
