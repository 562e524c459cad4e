"""Transparent pixels: the colours under them are arbitrary, and no answer rests on them in silence."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset, TensorDataset

from lookalike import convert, evaluate, explain
from lookalike._core.errors import LookalikeWarning
from lookalike.data import Preprocessing, is_transparent, load_data, load_training_data, warn_of_transparency
from tests.cli.test_commands import run

PLAIN = Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3)
SENTENCE = "have transparent pixels, such as"


@pytest.fixture
def net_rgb():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def cut_out(tmp_path):
    """A folder of 3 × 8 training and 3 × 3 test images, all cut out; what is not shown holds noise."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 8), ("test", 3)):
        for k, name in enumerate(["ant", "bee", "cat"]):
            (tmp_path / "cut-out" / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (12, 10, 4), dtype=np.uint8)
                pixels[3:9, 3:7, :3] = 40
                pixels[3:9, 3:7, k] = 230
                pixels[..., 3] = 0
                pixels[3:9, 3:7, 3] = 255
                Image.fromarray(pixels).save(tmp_path / "cut-out" / part / name / f"{i:02d}.png")
    return tmp_path / "cut-out"


@pytest.mark.parametrize(("transparency", "shown"), [("dropped", 100), ("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_what_was_decided(transparency, shown, mode):
    picture = Image.new("LA" if mode == "LA" else "RGBA", (4, 4), (100, 0) if mode == "LA" else (100, 100, 100, 0))
    if mode == "P":
        picture = picture.convert("RGB").quantize(4)
        picture.info["transparency"] = 0
    assert is_transparent(picture)
    x = replace(PLAIN, transparency=transparency)(picture)
    np.testing.assert_allclose(x, shown / 255, atol=0.01)


def test_only_pixels_that_are_not_opaque_count():
    assert not is_transparent(Image.new("RGBA", (4, 4), (1, 2, 3, 255)))
    assert not is_transparent(Image.new("RGB", (4, 4)))
    assert is_transparent(Image.new("RGBA", (4, 4), (1, 2, 3, 254)))
    assert is_transparent(np.zeros((4, 4, 4), np.uint8))
    assert not is_transparent(np.zeros((4, 4, 3), np.uint8))
    unused = Image.new("RGB", (4, 4), "red").quantize(2)
    unused.info["transparency"] = 1  # the palette has a transparent colour, and no pixel shows it
    assert not is_transparent(unused)


def test_files_are_counted_in_one_line_and_only_if_they_are_dropped(cut_out):
    bundle = load_data(cut_out, PLAIN)
    Image.new("RGB", (10, 12)).save(cut_out / "train" / "ant" / "00.png")
    with pytest.warns(LookalikeWarning, match=rf"^23 of 24 training images {SENTENCE} .*01\.png.*--transparency white"):
        warn_of_transparency(bundle.train, "training")
    with pytest.warns(LookalikeWarning, match="^2 of 2 test images have"):
        warn_of_transparency(Subset(bundle.train, [1, 2]), "test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_transparency(load_data(cut_out, replace(PLAIN, transparency="black")).train, "training")
        warn_of_transparency(torch.zeros(3), "training")
        warn_of_transparency(Subset(TensorDataset(torch.zeros(3)), [1]), "training")


def test_images_of_torchvision_are_counted_too(cut_out):
    vision = pytest.importorskip("torchvision")
    folder = vision.datasets.ImageFolder(cut_out / "train", vision.transforms.ToTensor())
    with pytest.warns(LookalikeWarning, match="^24 of 24 training images have"):
        warn_of_transparency(folder, "training")


def test_in_python_every_reader_says_so(cut_out, net_rgb):
    with pytest.warns(LookalikeWarning, match="24 of 24 training images have"):
        sem = convert(net_rgb, str(cut_out), 2, preprocessing=PLAIN, progress=False)
    for read in (sem.predict, lambda images: explain(sem, images)):
        with pytest.warns(LookalikeWarning, match=rf"^9 of 9 images {SENTENCE}"):
            read(cut_out / "test")
        with pytest.warns(LookalikeWarning, match="^the image has transparent pixels: the network sees"):
            read(Image.new("RGBA", (10, 12)))
    with pytest.warns(LookalikeWarning, match=rf"9 of 9 test images {SENTENCE}"):
        evaluate(sem, cut_out, only=("transparency",), progress=False)


def test_a_model_keeps_what_was_decided_and_says_nothing_more(cut_out, net_rgb, recwarn):
    white = replace(PLAIN, transparency="white")
    sem = convert(net_rgb, str(cut_out), 2, preprocessing=white, progress=False)
    glass = Image.new("RGBA", (10, 12), (10, 20, 30, 0))
    assert torch.equal(sem.similarities(glass), sem.similarities(Image.new("RGB", (10, 12), "white")))
    assert not [str(warning.message) for warning in recwarn if "transparent" in str(warning.message)]


@pytest.mark.parametrize("transparency", ["white", "black"])
def test_the_option_decides_for_all_commands(cut_out, network_file, tmp_path, transparency):
    network, options = ("--network", f"{network_file}:make"), ("--n-prototypes", 1, "--json")
    result = run("convert", f"{network_file}:make", cut_out, "-o", tmp_path / "dropped", *options)
    assert f"24 of 24 training images {SENTENCE}" in result.stderr
    result = run(
        "convert", f"{network_file}:make", cut_out, "-o", tmp_path / "laid", "--transparency", transparency, *options
    )
    assert "transparent" not in result.stderr
    assert json.loads(result.stdout)["preprocessing"]["transparency"] == transparency
    assert f"transparency on {transparency}" in json.loads(result.stdout)["images_as"]
    flat = tmp_path / "flat.png"
    cut = Image.open(cut_out / "test" / "ant" / "00.png")
    Image.alpha_composite(Image.new("RGBA", cut.size, transparency), cut).convert("RGB").save(flat)
    found = json.loads(run("predict", tmp_path / "laid", cut.filename, flat, *network, "--json").stdout)
    assert found["remarks"] == {}
    assert found["predictions"][0]["similarity"] == found["predictions"][1]["similarity"]
    result = run("evaluate", tmp_path / "laid", cut_out, "--only", "transparency", *network)
    assert "transparent" not in result.stderr


def test_commands_warn_in_one_line_where_it_is_dropped(cut_out, network_file, tmp_path):
    network = ("--network", f"{network_file}:make")
    run("convert", f"{network_file}:make", cut_out, "-o", tmp_path / "model", "--n-prototypes", 1)
    result = run("predict", tmp_path / "model", cut_out / "test", *network, "--json")
    assert result.stderr.count("transparent") == 0  # JSON has a remark for each file
    assert len(json.loads(result.stdout)["remarks"]) == 9
    for command in (("predict",), ("explain", "--no-maps", "-o", tmp_path / "pictures")):
        result = run(command[0], tmp_path / "model", cut_out / "test", *command[1:], *network)
        assert result.stderr.count(f"9 of 9 images {SENTENCE}") == 1
        assert result.stderr.count("warning:") == 1
    result = run("evaluate", tmp_path / "model", cut_out, "--only", "transparency", *network)
    assert f"9 of 9 test images {SENTENCE}" in result.stderr
    wrong = ("convert", f"{network_file}:make", cut_out, "-o", tmp_path / "x", "--transparency", "grey")
    assert "'grey'" in run(*wrong, code=2).stderr


def test_a_network_trained_here_sees_transparent_pictures_on_white(cut_out):
    bundle = load_training_data(cut_out, 8)
    assert bundle.preprocessing.transparency == "white"
