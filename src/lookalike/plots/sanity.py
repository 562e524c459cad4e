"""Sanity check: similarity of explanations to the trained model's while its layers are randomised."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lookalike._core import checks
from lookalike.plots.radar import DASHES, SERIES
from lookalike.plots.tiles import INK, as_label, plain_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dvp"
_LETTERS = 18  # of a layer's name


def plot_sanity(
    depths: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    *,
    chance: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the similarity of explanations to the trained model's while it is randomised from the head down.

    Args:
        depths: Layer randomised at each step [S]; at the first step nothing is randomised.
        curves: Similarities at each step [S], by measure; 1 means equal explanations.
        chance: Share of images that keep their prototype by chance, drawn as a dotted line.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    depths = checks.names("depths", list(depths))
    for name, values in checks.mapping("curves", curves).items():
        checks.array(f"curves[{name!r}]", values, (len(depths),))
    ax = plain_axes(ax, (6.4, 3.6))
    positions = range(len(depths))
    for position, (name, values) in enumerate(curves.items()):
        ax.plot(
            positions,
            values,
            color=SERIES[position % len(SERIES)],
            linestyle=DASHES[position % len(DASHES)],
            marker=_MARKERS[position % len(_MARKERS)],
            markersize=4,
            label=as_label(name),
        )
    if chance is not None:
        ax.axhline(chance, color=INK, linewidth=0.8, linestyle=":", label="the same prototype by chance")
    ax.axhline(0, color=INK, linewidth=0.5)
    ax.set_xticks(list(positions), [shorten(name, _LETTERS) for name in depths], rotation=35, ha="right", fontsize=7)
    ax.set_xlabel("randomised from the head down to", color=INK, fontsize=9)
    ax.set_ylabel("likeness to the trained model's", color=INK, fontsize=9)
    ax.set_ylim(min(-0.1, *(min(values) for values in curves.values())) if curves else -0.1, 1.05)
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax
