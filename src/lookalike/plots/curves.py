"""Relevance-ordering curves (paper, Figure 3)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lookalike._core import checks
from lookalike.plots.radar import SERIES
from lookalike.plots.tiles import INK, as_label, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dvp"
_EVERY = 4  # steps between the markers of a curve, so that curves on top of each other can be seen


def plot_ordering(
    fractions: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]] | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws how the predicted class's probability falls while the least relevant pixels turn to noise.

    Args:
        fractions: Shares of pixels replaced [S + 1].
        curves: Mean probabilities [S + 1], by model.
        references: Mean probabilities with pixels in random order, by model; drawn dotted in the model's colour.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The Axes.
    """
    fractions = checks.array("fractions", fractions, ("S",)).tolist()
    for argument, curves_checked in (("curves", curves), ("references", {} if references is None else references)):
        for name, values in checks.mapping(argument, curves_checked).items():
            checks.array(f"{argument}[{name!r}]", values, (len(fractions),))
    ax = plain_axes(ax, (4.4, 3.2))
    percent = [100 * fraction for fraction in fractions]
    for position, (name, values) in enumerate(curves.items()):
        colour = SERIES[position % len(SERIES)]
        # Curves often coincide: they differ in colour, dashes, markers and the markers' positions.
        dashes = "-" if position % 2 == 0 else "--"
        ax.plot(
            percent,
            values,
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            marker=_MARKERS[position % len(_MARKERS)],
            markersize=5,
            markevery=(position % _EVERY, _EVERY),
            label=as_label(name),
        )
        if references and name in references:
            ax.plot(
                percent,
                references[name],
                color=colour,
                linestyle=":",
                linewidth=1.5,
                label=as_label(f"{name}, random order"),
            )
    ax.set_xlabel("least relevant pixels replaced by noise (%)", color=INK, fontsize=9)
    ax.set_ylabel("probability of the predicted class", color=INK, fontsize=9)
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 1.02)
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return ax
