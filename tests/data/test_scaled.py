"""JPEG files decoded at a reduced size: the same by both decoders, close to the whole picture, and only where asked."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lookalike.data import Preprocessing, load_training_data
from lookalike.data.images import decode_image
from lookalike.data.scaled import scale_of
from lookalike.data.turbo import decode_jpeg

SCALED = Preprocessing(64, (56, 56), mean=(0.0,) * 3, std=(1.0,) * 3, scaled_decoding=True)
SIDES = st.integers(1, 10_000)


@pytest.fixture(scope="module")
def photograph():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg"))  # 427 × 640


def jpeg(picture, **options):
    content = io.BytesIO()
    picture.save(content, "JPEG", **{"quality": 90, **options})
    return content.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_largest_scale_that_leaves_twice_the_wanted_size(height, width, wanted_height, wanted_width):
    scale = scale_of((height, width), (wanted_height, wanted_width))

    def leaves_enough(divisor):
        return height // divisor >= 2 * wanted_height and width // divisor >= 2 * wanted_width

    assert scale == max([1, *(divisor for divisor in (2, 4, 8) if leaves_enough(divisor))])


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_both_decoders_give_the_same_pixels_at_every_scale(photograph, scale):
    for content in (jpeg(photograph), jpeg(photograph, progressive=True, subsampling=0), jpeg(photograph.convert("L"))):
        ours = decode_jpeg(content, 3, lambda *_: scale)
        pillows = decode_image(io.BytesIO(content), scale_of=lambda *_: scale).convert("RGB")
        assert ours.shape == (3, -(-427 // scale), -(-640 // scale))
        assert np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(pillows).astype(int)).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_close_to_those_of_the_whole_picture(photograph, interpolation):
    preprocessing = replace(SCALED, interpolation=interpolation)
    content = jpeg(photograph)
    whole = replace(preprocessing, scaled_decoding=False).read(io.BytesIO(content))
    levels = (preprocessing.read(io.BytesIO(content)) - whole).abs() * 255
    assert preprocessing.decode(io.BytesIO(content)).size == (320, 214)
    assert 0 < levels.mean() < 2


@pytest.mark.parametrize("options", [{}, {"exif": turned(3)}, {"exif": turned(6)}])
def test_files_that_only_pillow_reads_are_scaled_too(photograph, options):
    kinds = {"plain": photograph, "CMYK": photograph.convert("CMYK"), "grey": photograph.convert("L")}
    for kind, picture in kinds.items():
        content = jpeg(picture, **options)
        whole, scaled = (replace(SCALED, scaled_decoding=asked).read(io.BytesIO(content)) for asked in (False, True))
        assert SCALED.decode(io.BytesIO(content)).width == 320, kind
        assert ((scaled - whole).abs() * 255).mean() < 2, kind


def test_a_photograph_on_its_side_is_scaled_for_its_upright_sides(photograph):
    """Upright, it is 640 × 427, and half of 427 is less than twice 150; as stored, half of 640 is more."""
    content = jpeg(photograph, exif=turned(6))
    for as_stored, width in ((False, 640), (True, 320)):
        preprocessing = Preprocessing((40, 150), None, scaled_decoding=True, as_stored=as_stored)
        assert preprocessing.decode(io.BytesIO(content)).width == width


def test_nothing_else_is_scaled(photograph, tmp_path):
    whole = replace(SCALED, scaled_decoding=False)
    content = jpeg(photograph)
    photograph.save(tmp_path / "photograph.png")
    assert torch.equal(SCALED.read(tmp_path / "photograph.png"), whole.read(tmp_path / "photograph.png"))
    given_open = Image.open(io.BytesIO(content))  # a picture of the caller's, not decoded yet
    assert torch.equal(SCALED(given_open), whole(given_open))
    assert given_open.size == (640, 427)
    assert whole.decode(io.BytesIO(content)).size == (640, 427)
    nearly_as_large = Preprocessing.square(250, scaled_decoding=True)
    assert nearly_as_large.decode(io.BytesIO(content)).size == (640, 427)


def test_a_window_counts_as_the_picture_that_is_resized(photograph):
    """A centre crop of 213 of 427 pixels, resized to 64: a half leaves 106, which is less than twice 64."""
    assert replace(SCALED, window=(0.5, 0.5)).decode(io.BytesIO(jpeg(photograph))).size == (640, 427)
    assert replace(SCALED, window=(0.9, 0.9)).decode(io.BytesIO(jpeg(photograph))).size == (320, 214)


def test_the_option_is_saved_and_described():
    assert Preprocessing.from_dict(SCALED.to_dict()) == SCALED
    assert "scaled_decoding" not in replace(SCALED, scaled_decoding=False).to_dict()
    assert SCALED.describe().startswith("RGB, JPEG decoded at a reduced size; shorter side to 64")


def test_networks_are_trained_on_the_same_pixels(photograph, tmp_path):
    for label in ("ant", "bee"):
        (tmp_path / label).mkdir()
        for number in range(5):
            photograph.save(tmp_path / label / f"{number}.jpg", quality=90)
    bundle = load_training_data(tmp_path, 32, scaled_decoding=True)
    assert bundle.preprocessing.scaled_decoding
    scaled, whole = bundle.train[0][0], replace(bundle.preprocessing, scaled_decoding=False).read(bundle.train.files[0])
    assert not torch.equal(scaled, whole)
    with pytest.raises(TypeError, match="did you mean 'scaled_decoding'"):
        load_training_data(tmp_path, 32, scaled_decodin=True)
