"""Axes that a notebook displays as a picture."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.projections.polar import PolarAxes

from lookalike.plots.pixels import figure_png


class _Picture:
    """What a notebook needs of Axes to display them if they are the result of a cell."""

    def _repr_png_(self: Any) -> bytes:
        """Returns the whole figure as PNG; notebooks call this."""
        return figure_png(self, dpi=100)


class NotebookAxes(_Picture, Axes):
    """Axes of a figure without a window. A notebook displays them as a picture if they are the result of a cell."""


class NotebookPolarAxes(_Picture, PolarAxes):
    """The same for a radar."""
