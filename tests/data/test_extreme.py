import resource
import sys

import numpy as np
import pytest
from PIL import Image

from lookalike._core.errors import BrokenImageError
from lookalike.data import Preprocessing
from lookalike.data.extreme import MAX_RESIZED_PIXELS, resize_and_crop
from lookalike.data.geometry import CONVENTIONS, resized_size

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
        cropped = resize_and_crop(image, resized_size(*shape, shorter, "stretch"), crop, interpolation)
        ours = np.atleast_3d(np.asarray(cropped)).transpose(2, 0, 1)
        assert np.abs(usual.numpy() - ours).max() <= 1.001


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("fit", ["stretch", "cover"])
@pytest.mark.parametrize("shape", [(1, 300), (300, 2), (7, 64), (20, 23)])
def test_cropping_first_is_right_to_one_level_in_all_conventions(convention, fit, shape):
    image, crop, resize = noise(*shape), (25, 90), 40 if fit == "stretch" else (30, 41)
    fill = (0,) if convention.startswith("transformers") else (7, 8, 9)
    options = {"convention": convention, "fill": fill}
    usual = Preprocessing(resize, crop, (0.0,) * 3, (1 / 255,) * 3, fit=fit, **options)(image)
    ours = resize_and_crop(image, resized_size(*shape, resize, fit), crop, "bilinear", **options)
    assert np.abs(usual.numpy() - np.asarray(ours).transpose(2, 0, 1)).max() <= 1.001


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    "geometry", [(64, (56, 56), "stretch"), ((64, 90), (56, 80), "cover"), ((64, 64), None, "stretch")]
)
def test_extreme_shapes_are_read_in_all_conventions(convention, geometry):
    resize, crop, fit = geometry
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    p = Preprocessing(resize, crop, (0.0,), (1 / 255,), fit=fit, convention=convention)
    x = p(Image.new("L", (1, 1_000_000), 99))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert list(x.shape[1:]) == list(p.output_size)
    assert x.unique().tolist() == pytest.approx([99], abs=0.01)
    assert grown < 200e6


def test_a_size_that_was_asked_for_is_never_too_large():
    x = Preprocessing((4200, 4200), None, (0.0,), (1 / 255,), interpolation="nearest")(Image.new("L", (60, 50), 99))
    assert list(x.shape) == [1, 4200, 4200]


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
