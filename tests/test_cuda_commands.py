"""Every command runs on a GPU, and what it answers there is what it answers on the CPU; skipped where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lookalike import load
from lookalike.cli import app
from lookalike.parts import attribution, segmentation

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def write_images(root: Path, n: int, seed: int, suffix: str) -> None:
    generator = np.random.default_rng(seed)
    for k, name in enumerate(["ant", "bee", "cat"]):
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            top, left = generator.integers(0, 16, 2)
            pixels[top : top + 14, left : left + 14, k] += 150
            Image.fromarray(pixels).save(root / name / f"{i:02d}{suffix}")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("journey")
    write_images(root / "data" / "train", 24, 0, ".jpg")
    write_images(root / "data" / "test", 8, 1, ".png")
    write_images(root / "more", 12, 2, ".png")
    run("train", "blackbox", "-d", root / "data", "-o", root / "box", "--network", "lookalike:small-cnn",
        "--from-scratch", "--epochs", 6, "--set", "batch_size=16", "--device", DEVICE)  # fmt: skip
    return root


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    run("convert", place / "box", place / "data", "-o", place / "model", "--device", DEVICE)
    return place / "model"


@pytest.fixture(scope="module")
def parts(place: Path) -> Path:
    run("convert", place / "box", place / "data", "-o", place / "parts", "--level", "patch", "--layers", "b4",
        "--device", DEVICE)  # fmt: skip
    return place / "parts"


@pytest.mark.parametrize("kind", ["model", "parts"])
def test_predictions_are_those_of_the_cpu(request, place, kind):
    folder = request.getfixturevalue(kind)
    answers = [
        json.loads(run("predict", folder, place / "data" / "test", "--device", device, "--json"))
        for device in (DEVICE, "cpu")
    ]
    named = [[(one["file"], one["prediction"]) for one in answer["predictions"]] for answer in answers]
    assert named[0] == named[1]
    assert len(named[0]) == 24


@pytest.mark.parametrize("kind", ["model", "parts"])
def test_explain_with_maps_and_parts(request, place, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    run("explain", folder, place / "data" / "test" / "ant", "-o", tmp_path / "out", "--parts", "--device", DEVICE)
    assert (tmp_path / "out" / "explanations.json").exists()


@pytest.mark.parametrize("kind", ["model", "parts"])
def test_evaluate_and_report_everything(request, place, tmp_path, kind):
    folder = request.getfixturevalue(kind)
    measures = ["--measures", "all", "--sanity"] if kind == "model" else []
    run("evaluate", folder, place / "data", "-o", tmp_path / "card.json", "--images", 6, *measures,
        "--device", DEVICE)  # fmt: skip
    assert json.loads((tmp_path / "card.json").read_text())
    run("report", folder, place / "data", "-o", tmp_path / "report.html", "--images", 4, "--device", DEVICE)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_calibrate_watch_and_audit(place, model, tmp_path):
    run("calibrate", model, place / "more", "--device", DEVICE, "-o", tmp_path / "calibrated")
    run("watch", tmp_path / "calibrated", place / "data" / "test", "--state", tmp_path / "state", "--device", DEVICE)
    run("audit", place / "data", "--model", model, "-o", tmp_path / "audit.html", "--shortcuts", "--device", DEVICE)


def test_a_model_on_the_device_exports_and_is_edited(place, model, tmp_path):
    (tmp_path / "script.yaml").write_text("- drop: {prototypes: [0]}\n")
    run(
        "edit", model, tmp_path / "script.yaml", "--data", place / "data", "-o", tmp_path / "edited", "--device", DEVICE
    )
    assert len(load(tmp_path / "edited").prototypes) == len(load(model).prototypes) - 1
    run("export", model, "-o", tmp_path / "exported")


@pytest.mark.parametrize("kind", ["model", "parts"])
def test_parts_are_those_of_the_cpu(request, place, kind):
    folder = request.getfixturevalue(kind)
    files = sorted((place / "data" / "test").rglob("*.png"))
    found = {}
    for device in (DEVICE, "cpu"):
        sem = load(folder).to(device)
        explained = attribution.contributions(sem, files)
        found[device] = explained, explained.upsampled()
        if kind == "parts":
            segmentation.segment(sem, files)
    (on_gpu, above), (on_cpu, below) = found[DEVICE], found["cpu"]
    torch.testing.assert_close(on_gpu.maps.cpu(), on_cpu.maps, rtol=0.01, atol=0.01 * float(on_cpu.maps.abs().max()))
    torch.testing.assert_close(above.cpu(), below, rtol=0.01, atol=0.01 * float(below.abs().max()))


@pytest.mark.parametrize("method", ["protopnet", "flint", "protovae"])
def test_baselines_are_trained_and_evaluated(place, tmp_path, method):
    run("train", method, "-d", place / "data", "-o", tmp_path / method, "--network", "lookalike:small-cnn",
        "--from-scratch", "--epochs", 1, "--device", DEVICE)  # fmt: skip
    run("evaluate", tmp_path / method, place / "data", "--images", 4, "--device", DEVICE)
