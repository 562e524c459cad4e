"""Figures over plain arrays: each takes and returns a matplotlib Axes."""

from lookalike.plots.gallery import gallery_axes, plot_gallery
from lookalike.plots.heatmap import plot_heat_map
from lookalike.plots.likeness import plot_likeness, sheet_axes

__all__ = ["gallery_axes", "plot_gallery", "plot_heat_map", "plot_likeness", "sheet_axes"]
