import resource
import sys

import numpy as np
import pytest
from PIL import Image

from lookalike.data import Preprocessing
from lookalike.data.extreme import MAX_RESIZED_PIXELS, resize_and_crop
from lookalike.data.geometry import resized_size
from lookalike.errors import BrokenImageError

RNG = np.random.default_rng(0)


def noise(height, width, mode="RGB"):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (3, 500), (500, 3), (7, 64), (64, 7), (20, 23), (1, 1)])
@pytest.mark.parametrize(("shorter", "crop"), [(32, (28, 28)), (64, (20, 90)), (33, (50, 31)), (30, (100, 100))])
def test_cropping_first_changes_no_pixel_by_more_than_one_level(interpolation, shape, shorter, crop):
    for mode in ("L", "RGB"):
        image, channels = noise(*shape, mode), 1 if mode == "L" else 3
        usual = Preprocessing(shorter, crop, (0.0,) * channels, (1 / 255,) * channels, interpolation)(image)
        ours = np.atleast_3d(np.asarray(resize_and_crop(image, shorter, crop, interpolation))).transpose(2, 0, 1)
        assert np.abs(usual.numpy() - ours).max() <= 1.001


@pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1), (3, 700_000)])
def test_extreme_shapes_take_little_memory(shape):
    image = Image.new("L", shape[::-1], 99)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = Preprocessing.square(224, mean=(0.0,), std=(1 / 255,))(image)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert x.unique().tolist() == pytest.approx([99], abs=0.01)
    assert grown < 200e6


def test_an_extreme_shape_keeps_its_centre():
    values = np.zeros((1, 60_001), np.uint8)
    values[0, 30_000] = 200
    x = Preprocessing.square(225, mean=(0.0,), std=(1 / 255,), interpolation="bicubic")(Image.fromarray(values))
    assert x[0, 100, 112] == pytest.approx(200, abs=2)
    np.testing.assert_allclose(x[0], x[0].flip(-1), atol=1.01)


def test_without_a_crop_an_extreme_shape_is_refused():
    with pytest.raises(BrokenImageError, match=r"60,000×1 pixels would be resized to 13,440,000×224.*crop"):
        Preprocessing(224, None)(Image.new("L", (60_000, 1)))


def test_usual_shapes_are_far_from_the_bound():
    for width, height in ((6000, 4000), (20_000, 1000), (12_000, 2000)):
        resized = resized_size(height, width, 512, "stretch")
        assert resized[0] * resized[1] < MAX_RESIZED_PIXELS
