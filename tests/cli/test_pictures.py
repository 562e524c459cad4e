"""Pictures through the commands: one scale, one orientation, and broken images wherever images are read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.cli.reading import ImageReader
from lookalike.data import Preprocessing
from tests.cli.test_commands import mistake, run


@pytest.fixture
def greys(tmp_path):
    """Writes a folder of three brightness classes, train and test, with ``make`` turning a brightness into values."""

    def write(make, name="greys"):
        rng = np.random.default_rng(0)
        for part, number in (("train", 6), ("test", 3)):
            for brightness, label in ((0.1, "dark"), (0.5, "middle"), (0.9, "bright")):
                folder = tmp_path / name / part / label
                folder.mkdir(parents=True)
                for i in range(number):
                    values = make(brightness + rng.uniform(-0.05, 0.05, (9, 9)))
                    Image.fromarray(values).save(folder / f"{i}.tif")
        return tmp_path / name

    return write


def accuracy(network_file, folder, output, *options):
    result = run("convert", f"{network_file}:make", folder, "-o", output, "--n-prototypes", 1, "--json", *options)
    report = json.loads(result.stdout)
    return report["test"]["accuracy"], report


def test_brightness_classes_of_floats_keep_their_order(network_file, greys, tmp_path):
    folder = greys(lambda v: (v * 255).astype(np.float32))
    right, report = accuracy(network_file, folder, tmp_path / "out")
    assert right == 1
    assert report["preprocessing"]["value_range"] == [0, 255]
    assert any("255 for white" in note for note in report["notes"])
    network = ("--network", f"{network_file}:make")
    found = json.loads(run("predict", tmp_path / "out", folder / "test", *network, "--json").stdout)
    assert all(row["prediction"] in row["file"] for row in found["predictions"])
    assert found["remarks"] == {}
    dim = greys(lambda v: v.astype(np.float32), "dim")  # the same images, stored from 0 to 1
    result = run("predict", tmp_path / "out", dim / "test", *network)
    assert "all nearly black: the model reads 0…255 (and 8 more images like it)" in result.stderr
    result = run("evaluate", tmp_path / "out", dim, "--only", "transparency", *network)
    assert "9 test images use less than 1% of 0…255" in result.stderr


def test_signed_values_need_a_range_and_keep_it(network_file, greys, tmp_path):
    folder = greys(lambda v: (v * 4000 - 1000).astype(np.int32))
    command = ("convert", f"{network_file}:make", folder, "-o", tmp_path / "out")
    assert "--value-range" in mistake(*command)
    assert not (tmp_path / "out").exists()
    assert "'4,1'" in mistake(*command, "--value-range", "4,1")
    right, report = accuracy(network_file, folder, tmp_path / "out", "--value-range", "-1000,3000")
    assert right == 1
    assert report["preprocessing"]["value_range"] == [-1000, 3000]
    windowed, report = accuracy(network_file, folder, tmp_path / "two", "--value-range", "-1000,-900")
    assert windowed < 1
    assert any("cut off" in note for note in report["notes"])


def test_a_model_of_eight_bits_has_no_scale_for_others(network_file, image_folder, greys, tmp_path):
    accuracy(network_file, image_folder, tmp_path / "out")
    folder = greys(lambda v: v.astype(np.float32))
    command = ("predict", tmp_path / "out", folder / "test", "--network", f"{network_file}:make")
    assert "--value-range" in mistake(*command)
    assert "--value-range" in mistake(*command, "--on-error", "skip")  # not damaged, so not skipped


def test_orientation_is_kept_in_the_model(network_file, image_folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "photo.png"
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(photo, exif=exif)
    for options, stored in (((), False), (("--as-stored",), True)):
        _, report = accuracy(network_file, image_folder, tmp_path / f"out{stored}", *options)
        assert report["preprocessing"].get("as_stored", False) is stored
        x = Preprocessing.from_dict(report["preprocessing"]).read(photo)
        assert x[0, 0].unique().tolist() == ([1.0] if stored else [-1.0, 1.0])  # the white half: above, or at the right


def test_scaled_decoding_is_kept_and_predict_reads_the_same_pixels(network_file, tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "photographs"
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            picture = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
            picture.save(folder / label / f"{number}.jpg", quality=95)
    _, report = accuracy(network_file, folder, tmp_path / "scaled", "--scaled-decoding")
    assert report["preprocessing"]["scaled_decoding"] is True
    preprocessing = Preprocessing.from_dict(report["preprocessing"])
    photograph = folder / "ant" / "0.jpg"
    expected = preprocessing.read(photograph)
    assert not torch.allclose(expected, replace(preprocessing, scaled_decoding=False).read(photograph), atol=0.02)
    [(_, read)] = ImageReader([photograph], preprocessing, 8, "stop").batches()
    assert torch.allclose(read[0], expected, atol=0.02)  # a level of 255, by the two decoders


def test_several_devices_embed_together(network_file, image_folder, tmp_path):
    command = ("convert", f"{network_file}:make", image_folder, "-o")
    one = json.loads(run(*command, tmp_path / "one", "--device", "cpu", "--json").stdout)
    two = json.loads(run(*command, tmp_path / "two", "--device", "cpu,cpu", "--json").stdout)
    assert two["prototypes"] == one["prototypes"]
    assert "'abacus' cannot be used" in mistake(*command, tmp_path / "three", "--device", "cpu,abacus")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_line_or_skipped(network_file, image_folder, tmp_path, workers):
    broken = image_folder / "train" / "bee" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    tested = image_folder / "test" / "cat" / "00.png"
    Image.new("RGB", (8, 8)).save(tested.with_suffix(".avif"))
    damaged = tested.with_suffix(".avif").read_bytes()
    tested.with_suffix(".avif").write_bytes(damaged[: len(damaged) - 10])
    command = ("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "out", "--workers", workers)
    line = mistake(*command)
    assert line.startswith(f"error: cannot read the image '{broken}': ")
    assert line.endswith("; --on-error skip leaves such images out")
    report = json.loads(run(*command, "--on-error", "skip", "--json").stdout)
    assert len(report["skipped"]) == 2
    network = ("--network", f"{network_file}:make")
    evaluation = ("evaluate", tmp_path / "out", image_folder, "--only", "transparency", "--workers", workers, *network)
    assert str(tested.with_suffix(".avif")) in mistake(*evaluation)
    run(*evaluation, "--on-error", "skip")
    if workers == 0:
        images = (tmp_path / "out", image_folder / "test", *network)
        for name in ("predict", "explain"):
            options = ("-o", tmp_path / "pictures", "--no-maps") if name == "explain" else ()
            assert str(tested.with_suffix(".avif")) in mistake(name, *images, *options)
            assert len(json.loads(run(name, *images, *options, "--on-error", "skip", "--json").stdout)["skipped"]) == 1


def test_audit_and_edit_leave_broken_images_out_too(network_file, image_folder, tmp_path):
    broken = image_folder / "train" / "bee" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    network, model = ("--network", f"{network_file}:make"), tmp_path / "out"
    run("convert", f"{network_file}:make", image_folder, "-o", model, "--n-prototypes", 2, "--on-error", "skip")
    (tmp_path / "edits.yaml").write_text("- split: {prototype: 0, n: 2}\n")
    audit = ("audit", image_folder, "--model", model, *network)
    edit = ("edit", model, tmp_path / "edits.yaml", "--data", image_folder, *network)
    for command in (audit, edit):
        line = mistake(*command)
        assert line.startswith(f"error: cannot read the image '{broken}': ")
        assert line.endswith("; --on-error skip leaves such images out")
    assert "Skipped 1 image that could not be read" in run(*audit, "--on-error", "skip").stderr
    run(*edit, "--on-error", "skip")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_stops_at_a_broken_image_or_leaves_it_out(image_folder, tmp_path, workers):
    broken = image_folder / "train" / "bee" / "03.png"
    broken.write_bytes(broken.read_bytes()[:60])
    command = ("train", "blackbox", "-d", image_folder, "-o", tmp_path / "out", "--network", "lookalike:small-cnn",
               "--epochs", 1, "--set", "image_size=16", "--workers", workers)  # fmt: skip
    assert mistake(*command).startswith(f"error: cannot read the image '{broken}': ")
    result = run(*command, "--on-error", "skip")
    assert "1 image could not be read and had to be left out" in result.stdout


def test_large_images_are_read_when_asked_to(network_file, image_folder, tmp_path, monkeypatch):
    accuracy(network_file, image_folder, tmp_path / "out")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large = tmp_path / "large.png"
    Image.new("RGB", (20, 20)).save(large)
    command = ("predict", tmp_path / "out", large, "--network", f"{network_file}:make")
    assert "--large-images" in mistake(*command)
    run(*command, "--large-images")
