"""Radar chart that compares models on several axes (paper, Figure 4)."""

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.plots.tiles import INK, MUTED, as_label, check_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = ("#0b7a75", "#d1495b", "#30638e", "#edae49", "#6f4e7c", "#5f6368")  # colour-blind readers can distinguish them
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_BEYOND = 1.15  # larger values are drawn here
_MARKER = 0.05  # half the size of a marker at the edge


def plot_radar(models: Mapping[str, Mapping[str, float]], *, ax: "Axes | None" = None) -> "Axes":
    """Draws models as polygons; outward is better.

    Args:
        models: Value of each model on each axis: 0 is at the centre, 1 at the rim. Larger values are drawn a little
            outside the rim.
        ax: Polar Axes; None makes a figure.

    Returns:
        The Axes.

    Raises:
        LookalikeError: If the Axes are not polar.
    """
    for label, values in checks.mapping("models", models).items():
        for axis, value in checks.mapping(f"models[{label!r}]", values).items():
            if not isinstance(value, Real) or isinstance(value, bool):
                raise checks.unfit(f"models[{label!r}][{axis!r}]", value, "a number")
    if not any(models.values()):
        raise LookalikeError("a radar needs at least one model with at least one figure")
    if ax is None:
        ax = new_axes((4.2, 3.8), polar=True)
    check_axes(ax)
    if ax.name != "polar":
        raise LookalikeError("a radar needs polar Axes: plt.subplots(subplot_kw={'projection': 'polar'})")
    names = list(dict.fromkeys(axis for values in models.values() for axis in values))
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    ax.set_theta_offset(np.pi / 2)  # type: ignore[attr-defined]
    ax.set_theta_direction(-1)  # type: ignore[attr-defined]
    for position, (label, values) in enumerate(models.items()):
        heights = [float(np.clip(values.get(name, np.nan), 0, _BEYOND)) for name in names]
        colour = SERIES[position % len(SERIES)]
        ax.plot(
            [*angles, angles[0]],
            [*heights, heights[0]],
            color=colour,
            linestyle=DASHES[position % len(DASHES)],
            linewidth=1.8,
            marker="o",
            markersize=3.5,
            label=as_label(label),
        )
        ax.fill(angles, heights, color=colour, alpha=0.12)
    ax.set_xticks(angles, names, color=INK, fontsize=9)
    ax.tick_params(axis="x", pad=8)
    ax.set_ylim(0, _BEYOND + _MARKER)
    ax.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], color=MUTED, fontsize=7)
    ax.spines["polar"].set_visible(False)
    ax.grid(color=MUTED, alpha=0.3)
    if len(models) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=8, labelcolor=INK)
    return ax
