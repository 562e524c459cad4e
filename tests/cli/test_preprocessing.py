"""Options of convert that say what images go through."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from lookalike._core.errors import LookalikeError
from lookalike.cli import app
from lookalike.cli.preprocessing import ImageOptions, adjust_preprocessing
from lookalike.data import Preprocessing

PRESET = Preprocessing(256, (224, 224))
BORDER = Preprocessing((70, 70), (64, 64), fit="contain", fill=(1, 2, 3), convention="transformers-pillow")


@pytest.mark.parametrize(
    ("known", "options", "expected"),
    [
        (PRESET, {}, PRESET),
        (PRESET, {"image_size": "224"}, PRESET),
        (PRESET, {"image_size": "224x224"}, PRESET),
        (BORDER, {"image_size": "64"}, BORDER),
        (PRESET, {"image_size": "112"}, Preprocessing(128, (112, 112))),
        (PRESET, {"resize": "232"}, Preprocessing(232, (224, 224))),
        (PRESET, {"resize": "256x256"}, Preprocessing((256, 256), (224, 224))),
        (PRESET, {"resize": "224x224"}, Preprocessing((224, 224), None)),
        (PRESET, {"resize": "32×48", "crop": "none"}, Preprocessing((32, 48), None)),
        (PRESET, {"resize": "40", "crop": "32"}, Preprocessing(40, (32, 32))),
        (PRESET, {"resize": "40", "image_size": "32"}, Preprocessing(40, (32, 32))),
        (PRESET, {"resize": "32x32", "image_size": "32"}, Preprocessing((32, 32), None)),
        (PRESET, {"resize": "none", "crop": "none"}, Preprocessing(None, None)),
        (BORDER, {"resize": "70", "crop": "64"}, Preprocessing(70, (64, 64))),
        (PRESET, {"interpolation": "bicubic"}, Preprocessing(256, (224, 224), interpolation="bicubic")),
        (PRESET, {"mean": "0.5", "std": "0.25"}, Preprocessing(256, (224, 224), (0.5,) * 3, (0.25,) * 3)),
        (None, {"image_size": "8", "mean": "0.5", "std": "0.5"}, Preprocessing(8, (8, 8), (0.5,), (0.5,))),
        (None, {"resize": "8x9", "mean": "0,0,0", "std": "1"}, Preprocessing((8, 9), None, (0.0,) * 3, (1.0,) * 3)),
    ],
    ids=str,
)
def test_options_are_those_of_a_users_own_transform(known, options, expected):
    assert adjust_preprocessing(known, ImageOptions(**options))[0] == expected


@pytest.mark.parametrize(
    ("known", "options", "message"),
    [
        (PRESET, {"mean": "127"}, "the mean 127 looks like 0…255: give 0.498"),
        (PRESET, {"mean": "0.5", "std": "58"}, "the std 58 looks like 0…255: give 0.227"),
        (PRESET, {"std": "0"}, "std must be positive"),
        (PRESET, {"std": "-1,1,1"}, "std must be positive"),
        (PRESET, {"mean": "inf"}, "mean must be a number"),
        (PRESET, {"mean": "0.5,0.5"}, "--mean has 2 numbers, but the network takes images of 3 channels; give 1 or 3"),
        (PRESET, {"resize": "100"}, "smaller than the crop of 224x224; give --crop 100, or --crop none"),
        (PRESET, {"image_size": "64", "crop": "32"}, "--image-size 64 contradicts .* which give 32x32"),
        (PRESET, {"image_size": "0"}, "--image-size takes a number of pixels, or HxW .*, not '0'"),
        (PRESET, {"resize": "3x4x5"}, "--resize takes a number of pixels, or HxW .*, or 'none', not '3x4x5'"),
        (PRESET, {"crop": "-1"}, "--crop takes a number of pixels"),
        (None, {"image_size": "8", "mean": "0.5"}, "give --image-size, --mean and --std together"),
    ],
    ids=str,
)
def test_nonsense_is_told_with_the_way_out(known, options, message):
    with pytest.raises(LookalikeError, match=message):
        adjust_preprocessing(known, ImageOptions(**options))


def test_a_preprocessing_that_was_not_understood_stops_the_command_or_is_replaced():
    with pytest.raises(LookalikeError, match=r"^do_this=True is not understood; say so$"):
        adjust_preprocessing(None, ImageOptions(), "do_this=True is not understood; say so")
    options = ImageOptions(image_size="8", mean="0.5", std="0.5")
    assert adjust_preprocessing(None, options, "not understood")[0] == Preprocessing(8, (8, 8), (0.5,), (0.5,))


def test_what_images_go_through_is_shown_and_on_the_model_card(network_file, image_folder, tmp_path):
    out = tmp_path / "out"
    command = ["convert", f"{network_file}:make", str(image_folder), "-o", str(out)]
    result = CliRunner().invoke(app, [*command, "--n-prototypes", "1", "--image-size", "16"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    line = "RGB; shorter side to 16 (bilinear), centre crop 16×16; mean 0.5, std 0.5"
    assert "Image size 16: resized to 16 and cropped to 16x16" in result.stderr
    assert line in result.stdout
    assert f"| images | {line} |" in (out / "README.md").read_text(encoding="utf-8")


def test_images_of_several_sizes_are_converted_and_predicted_one_by_one(tmp_path):
    own, model = tmp_path / "own.py", tmp_path / "model"
    own.write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))\n"
    )
    for k, name in enumerate(("ant", "bee")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for width in (8, 9, 12):
            Image.new("L", (width, 8), 100 * k + width).save(tmp_path / "data" / name / f"{width}.png")
    options = ["--resize", "none", "--crop", "none", "--mean", "0.5", "--std", "0.5", "--n-prototypes", "1"]
    arguments = ["convert", f"{own}:make", tmp_path / "data", "-o", model, *options, "--batch-size", "1"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "differ in size and are not kept" in result.stderr
    arguments = ["predict", model, tmp_path / "data", "--network", f"{own}:make", "--json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert len(json.loads(result.stdout)["predictions"]) == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_one_mean_is_for_every_channel_of_the_users_own_network(channels, image_folder, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(\n"
        f"        nn.Conv2d({channels}, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)\n    )\n"
    )
    arguments = ["convert", f"{own}:make", image_folder, "-o", tmp_path / "model", "--n-prototypes", "1", "--no-images"]
    arguments += ["--image-size", "8", "--mean", "0.5", "--std", "0.25", "--json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["preprocessing"]["mean"] == [0.5] * channels
