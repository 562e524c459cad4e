"""Axes that a notebook shows as a picture."""

import io

from matplotlib.axes import Axes


class ShownAxes(Axes):
    """Axes of a figure that belongs to no window: a notebook draws them where they are a cell's result."""

    def _repr_png_(self) -> bytes:
        """Returns the whole figure as PNG, as notebooks ask for it."""
        buffer = io.BytesIO()
        self.get_figure(root=True).savefig(buffer, format="png", dpi=100)  # type: ignore[union-attr]
        return buffer.getvalue()
