"""Which JPEG files are decoded on a device, and what becomes of the others; nvJPEG itself needs a GPU.

Here the CPU is the device, and torchvision's decoder on the CPU is in the place of the one on a GPU.
"""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import Batches, ImageFiles, Preprocessing
from lookalike.data.fitted import FittedSamples
from lookalike.data.nvjpeg import OnDevice

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(40, (32, 32))


@pytest.fixture(scope="module")
def picture():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg")[100:220, 200:390])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


@pytest.fixture
def files(tmp_path, picture):
    """Files by what is special of them; the first two are plain."""
    kinds = {
        "a_plain": (picture, {}),
        "b_other": (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {"subsampling": 0}),
        "progressive": (picture, {"progressive": True}),
        "cmyk": (picture.convert("CMYK"), {}),
        "grey": (picture.convert("L"), {}),
        "turned": (picture, {"exif": turned()}),
    }
    for name, (image, options) in kinds.items():
        image.save(tmp_path / f"{name}.jpg", "JPEG", quality=90, **options)
    picture.save(tmp_path / "png.jpg", "PNG")  # whatever it is called
    content = (tmp_path / "a_plain.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    paths = [tmp_path / f"{name}.jpg" for name in (*kinds, "png", "cut")]
    return ImageFiles(tmp_path, paths, np.arange(len(paths)) % 2, ["even", "odd"], PREPROCESSING)


class Decoder:
    """Decodes as torchvision does on a GPU: a list at once, and nothing of it if one cannot be decoded."""

    def __init__(self, refused=()):
        self.refused = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in refused]
        self.sizes = []

    def __call__(self, contents):
        from torchvision.io import ImageReadMode, decode_jpeg

        self.sizes.append(len(contents))
        if any(torch.equal(content, refused) for content in contents for refused in self.refused):
            raise RuntimeError("nvjpegDecode failed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode_jpeg(contents, ImageReadMode.RGB)


def read_all(files, decoder):
    samples = FittedSamples.of(files)
    reader = OnDevice(samples, CPU, decoder)

    def read(index):
        try:
            return index, samples.fitted(index), None
        except LookalikeError as error:
            return index, None, error

    started = [reader.start(index, read) for index in range(len(files))]
    return started, reader.end(started, read), [read(index) for index in range(len(files))]


def test_only_plain_files_go_to_the_device_and_all_are_read(files):
    decoder = Decoder()
    started, ended, expected = read_all(files, decoder)
    on_device = [row for row, (_, sample, error) in enumerate(started) if error is None and sample[0].ndim == 1]
    assert on_device == [0, 1]
    assert decoder.sizes == [2]  # together
    for (index, sample, error), (_, by_cpu, cpu_error) in zip(ended, expected, strict=True):
        assert str(error) == str(cpu_error)
        if error is None:
            assert (sample[0].int() - by_cpu[0].int()).abs().max() <= 1, files.files[index]
            assert sample[1] == by_cpu[1]
    assert [index for index, _, error in ended if error is not None] == [7]  # the cut one


def test_a_refused_file_costs_the_others_nothing(files):
    decoder = Decoder([files.files[1].read_bytes()])
    _, ended, expected = read_all(files, decoder)
    assert decoder.sizes == [2, 1, 1]  # together, which fails; then each alone
    assert torch.equal(ended[1][1][0], expected[1][1][0])
    assert (ended[0][1][0].int() - expected[0][1][0].int()).abs().max() <= 1


def test_what_cannot_be_done_is_refused(files):
    with pytest.raises(LookalikeError, match="'cpu' is none; leave decode_on out"):
        Batches(files, decode_on="cpu")
    with pytest.raises(LookalikeError, match="must name a CUDA device, not 'abacus'"):
        Batches(files, decode_on="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(LookalikeError, match="'cuda' is none"):
            Batches(files, decode_on="cuda")
    for options, reason in (
        ({"interpolation": "bicubic"}, "Pillow must prepare"),
        ({"scaled_decoding": True}, "leave out scaled_decoding"),
    ):
        other = ImageFiles(files.root, files.files, files.labels, files.classes, Preprocessing(40, (32, 32), **options))
        with pytest.raises(LookalikeError, match=reason):
            OnDevice(FittedSamples.of(other), CPU, Decoder())
    with pytest.raises(LookalikeError, match="only image files"):
        OnDevice(None, CPU, Decoder())


def test_batches_are_read_through_it_in_order(files, monkeypatch):
    monkeypatch.setattr("lookalike.data.nvjpeg.nvjpeg", lambda _device, _channels: Decoder())
    on_device, on_cpu = (Batches(files, 3, on_error="skip", **options) for options in ({"decode_on": "cpu"}, {}))
    for found, expected in zip(on_device, on_cpu, strict=True):
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.labels.tolist() == expected.labels.tolist()
        levels = (PREPROCESSING.pixels(found.inputs) - PREPROCESSING.pixels(expected.inputs)).abs() * 255
        assert levels.max() < 1.01
    assert on_device.skipped == on_cpu.skipped
    assert list(on_device.skipped) == [7]
    assert on_device.transform_fingerprint() != on_cpu.transform_fingerprint()  # other pixels, other embeddings


def test_a_crop_that_is_larger_than_the_image_is_left_to_the_cpu(files):
    wide = ImageFiles(files.root, files.files[:2], files.labels[:2], files.classes, Preprocessing(40, (48, 48)))
    _, ended, expected = read_all(wide, Decoder())
    assert all(torch.equal(a[1][0], b[1][0]) for a, b in zip(ended, expected, strict=True))


def test_content_that_only_begins_like_a_jpeg_file_is_read_on_the_cpu(files):
    files.files[0].write_bytes(b"\xff\xd8\xff nothing")
    started, _, _ = read_all(files, Decoder())
    assert started[0][2] is not None


def test_images_of_one_size_are_resized_together_and_as_alone(files, picture, monkeypatch):
    for number, path in enumerate(files.files[:6]):
        size = (190, 120) if number % 2 else (130, 90)
        picture.resize(size).rotate(3 * number).save(path, "JPEG", quality=95)
    plain = files.select(np.arange(6))
    together = []
    fit_decoded = Preprocessing.fit_decoded

    def spy(preprocessing, image):
        together.append(tuple(image.shape))
        return fit_decoded(preprocessing, image)

    monkeypatch.setattr(Preprocessing, "fit_decoded", spy)
    _, ended, _ = read_all(plain, Decoder())
    assert together[:2] == [(3, 3, 90, 130), (3, 3, 120, 190)]
    alone = [OnDevice(FittedSamples.of(plain), CPU, Decoder()) for _ in range(6)]
    for index, reader in enumerate(alone):
        ((_, (image, _), _),) = reader.end(
            [reader.start(index, lambda i: pytest.fail("read on the CPU"))], lambda i: None
        )
        assert torch.equal(ended[index][1][0], image)
    monkeypatch.setattr("lookalike.data.nvjpeg._MOST_VALUES", 3 * 90 * 130)  # one at a time
    together.clear()
    _, again, _ = read_all(plain, Decoder())
    assert [shape[0] for shape in together[:6]] == [1] * 6
    assert all(torch.equal(a[1][0], b[1][0]) for a, b in zip(ended, again, strict=True))
