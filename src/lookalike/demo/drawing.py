"""Pictures of a demonstration."""

from pathlib import Path

from lookalike.explanation import Explanation
from lookalike.plots import sheet_axes
from lookalike.plots.pixels import figure_png

_COLUMNS = 2  # explanations side by side


def draw_sheet(path: Path, explanations: list[Explanation]) -> None:
    """Draws explanations into one picture."""
    columns = min(_COLUMNS, len(explanations))
    with_maps = explanations[0].likenesses[0].heat_map is not None
    widest = max(len(explanation.shown) for explanation in explanations)  # a rival class has a column of its own
    axes = sheet_axes(len(explanations), widest, columns, with_maps)
    for ax, explanation in zip(axes, explanations, strict=True):
        explanation.plot(ax)
    path.write_bytes(figure_png(axes[0], dpi=130))
