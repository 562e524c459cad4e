"""Axes that a notebook displays as a picture."""

import io

from matplotlib.axes import Axes


class NotebookAxes(Axes):
    """Axes of a figure without a window. A notebook displays them as a picture if they are the result of a cell."""

    def _repr_png_(self) -> bytes:
        """Returns the whole figure as PNG; notebooks call this."""
        buffer = io.BytesIO()
        self.get_figure(root=True).savefig(buffer, format="png", dpi=100)  # type: ignore[union-attr]
        return buffer.getvalue()
