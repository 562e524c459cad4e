import numpy as np
import pytest
from PIL import Image

from lookalike.data import Preprocessing, read_image
from lookalike.errors import BrokenImageError

GRADIENT = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def save(path, image):
    image.save(path)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_what_the_network_takes(tmp_path, mode):
    suffix = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    path = save(tmp_path / f"image{suffix}", Image.fromarray(GRADIENT).convert(mode))
    image = read_image(path)
    for channels in (1, 3):
        x = Preprocessing(None, None, (0.0,) * channels, (1.0,) * channels)(image)
        assert x.shape == (channels, 8, 8)
        if mode != "1":
            np.testing.assert_allclose(x[0], GRADIENT / 255, atol=0.05)


def test_sixteen_bits_keep_their_range_instead_of_turning_white(tmp_path):
    deep = (GRADIENT.astype(np.uint16) * 257).astype(np.uint16)
    image = read_image(save(tmp_path / "deep.png", Image.fromarray(deep)))
    np.testing.assert_allclose(np.asarray(image), GRADIENT, atol=1)
    tiff = read_image(save(tmp_path / "deep.tif", Image.fromarray(deep)))
    np.testing.assert_allclose(np.asarray(tiff), GRADIENT, atol=1)


def test_floats_and_wide_integers_are_scaled(tmp_path):
    unit = read_image(save(tmp_path / "unit.tif", Image.fromarray((GRADIENT / 255).astype(np.float32))))
    np.testing.assert_allclose(np.asarray(unit), GRADIENT, atol=1)
    wide = read_image(save(tmp_path / "wide.tif", Image.fromarray(GRADIENT.astype(np.int32) * 1000 - 5)))
    np.testing.assert_allclose(np.asarray(wide), GRADIENT, atol=1)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(path, exif=exif)
    assert read_image(path).size == (4, 10)


def test_unreadable_files_are_named(tmp_path):
    text = tmp_path / "letter.png"
    text.write_text("this is no image")
    whole = save(
        tmp_path / "whole.png", Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    )
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    nan = save(tmp_path / "nan.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    for path in (nan, text, cut, empty, tmp_path / "missing.png"):
        with pytest.raises(BrokenImageError, match=path.name) as caught:
            read_image(path)
        assert caught.value.path == str(path)
