"""Every plot is displayed in a notebook if it is the result of a cell."""

import io

import numpy as np
from PIL import Image

from lookalike.plots import gallery_axes, plot_radar


def test_a_radar_and_a_gallery_are_pictures():
    for ax in (plot_radar({"a": {"x": 0.5, "y": 1.0, "z": 0.2}}), gallery_axes(["ant", "bee"], 2)):
        pixels = np.asarray(Image.open(io.BytesIO(ax._repr_png_())))
        assert pixels.shape[0] > 100
        assert pixels.std() > 0 or ax.name != "polar"  # something is drawn
