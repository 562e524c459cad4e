import importlib.util
import os
import struct
import subprocess
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data import Preprocessing, read_image

_SPEC = importlib.util.spec_from_file_location("fuzz_images", Path(__file__).parents[2] / "tools" / "fuzz_images.py")
_FUZZ = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FUZZ)
read_damaged = _FUZZ.read_damaged

GRADIENT = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)


def save(path, image):
    image.save(path)
    return path


def save_tiff(path, values, photometric=1):
    """Writes an uncompressed TIFF of greys by hand: Pillow writes fewer types than there are."""
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    pixels = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height),
            (279, len(pixels)), (339, kind)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    path.write_bytes(start + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))
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


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("float32", 0.0, 1.0),
        ("float32", 0.0, 255.0),
        ("int32", -1000, 3000),
        ("int16", -1000, 3000),
        ("uint32", 0, 3e9),
    ],
)
def test_values_without_a_scale_are_read_over_the_range_given(tmp_path, kind, low, high):
    values = low + GRADIENT / 255 * (high - low)
    path = save_tiff(tmp_path / "deep.tif", values.astype(kind))
    with pytest.raises(LookalikeError, match=r"deep\.tif.*no scale of their own.*--value-range") as caught:
        read_image(path)
    assert not isinstance(caught.value, BrokenImageError)  # no damaged file: skipping it would lose data in silence
    np.testing.assert_allclose(np.asarray(read_image(path, value_range=(low, high))), GRADIENT, atol=1)
    half = np.asarray(read_image(path, value_range=(low, (low + high) / 2)))
    np.testing.assert_allclose(half, np.minimum(GRADIENT * 2.0, 255), atol=2)


def test_white_is_zero_is_read_as_such(tmp_path):
    path = save_tiff(tmp_path / "white.tif", GRADIENT.astype(np.uint16) * 257, photometric=0)
    np.testing.assert_allclose(np.asarray(read_image(path)), 255 - GRADIENT, atol=1)


TURNS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.T,
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_photographs_are_turned_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((16, 24), np.uint8)
    stored[:8, :8] = 255
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(stored).convert("RGB").save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    plain = Preprocessing(None, None, (0.0,), (1.0,))
    for image in (
        plain.read(path),
        plain(Image.open(path)),
        plain(Image.open(path).convert("RGB")),
        plain(read_image(path)),
    ):
        np.testing.assert_allclose(image[0], TURNS[orientation](stored) / 255, atol=0.1)
    as_stored = Preprocessing(None, None, (0.0,), (1.0,), as_stored=True)
    for image in (as_stored.read(path), as_stored(Image.open(path)), as_stored(read_image(path, as_stored=True))):
        np.testing.assert_allclose(image[0], stored / 255, atol=0.1)


def test_a_damaged_exif_entry_leaves_the_image_as_stored(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (10, 4)).save(path, exif=b"Exif\0\0MM\0*damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(path).size == (10, 4)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"\xc5\xd0\xd3\xc6", "an EPS file"),
        (b"%PDF-1.4", "a PDF file"),
        (b"\0\0\0\x18ftypheic", "a HEIC photograph"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\xd7\xcd\xc6\x9a\0\0", "a WMF file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "it is empty"),
        (bytes(200), "zeros only"),
    ],
)
def test_only_decoders_that_are_asked_for_run(tmp_path, monkeypatch, head, named):
    def started(*arguments, **options):
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    path = tmp_path / "photo.jpg"
    path.write_bytes(head)
    with pytest.raises(BrokenImageError, match=named):
        read_image(path)


def test_transparency_is_dropped(tmp_path):
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    palette = image.convert("RGB").quantize(4)
    palette.info["transparency"] = 0
    for name, picture in (("rgba.png", image), ("palette.png", palette), ("la.png", Image.new("LA", (4, 4), (200, 0)))):
        x = Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3).read(save(tmp_path / name, picture))
        np.testing.assert_allclose(x[0], 200 / 255, atol=0.01)


def test_animations_show_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        x = Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3).read(tmp_path / name)
        np.testing.assert_allclose(x[:, 3, 3], [1, 0, 0], atol=0.02)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, extra=b""):
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(bytes(64))) + _chunk(b"IEND", b"")


@pytest.mark.parametrize("chunk", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_decompression_bomb_is_one_line(tmp_path, chunk):
    packed = zlib.compress(bytes(20_000_000))
    before = {b"iCCP": b"x\0\0", b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0"}[chunk]
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(4, 4, _chunk(chunk, before + packed)))
    with pytest.raises(BrokenImageError, match="too large"):
        read_image(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    huge = tmp_path / "huge.png"
    huge.write_bytes(_png(60_000, 60_000))
    with pytest.raises(BrokenImageError, match=r"60000×60000 pixels.*--large-images"):
        read_image(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = save(tmp_path / "small.png", Image.new("L", (20, 20), 255))
    with pytest.raises(BrokenImageError, match="20×20 pixels"):
        Preprocessing.square(8).read(path)
    assert Preprocessing.square(8, large_images=True).read(path).shape == (3, 8, 8)
    assert read_image(path, large_images=True).size == (20, 20)
    assert Image.MAX_IMAGE_PIXELS == 100
    assert "large_images" not in Preprocessing.square(8, large_images=True).to_dict()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (20, 20)


@pytest.mark.parametrize(
    "error",
    [struct.error("x"), zlib.error("x"), MemoryError(), RecursionError("x"), OverflowError("x"), AttributeError("x"),
     IndexError("x"), KeyError("x"), TypeError("x"), AssertionError(), RuntimeWarning("two\nlines"), EOFError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    path = save(tmp_path / "photo.png", Image.new("L", (4, 4)))
    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(BrokenImageError, match=r"photo\.png': .+") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_an_interruption_is_none_of_a_decoders_errors(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    path = save(tmp_path / "photo.png", Image.new("L", (4, 4)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BrokenImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_damaged_images_are_read_or_refused_in_one_line(tmp_path):
    for number in range(150):
        assert read_damaged(number, 7, tmp_path) in ("read", "refused")


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
