"""An exported folder answers as the model does, without this library."""

import base64
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from lookalike import LookalikeError, convert, explain
from lookalike.cli import app
from lookalike.data import ImageArray, Preprocessing
from lookalike.export import Answer, export_model
from tests.export.test_plain import images, network

ort = pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).parents[2] / "examples" / "run_exported.py"
PREPROCESSING = Preprocessing(None, (12, 12), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def pixels(n=40):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 120, (n, 12, 12, 3), dtype=np.uint8)
    labels = np.arange(n) % 4
    values[np.arange(n), :, :, labels % 3] += (40 + 30 * (labels // 3))[:, None, None].astype(np.uint8)
    return values, labels


@pytest.fixture(scope="module")
def model():
    values, labels = pixels()
    return convert(network(), ImageArray(values, labels, list("abcd"), PREPROCESSING), 2, progress=False)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    assert model.export(folder, pixels=True) == folder / "model.onnx"
    return folder


@pytest.fixture(scope="module")
def one_file(model, tmp_path_factory):
    """A file that takes inputs of the network, with the pictures inside."""
    return model.export(tmp_path_factory.mktemp("inside") / "one", images="inside", licence="CC0-1.0")


def answers(file, inputs):
    session = ort.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    assert names == list(Answer._fields[:8])
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: inputs}), strict=True))


@pytest.mark.parametrize("n", [1, 3, 64])
def test_onnx_answers_as_the_model_does(model, folder, n):
    values, _ = pixels(n)
    found = answers(folder / "model.onnx", values)
    inputs = torch.stack([PREPROCESSING(value) for value in values])
    np.testing.assert_allclose(found["scores"], model(inputs).detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(inputs), rtol=1e-4, atol=1e-4)
    assert found["nearest"][:, 0].tolist() == model.similarities(inputs).argmax(1).tolist()
    assert found["evidence"].shape == (n, 3, 10, 10)
    assert found["unfamiliar"].dtype == bool


def test_the_description_says_what_the_numbers_mean(model, folder):
    described = json.loads((folder / "prototypes.json").read_text())
    assert described["class_names"] == list("abcd")
    assert described["outputs"] == list(Answer._fields[:8])  # sets need a calibration
    assert [row["class"] for row in described["prototypes"]] == ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert [row["count"] for row in described["prototypes"]] == model.prototypes.counts.tolist()
    for j, row in enumerate(described["prototypes"]):
        shown = np.asarray(Image.open(folder / row["image"]))
        np.testing.assert_array_equal(shown, model.images[j, 0].numpy())
    assert metadata_of(folder / "model.onnx") == described
    assert described["versions"]["lookalike"]
    assert set(described["fingerprints"]) >= {"data", "weights"}


def metadata_of(file):
    return json.loads(ort.InferenceSession(file).get_modelmeta().custom_metadata_map["lookalike"])


def test_one_file_can_hold_the_pictures_too(model, one_file):
    assert sorted(path.name for path in one_file.parent.iterdir()) == ["model.onnx", "prototypes.json"]
    described = metadata_of(one_file)
    assert described["licence"] == "CC0-1.0"
    shown = base64.b64decode(described["prototypes"][3]["image"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown))), model.images[3, 0].numpy())


def test_the_name_of_a_file_writes_one_file(model, folder, tmp_path):
    file = model.export(tmp_path / "model.onnx", pixels=True)
    assert list(tmp_path.iterdir()) == [file] == [tmp_path / "model.onnx"]
    values = pixels()[0][:5]
    ours, theirs = answers(file, values), answers(folder / "model.onnx", values)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    described = json.loads(ort.InferenceSession(file).get_modelmeta().custom_metadata_map["lookalike"])
    assert all(prototype["image"].startswith("data:image/png") for prototype in described["prototypes"])
    with pytest.raises(LookalikeError, match="exists already"):
        model.export(file)
    with pytest.raises(LookalikeError, match="name of a file of the kind onnx, not pt2"):
        model.export(file, kind="pt2", overwrite=True)


def test_the_command_writes_the_kind_that_the_file_is_named_after(model, tmp_path):
    model.save(tmp_path / "model")
    file, network = tmp_path / "answers.pt2", Path(__file__).parent / "test_plain.py"
    command = ["export", str(tmp_path / "model"), "--network", f"{network}:network", "-o"]
    result = CliRunner().invoke(app, [*command, str(file), "--no-images", "--json"])
    told = json.loads(result.stdout)
    assert (told["file"], told["page"]) == (str(file), None)
    extra = {"prototypes.json": ""}
    program = torch.export.load(str(file), extra_files=extra).module()
    assert json.loads(extra["prototypes.json"])["prototypes"][0]["image"] is None
    x = images()[0][:3]
    torch.testing.assert_close(program(x)[0], model(x), atol=1e-5, rtol=1e-5)
    said = CliRunner().invoke(app, [*command, str(tmp_path / "again.pt2"), "--no-images"]).output
    size = (tmp_path / "again.pt2").stat().st_size
    assert float(re.search(r"again\.pt2\s+\(([\d.]+)\s+MB\)", said)[1]) == pytest.approx(size / 1e6, abs=0.06)
    refused = CliRunner().invoke(app, [*command, "x.onnx", "--page", str(tmp_path)])
    assert "write a folder" in refused.output


def test_of_equal_likenesses_the_file_names_the_one_of_the_lower_number(tmp_path):
    x, _ = images(20)
    model = convert(network(), (torch.cat([x, x]), torch.arange(40) // 20), 3, progress=False)
    model.prototypes.vectors[3:] = model.prototypes.vectors[:3]
    found = answers(model.export(tmp_path / "twins", n_nearest=6), x.numpy())
    explained = explain(model, x, n_nearest=6)
    assert found["nearest"].tolist() == [[near.prototype for near in e.likenesses] for e in explained]


def test_a_program_of_torch_answers_alike(model, tmp_path):
    extra = {"prototypes.json": ""}
    program = torch.export.load(model.export(tmp_path / "program", kind="pt2"), extra_files=extra).module()
    x, _ = images(7)
    torch.testing.assert_close(program(x)[0], model(x), rtol=1e-5, atol=1e-5)
    assert json.loads(extra["prototypes.json"])["inputs"] == "inputs of the network [N, ...]"


@pytest.mark.parametrize("exported", ["folder that takes bytes", "folder with pictures inside", "file"])
def test_the_example_runs_without_this_library(model, folder, one_file, tmp_path, exported):
    """The example reads what the file takes: bytes, or inputs that it normalises itself; both answer alike."""
    if exported == "file":
        folder = shutil.copy(one_file, tmp_path / "one.onnx")
    elif exported != "folder that takes bytes":
        folder = one_file.parent
    Image.fromarray(pixels()[0][1]).save(tmp_path / "photograph.png")
    shutil.copy(EXAMPLE, tmp_path)
    program = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['lookalike'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "run_exported.py", str(folder), "photograph.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (explanation,) = explain(model, [Image.fromarray(pixels()[0][1])], n_nearest=1)
    assert result.stdout.startswith(f"{explanation.class_name}: {explanation.probability:.0%}")
    assert f"looks like prototype {explanation.likenesses[0].prototype} of" in result.stdout
    assert Image.open(tmp_path / "this-looks-like-that.png").size == (4 * 168, 188)


@pytest.mark.parametrize("transparency", ["white", "black", "dropped"])
def test_the_example_reads_transparent_pictures_as_the_model_does(transparency):
    as_input = runpy.run_path(str(EXAMPLE))["as_input"]
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    values[:, :, 3] = 255 * (values[:, :, 3] > 128)
    preprocessing = replace(PREPROCESSING, transparency=transparency)
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(type="tensor(uint8)", shape=["N", 12, 12, 3])])
    found, _ = as_input(Image.fromarray(values), session, {"preprocessing": preprocessing.to_dict()})
    expected = values[:, :, :3].copy()
    if transparency != "dropped":
        expected[values[:, :, 3] == 0] = 255 if transparency == "white" else 0
    assert np.array_equal(found[0], expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resize": 14, "crop": (12, 12)},
        {"resize": 12, "crop": (12, 12), "interpolation": "bicubic"},
        {"resize": (12, 12), "crop": None, "fit": "stretch", "interpolation": "lanczos"},
        {"resize": (12, 12), "crop": (12, 12), "fit": "contain", "fill": (255, 0, 9)},
        {"resize": (12, 12), "crop": (12, 12), "fit": "cover"},
        {"resize": 12, "crop": (12, 12), "window": (0.75, 0.75)},
        {"resize": 7, "crop": (12, 12), "fill": (50,)},
        {"value_range": (100.0, 5000.0), "resize": (12, 12)},
        {"as_stored": True, "resize": (12, 12)},
    ],
)
@pytest.mark.parametrize("kind", ["colours", "16 bits", "turned"])
def test_the_example_reads_pictures_as_the_model_does(options, kind, tmp_path):
    """A picture whose greys were cut off at 255, that lies on its side, or is resized otherwise has other answers."""
    as_input = runpy.run_path(str(EXAMPLE))["as_input"]
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    if kind == "16 bits":
        picture = Image.fromarray(rng.integers(0, 65536, (20, 31), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "photograph.png"
    picture.save(file, exif=exif if kind == "turned" else b"")
    preprocessing = replace(PREPROCESSING, **{"resize": (12, 12), **options})
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(type="tensor(float)", shape=["N", 3, 12, 12])])
    found, _ = as_input(Image.open(file), session, {"preprocessing": preprocessing.to_dict()})
    np.testing.assert_allclose(found[0], preprocessing.read(file), atol=1e-5)


def test_the_example_refuses_what_it_does_not_have():
    as_input = runpy.run_path(str(EXAMPLE))["as_input"]
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(type="tensor(float)", shape=["N", 3, 12, 12])])
    picture = Image.fromarray(pixels()[0][0])
    for preprocessing, image, message in (
        (replace(PREPROCESSING, convention="transformers"), picture, "rules of its own"),
        (PREPROCESSING, picture.convert("F"), "no scale of their own"),
        (replace(PREPROCESSING, crop=None), picture.resize((9, 9)), "9 × 9 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            as_input(image, session, {"preprocessing": preprocessing.to_dict()})


def test_the_command_exports_without_pictures(model, tmp_path):
    model.save(tmp_path / "model")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--kind", "pt2"])
    assert result.exit_code == 2  # a network made in Python has to be given again
    assert "--network" in result.output


def test_what_cannot_be_exported_is_refused_in_a_line(model, tmp_path):
    with pytest.raises(LookalikeError, match="kind must be 'onnx' or 'pt2', not 'tflite'"):
        export_model(model, tmp_path / "a", kind="tflite")
    (tmp_path / "b").mkdir()
    with pytest.raises(LookalikeError, match="exists already"):
        export_model(model, tmp_path / "b")
    plain = convert(network(), images(), 2, progress=False)
    with pytest.raises(LookalikeError, match=r"does not know what its images go through"):
        export_model(plain, tmp_path / "c", kind="pt2", pixels=True)
    assert not (tmp_path / "c").exists()
    export_model(model, tmp_path / "d", kind="pt2", images=False)
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["model.pt2", "prototypes.json"]


def test_what_is_known_of_too_few_images_is_no_range(tmp_path):
    x, y = images(4)
    export_model(convert(network(), (x, y), 1, progress=False), tmp_path / "few", kind="pt2")
    described = json.loads((tmp_path / "few" / "prototypes.json").read_text())
    assert [row["familiar_up_to"] for row in described["prototypes"]] == [None] * 4


def test_networks_in_double_precision_take_bytes(model, tmp_path):
    values, labels = pixels()
    double = convert(network().double(), ImageArray(values, labels, list("abcd"), PREPROCESSING), 2, progress=False)
    program = torch.export.load(export_model(double, tmp_path / "double", kind="pt2", pixels=True)).module()
    found = program(torch.from_numpy(values[:5]))[0]
    torch.testing.assert_close(
        found.float(), model(torch.stack([PREPROCESSING(v) for v in values[:5]])), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_precision_that_runtimes_do_not_take_is_refused(dtype, tmp_path):
    x, labels = images()
    model = convert(network().to(dtype), (x, labels), 2, progress=False)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(LookalikeError, match=rf"computes in {name}, which ONNX runtimes do not take: .*kind='pt2'"):
        export_model(model, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
    assert export_model(model, tmp_path / "a.pt2").exists()


def test_a_perceptron_in_double_precision_runs(tmp_path):
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double().eval()
    x, labels = torch.randn(30, 5).double(), torch.arange(30) % 3
    model = convert(mlp, (x, labels), 2, progress=False)
    found = answers(export_model(model, tmp_path / "a.onnx"), x.numpy())
    np.testing.assert_allclose(found["scores"], model(x).detach(), rtol=1e-6)


def test_a_program_that_computes_something_else_is_not_written(blobs, tmp_path):
    """A fixed mask by a generator of its own is no part of a program, which would draw another each time."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.body, self.head = nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 3)

        def forward(self, x):
            mask = torch.rand(6, generator=torch.Generator().manual_seed(0))
            return self.head(self.body(self.flat(x)).relu() * mask)

    model = convert(Masked().eval(), blobs, n_prototypes=2, progress=False)
    # before torch 2.11 no program can hold a generator at all
    with pytest.raises(LookalikeError, match=r"computes something else than the model|argument of type.*Generator"):
        model.export(tmp_path / "model", kind="pt2")
    assert not (tmp_path / "model").exists()


def test_numbers_that_no_runtime_takes_are_refused(blobs, tmp_path):
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                z = self.body(x).relu().mean((2, 3))
            return self.head(z.float())

    model = convert(Halved().eval(), blobs, n_prototypes=2, progress=False)
    with pytest.raises(LookalikeError, match="computes in bfloat16"):
        model.export(tmp_path / "model", kind="onnx")


def test_a_network_that_writes_into_its_inputs_is_exported(blobs, tmp_path):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.body, self.head = nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 3)

        def forward(self, x):
            x -= 0.5
            return self.head(self.body(self.flat(x)).relu())

    model = convert(InPlace().eval(), blobs, n_prototypes=2, progress=False)
    file = model.export(tmp_path / "model", kind="pt2")
    scores = torch.export.load(str(file)).module()(blobs[0][:5].clone())[0]
    torch.testing.assert_close(scores, model(blobs[0][:5]), rtol=1e-4, atol=1e-4)
