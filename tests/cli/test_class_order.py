"""Which output is which class, from files to the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lookalike.cli import app

COLOURS = [(230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 20), (230, 20, 230), (20, 230, 230),
           (250, 250, 250), (10, 10, 10), (240, 130, 20), (130, 130, 130), (120, 20, 120), (20, 120, 60)]  # fmt: skip
NETWORK = """
import torch
from torch import nn
from lookalike.data import Preprocessing

def make():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, {n}){tail})
    means = torch.tensor({colours}) / 255
    with torch.no_grad():
        net[2].weight.copy_(40 * means)
        net[2].bias.copy_(-20 * means.square().sum(1))
    return net, Preprocessing.square(8, mean=(0.0,) * 3, std=(1.0,) * 3)
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def write_folder(root, colour_of, n=4):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, colour in colour_of.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = np.array(colour) + rng.normal(0, 4, (8, 8, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def write_network(path, colours, tail=""):
    path.write_text(NETWORK.format(n=len(colours), colours=[list(colour) for colour in colours], tail=tail))
    return f"{path}:make"


def converted(tmp_path, model, folder, *options):
    out = run("convert", model, folder, "-o", tmp_path / "m", "--n-prototypes", 1, "--overwrite", "--json", *options,
              "--no-images")  # fmt: skip
    return json.loads(out.stdout)


@pytest.fixture
def numbered(tmp_path):
    """Twelve folders 1 … 12, and a network that has them in timm's order."""
    folder = write_folder(tmp_path / "data", {str(k + 1): colour for k, colour in enumerate(COLOURS)})
    return folder, write_network(tmp_path / "net.py", COLOURS)


def test_timms_order_is_suggested_withheld_and_set_right(numbered, tmp_path):
    folder, network = numbered
    found = converted(tmp_path, network, folder)
    assert found["test"]["accuracy"] == 1.0
    assert (found["test"]["black_box_accuracy"], found["test"]["agreement"]) == (None, None)
    assert any("--class-order natural" in note for note in found["notes"])
    evaluate = ("evaluate", tmp_path / "m", folder, "--network", network, "--only", "faithfulness")
    result = run(*evaluate)
    assert "withheld" in result.stdout
    assert "--class-order natural" in result.stderr
    assert "original's" not in result.output
    card = json.loads(run(*evaluate, "--class-order", "natural", "--json").stdout)
    assert (card["black_box_accuracy"], card["agreement"]) == (1.0, 1.0)
    found = converted(tmp_path, network, folder, "--class-order", "natural")
    assert (found["test"]["black_box_accuracy"], found["test"]["agreement"]) == (1.0, 1.0)
    card = json.loads(run(*evaluate, "--json").stdout)  # the saved model knows it now
    assert card["agreement"] == 1.0


def test_class_names_in_a_checkpoint_are_used(numbered, tmp_path):
    folder, network = numbered
    names = sorted((str(k) for k in range(1, 13)), key=int)
    state = {"2.weight": 40 * torch.tensor(COLOURS) / 255,
             "2.bias": -20 * (torch.tensor(COLOURS) / 255).square().sum(1)}  # fmt: skip
    torch.save({"state_dict": state, "class_to_idx": {name: k for k, name in enumerate(names)}}, tmp_path / "w.pth")
    found = converted(tmp_path, network, folder, "--weights", tmp_path / "w.pth")
    assert (found["test"]["black_box_accuracy"], found["notes"]) == (1.0, [])


@pytest.mark.parametrize("tail", ["", ", nn.Softmax(1)", ", nn.LogSoftmax(1)"])
def test_a_class_order_for_a_folder_with_some_of_the_classes(tmp_path, tail):
    folder = write_folder(tmp_path / "data", dict(zip(["cock", "Tench"], COLOURS, strict=False)))
    network = write_network(tmp_path / "net.py", COLOURS[2::-1], tail)  # goldfish, tench, cock
    found = converted(tmp_path, network, folder)
    assert found["test"]["black_box_accuracy"] is None
    assert any("3 classes and the model 2" in note for note in found["notes"])
    (tmp_path / "order.txt").write_text("goldfish\ntench, Tinca tinca\ncock\n")
    found = converted(tmp_path, network, folder, "--class-order", tmp_path / "order.txt")
    assert (found["test"]["black_box_accuracy"], found["test"]["agreement"]) == (1.0, 1.0)
    if tail:
        return
    report = tmp_path / "r.html"
    run("report", tmp_path / "m", folder, "--network", network, "-o", report, "--images", 2, "--browse", 4)
    assert "agrees with the original on 100.0%" in report.read_text()
    other = ("evaluate", tmp_path / "m", folder, "--network", network, "--only", "faithfulness", "--black-box", network)
    card = json.loads(run(*other, "--class-order", "goldfish,tench,cock", "--json").stdout)
    assert card["agreement"] == 1.0
    result = run(*other, code=2)
    assert "its outputs have no names" in result.stderr


def test_a_class_order_that_does_not_fit_is_refused(numbered, tmp_path):
    folder, network = numbered
    for given, message in (
        ("a,b", "has 2 names and the network 12"),
        (",".join("abcdefghijkl"), "does not name the classes"),
        ("nosuchfile", "neither a file nor a list"),
    ):
        result = run("convert", network, folder, "-o", tmp_path / "x", "--class-order", given, code=2)
        assert message in result.stderr.replace("\n", " ")
        assert not (tmp_path / "x").exists()


def test_a_hugging_face_model_and_all_or_some_of_its_classes(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    labels = ["goldfish", "cock", "tench, Tinca tinca", "great white shark"]
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], num_labels=4,
        id2label=dict(enumerate(labels)), label2id={name: k for k, name in enumerate(labels)},
    )  # fmt: skip
    model = ResNetForImageClassification(config).eval()
    folders = ["goldfish", "cock", "Tench", "great_white-shark"]
    folder = write_folder(tmp_path / "all", dict(zip(folders, COLOURS, strict=False)))
    x = torch.tensor(COLOURS[:4])[:, :, None, None].expand(-1, -1, 32, 32) / 255
    with torch.no_grad():  # a head that tells the four colours apart, whatever the features are
        head = model.classifier[1]
        z = model(x, output_hidden_states=True).hidden_states[-1].mean((2, 3))
        z = z - z.mean(0)
        head.weight.copy_(100 * torch.linalg.pinv(z).T)
        head.bias.copy_(-head.weight @ model(x, output_hidden_states=True).hidden_states[-1].mean((2, 3, 0)))
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 32, "width": 32},
        "do_normalize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3,
    }))  # fmt: skip
    found = converted(tmp_path, f"hf:{tmp_path / 'hf'}", folder)
    assert (found["test"]["black_box_accuracy"], found["test"]["agreement"]) == (1.0, 1.0)
    some = write_folder(tmp_path / "some", {"Tench": COLOURS[2], "cock": COLOURS[1]})
    found = converted(tmp_path, f"hf:{tmp_path / 'hf'}", some)
    assert (found["test"]["black_box_accuracy"], found["test"]["agreement"]) == (1.0, 1.0)
    strange = write_folder(tmp_path / "strange", {"Tench": COLOURS[2], "my cat": COLOURS[1]})
    found = converted(tmp_path, f"hf:{tmp_path / 'hf'}", strange)
    assert found["test"]["black_box_accuracy"] is None
    assert any("'my cat' are not among the black box's outputs" in note for note in found["notes"])
