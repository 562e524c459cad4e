"""Figures from plain arrays. Each function takes and returns matplotlib Axes."""

from lookalike.plots.activations import plot_activations
from lookalike.plots.curves import plot_ordering
from lookalike.plots.difference import plot_difference
from lookalike.plots.gallery import Captions, gallery_axes, gallery_size, plot_gallery
from lookalike.plots.heatmap import plot_heat_map
from lookalike.plots.likeness import plot_likeness, sheet_axes
from lookalike.plots.map2d import plot_map, project_2d
from lookalike.plots.matrix import plot_similarity_matrix
from lookalike.plots.pairs import plot_pairs
from lookalike.plots.patches import patch_axes, plot_patches
from lookalike.plots.radar import plot_radar
from lookalike.plots.rejection import plot_rejection
from lookalike.plots.reliability import plot_reliability
from lookalike.plots.sanity import plot_sanity
from lookalike.plots.segments import plot_segments

__all__ = [
    "Captions",
    "gallery_axes",
    "gallery_size",
    "patch_axes",
    "plot_activations",
    "plot_difference",
    "plot_gallery",
    "plot_heat_map",
    "plot_likeness",
    "plot_map",
    "plot_ordering",
    "plot_pairs",
    "plot_patches",
    "plot_radar",
    "plot_rejection",
    "plot_reliability",
    "plot_sanity",
    "plot_segments",
    "plot_similarity_matrix",
    "project_2d",
    "sheet_axes",
]
