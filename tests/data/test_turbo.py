"""JPEG files by libjpeg-turbo in torch: Pillow's pixels within a level, and Pillow's errors."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike._core.errors import BrokenImageError
from lookalike.data import Batches, ImageFiles, Preprocessing
from lookalike.data.images import decode_image
from lookalike.data.turbo import decode_jpeg

PLAIN = Preprocessing(None, None, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(scope="module")
def photograph():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")[100:233, 200:391])  # 133 × 191: no multiple of 8 or 16


def jpeg(picture, **options):
    content = io.BytesIO()
    picture.save(content, "JPEG", **{"quality": 85, **options})
    return content.getvalue()


def by_pillow(content, preprocessing):
    """The network's input as it was before: decoded, resized and cropped by Pillow alone."""
    return preprocessing(decode_image(io.BytesIO(content)))


KINDS = {
    **{f"subsampling {s}, progressive {p}": {"subsampling": s, "progressive": p}
       for s, p in itertools.product(("4:4:4", "4:2:2", "4:2:0"), (False, True))},
    "lowest quality": {"quality": 1},
    "restart markers": {"restart_marker_rows": 1},
    "comment and profile": {"comment": b"\xff\xd9 no end", "icc_profile": b"x" * 70_000},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_colour_files_are_decoded_to_pillows_pixels(photograph, kind):
    content = jpeg(photograph, **KINDS[kind])
    decoded = decode_jpeg(content, 3)
    assert decoded is not None
    pillows = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert np.abs(decoded.permute(1, 2, 0).numpy() - pillows).max() <= 1


def test_grey_files_are_decoded_for_grey_and_for_colour_networks(photograph):
    content = jpeg(photograph.convert("L"))
    pillows = torch.from_numpy(np.array(Image.open(io.BytesIO(content))))
    for channels in (1, 3):
        assert torch.equal(decode_jpeg(content, channels), pillows.expand(channels, -1, -1))


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def left_to_pillow(photograph):
    """Files that are not decoded here, by the reason."""
    plain = jpeg(photograph)
    frame = plain.index(b"\xff\xc0")
    return {
        "CMYK": jpeg(photograph.convert("CMYK")),
        "RGB without conversion": jpeg(photograph, keep_rgb=True),
        "turned by EXIF": jpeg(photograph, exif=with_orientation(6)),
        "turned by XMP": jpeg(photograph, xmp=b'<x tiff:Orientation="6"/>'),
        "cut off": plain[: len(plain) // 2],
        "data after the end": plain + b"\0\0",
        "no frame": plain[:frame] + b"\xff\xfe" + plain[frame + 2 :],
        "arithmetic coding": plain[:frame] + b"\xff\xc9" + plain[frame + 2 :],
        "twelve bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "another format": b"\x89PNG" + plain[4:],
        "nothing else": b"\xff\xd8\xff\xd9",
    }


def test_whatever_is_not_certain_is_left_to_pillow(photograph):
    for reason, content in left_to_pillow(photograph).items():
        assert decode_jpeg(content, 3) is None, reason
    assert decode_jpeg(jpeg(photograph), 1) is None  # a colour file for a grey network: Pillow's weights decide
    assert decode_jpeg(jpeg(photograph, exif=with_orientation(1)), 3) is not None


def test_a_larger_picture_than_a_third_of_pillows_limit_is_left_to_its_reader(photograph, monkeypatch):
    content = jpeg(photograph)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3 * 133 * 191 - 1)
    assert decode_jpeg(content, 3) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3 * 133 * 191)
    assert decode_jpeg(content, 3) is not None


def test_files_give_the_inputs_and_the_errors_that_pillow_gave(photograph, tmp_path):
    files = {**left_to_pillow(photograph), "plain": jpeg(photograph), "grey": jpeg(photograph.convert("L"))}
    preprocessing = Preprocessing.square(64)
    for reason, content in files.items():
        path = tmp_path / "picture.png"  # a wrong suffix changes nothing
        path.write_bytes(content)
        try:
            expected = by_pillow(content, preprocessing)
        except BrokenImageError as error:
            with pytest.raises(BrokenImageError) as caught:
                preprocessing.read(path)
            assert caught.value.reason == error.reason, reason  # noqa: PT017 - the same error, whatever it is
        else:
            levels = (preprocessing.pixels(preprocessing.read(path)) - preprocessing.pixels(expected)).abs() * 255
            assert float(levels.max()) < 1.01, reason


def test_entropy_data_that_are_damaged_read_as_by_pillow(photograph):
    content, rng = bytearray(jpeg(photograph)), np.random.default_rng(0)
    start = content.index(b"\xff\xda") + 20
    for _ in range(20):
        damaged = bytearray(content)
        for position in rng.integers(start, len(content) - 2, 3):
            damaged[position] = int(rng.integers(0, 255))
        assert torch.equal(PLAIN.read(io.BytesIO(damaged)), by_pillow(bytes(damaged), PLAIN))


@pytest.mark.parametrize(
    "preprocessing",
    [
        PLAIN,
        Preprocessing(40, (32, 32)),
        Preprocessing(300, (256, 224)),
        Preprocessing((50, 60), None),
        Preprocessing((50, 60), (50, 50), fit="cover"),
        Preprocessing((50, 60), (50, 60), fit="contain", fill=(9, 80, 7)),
        Preprocessing(40, (32, 32), interpolation="bicubic"),
        Preprocessing(40, (32, 32), interpolation="lanczos"),
        Preprocessing(40, (48, 48), fill=(3,)),
        Preprocessing(None, (200, 100)),
        Preprocessing(40, (33, 32), window=(0.8, 0.5)),
        Preprocessing((24, 30), None, pad=(32, 32), channel_order="bgr"),
        Preprocessing(41, (32, 32), convention="transformers-pillow"),
        Preprocessing(41, (32, 32), convention="transformers", interpolation="bicubic"),
        Preprocessing(41, (32, 32), convention="transformers-float"),
    ],
    ids=lambda preprocessing: preprocessing.describe(),
)
def test_every_preprocessing_gives_its_pixels(photograph, preprocessing):
    content = jpeg(photograph)
    expected, read = by_pillow(content, preprocessing), preprocessing.read(io.BytesIO(content))
    assert read.shape == expected.shape
    assert read.is_contiguous()
    assert float((preprocessing.pixels(read) - preprocessing.pixels(expected)).abs().max()) * 255 < 1.01
    if preprocessing.interpolation != "bilinear":  # torch's other filters are not Pillow's
        assert torch.equal(read, expected)


@pytest.fixture
def files(photograph, tmp_path):
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(jpeg(photograph.crop((number, 0, 120 + number, 100))))
    return ImageFiles(tmp_path, paths, [0, 1] * 3 + [0], ["a", "b"], Preprocessing.square(32))


@pytest.mark.parametrize("num_workers", [None, 0, 3])
def test_batches_of_files_are_the_single_samples_to_the_bit(files, num_workers):
    data = torch.utils.data.Subset(files, [6, 2, 0, 5, 1])
    batches = list(Batches(data, 2, num_workers))
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), torch.stack([files[i][0] for i in data.indices]))
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 0, 0, 1, 1]
    assert [batch.read for batch in batches] == [2, 4, 5]
    travelling = next(Batches(data, 2, num_workers).unfinished_from(2))
    assert (travelling.inputs.dtype, tuple(travelling.inputs.shape)) == (torch.uint8, (2, 3, 32, 32))
    assert torch.equal(travelling.finished().inputs, batches[1].inputs)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_broken_files_are_skipped_or_named_in_threads_too(files, num_workers):
    files.files[3].write_bytes(b"\xff\xd8\xff\xd9")
    batches = Batches(files, 2, num_workers, "skip")
    assert np.concatenate([batch.indices for batch in batches]).tolist() == [0, 1, 2, 4, 5, 6]
    assert "3.jpg" in batches.skipped[3]
    with pytest.raises(BrokenImageError, match=r"3\.jpg"):
        list(Batches(files, 2, num_workers))


def test_a_transform_or_collation_of_ones_own_is_used(files):
    files.transform = lambda picture: torch.full((1, 2, 2), float(picture.width))
    assert next(iter(Batches(files, 4))).inputs.unique().tolist() == [120.0]
    files.transform = Preprocessing.square(8)
    loader = torch.utils.data.DataLoader(files, 4, collate_fn=lambda items: (torch.zeros(4, 1), [y for _, y in items]))
    assert next(iter(Batches(loader))).inputs.shape == (4, 1)
