"""Parts on the command line: conversion of patches and heads, and their explanations."""

import json

import pytest
from typer.testing import CliRunner

from lookalike import load, load_classifier
from lookalike.cli.app import app

run = CliRunner()
SIZE = ["--image-size", "12", "--mean", "0", "--std", "1", "--n-prototypes", "5"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "network.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(8, 3))\n"
    )
    return f"{file}:make"


@pytest.mark.parametrize("level", ["patch", "head"])
def test_each_level_is_converted_and_explained_by_parts(level, network, image_folder, tmp_path):
    more = ["--layers", "last", "--decision", "mean"] if level == "patch" else []
    done = run.invoke(
        app, ["convert", network, str(image_folder), "-o", str(tmp_path / "m"), "--level", level, *more, *SIZE]
    )
    assert done.exit_code == 0, done.output
    assert ("held-out training patches" in done.output) == (level == "patch")
    assert ("training patches  " in done.output) == (level == "patch")  # a column of the table
    assert load(tmp_path / "m", model=load_classifier(network).model).has_patches == (level == "patch")
    pictures = image_folder / "test" / "ant"
    args = ["explain", str(tmp_path / "m"), str(pictures), "-o", str(tmp_path / "e"), "--no-maps", "--parts", "--json"]
    args += ["--network", network]
    done = run.invoke(app, args)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "e" / "explanations.json").read_text())
    kinds = {name.removesuffix(".png").rpartition("-")[2] for name in rows[0]["parts"]["pictures"]}
    assert kinds == {"difference", "pairs"} | ({"concepts"} if level == "patch" else set())
    assert all((tmp_path / "e" / name).exists() for row in rows for name in row["parts"]["pictures"])
    sentences = [rows[0]["parts"][kind]["sentence"] for kind in ("difference", "pairs")]
    assert "rather than" in sentences[0]
    without_json = [argument for argument in args if argument != "--json"] + ["--overwrite"]
    shown = " ".join(run.invoke(app, without_json).output.split())
    assert all(sentence in shown for sentence in sentences)


def test_concepts_of_all_classes_together_are_an_option(network, image_folder, tmp_path):
    args = ["convert", network, str(image_folder), "-o", str(tmp_path / "m"), "--level", "patch", *SIZE, "--shared"]
    refused = run.invoke(app, args)
    assert refused.exit_code == 2
    assert "decision='linear'" in " ".join(refused.output.split())
    done = run.invoke(app, [*args, "--decision", "linear", "--json"])
    assert done.exit_code == 0, done.output
    model = load(tmp_path / "m", model=load_classifier(network).model)
    assert len(model.prototypes) == 5
    assert model.provenance["shared"] is True


def test_the_table_of_shared_concepts_has_a_row_for_classes_that_own_none(network, image_folder, tmp_path):
    args = ["convert", network, str(image_folder), "-o", str(tmp_path / "m"), "--level", "patch", *SIZE, "--shared"]
    done = run.invoke(app, [*args, "--decision", "linear", "--n-prototypes", "2"])
    assert done.exit_code == 0, done.output
    rows = [[cell.strip() for cell in line.split("│")] for line in done.output.splitlines() if "│" in line]
    assert sorted(row[2] for row in rows) == ["0", "1", "1"], done.output
    assert [row[4] for row in rows if row[2] == "0"] == ["–"]
    assert "nan" not in done.output


def test_options_of_another_level_are_refused_in_one_line(network, image_folder, tmp_path):
    for more, message in (
        (["--layers", "b4"], "layers is an option of patches"),
        (["--level", "pixel"], "--level"),
        (["--level", "head", "--clusterer", "gmm"], "is an option of clustered prototypes"),
        (["--level", "patch", "--decision", "sum"], "decision"),
    ):
        done = run.invoke(app, ["convert", network, str(image_folder), "-o", str(tmp_path / "m"), *more, *SIZE])
        assert done.exit_code == 2
        assert message in done.output
