"""Layouts and tables on the command line: what was passed over is told, what is unclear is refused."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from lookalike import LookalikeError
from lookalike.cli import app

RUNNER = CliRunner()


def run(*arguments, code=0):
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def flat_folder(image_folder, tmp_path):
    """The same images in one folder, with a table of their classes beside it, and a thumbnail."""
    root = tmp_path / "flat"
    root.mkdir()
    rows = ["image_id;dx;split"]
    for file in sorted(image_folder.rglob("*.png")):
        part, name = file.parts[-3:-1]
        rows.append(f"{part}-{name}-{file.stem};{name};{part}")
        shutil.copy(file, root / f"{part}-{name}-{file.name}")
    (root / "Thumbs.db").touch()
    (tmp_path / "classes.csv").write_text("\n".join(rows))
    return root


def test_a_table_of_labels_serves_every_command(flat_folder, network_file, tmp_path):
    network, labels, model = f"{network_file}:make", ["--labels", tmp_path / "classes.csv"], tmp_path / "m"
    made = json.loads(run("convert", network, flat_folder, *labels, "-o", model, "--no-images", "--json").stdout)
    assert made["passed_over"] == {"thumbnail": {"count": 1, "examples": ["Thumbs.db"]}}
    assert {row["class"] for row in made["prototypes"]} == {"ant", "bee", "cat"}
    assert made["test"]["n_samples"] == 9
    options = ["--network", network, "--only", "transparency"]
    card = json.loads(run("evaluate", model, flat_folder, *labels, *options, "--json").stdout)
    assert card["passed_over"] == made["passed_over"]
    assert "passed over 1 file or folder of thumbnails" in run("evaluate", model, flat_folder, *labels, *options).output
    audit = ["audit", flat_folder, "--model", model, "--network", network]
    audited = json.loads(run(*audit, *labels, "--json").stdout)
    assert "suspects" in audited
    assert audited["passed_over"] == made["passed_over"]
    assert any("passed over 1 file or folder of thumbnails" in note for note in audited["notes"])
    assert "passed over 1 file or folder of thumbnails" in run(*audit, *labels).output
    assert "no folder for each class" in run(*audit, code=2).stderr
    (tmp_path / "e.yaml").write_text("- drop: {prototypes: [0]}\n")
    edit = ["edit", model, tmp_path / "e.yaml", "--network", network, "--data", flat_folder]
    assert (
        json.loads(run(*edit, *labels, "--dry-run", "--json").stdout)["log"][0]["effect"]["part"] == "held-out training"
    )
    assert "no folder for each class" in run(*edit, code=2).stderr
    for command in (["evaluate", model], ["report", model], ["convert", network]):
        options = ["--network", network] if command[0] != "convert" else ["-o", tmp_path / "x"]
        errors = run(*command, flat_folder, *options, code=2).stderr
        assert "no folder for each class" in errors
    errors = run("train", "blackbox", "-d", flat_folder, "--labels", "none.csv", "-o", tmp_path / "t", code=2).stderr
    assert "error: the table of labels 'none.csv' does not exist" in errors


def test_the_studio_takes_the_table_too(monkeypatch):
    def given(_, data, **__):
        raise LookalikeError(f"{data.data}, {data.labels}, {data.corrections}")

    monkeypatch.setattr("lookalike.cli.studio.open_for_editing", given)
    command = ["studio", "model", "folder", "--labels", "classes.csv", "--corrections", "c.csv"]
    assert "error: folder, classes.csv, c.csv" in run(*command, code=2).stderr


def test_predictions_and_explanations_tell_what_was_passed_over(flat_folder, network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    run("convert", network, image_folder, "-o", tmp_path / "m", "--no-images")
    for path in list(flat_folder.glob("*.png"))[1:]:
        path.unlink()
    (flat_folder / "notes.txt").touch()
    expected = {
        "thumbnail": {"count": 1, "examples": ["Thumbs.db"]},
        "other_file": {"count": 1, "examples": ["notes.txt"]},
    }
    options = [tmp_path / "m", flat_folder, "--network", network]
    assert json.loads(run("predict", *options, "--json").stdout)["passed_over"] == expected
    assert "Note: passed over 1 file that is no image, 'notes.txt'." in run("predict", *options).stdout
    table = run("predict", *options, "--csv")
    assert "passed over 1 file that is no image, 'notes.txt'." in table.stderr
    assert "notes.txt" not in table.stdout
    told = json.loads(run("explain", *options, "--no-maps", "-o", tmp_path / "e", "--json").stdout)
    assert told["passed_over"] == expected


def test_parts_never_become_classes(image_folder, network_file, tmp_path):
    for old, new in (("train", "Train"), ("test", "Test")):
        (image_folder / old).rename(image_folder / new)
    options = ["-o", tmp_path / "m", "--no-images", "--json"]
    made = json.loads(run("convert", f"{network_file}:make", image_folder, *options).stdout)
    assert made["test"]["n_samples"] == 9
    for name in ("bee", "cat"):
        for part in ("Train", "Test"):
            shutil.rmtree(image_folder / part / name)
    errors = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x", code=2).stderr
    assert "has one class only, 'ant', and a classifier needs two" in errors
    (image_folder / "Train" / "ant" / "00.png").rename(image_folder / "Train" / "00.png")
    (image_folder / "Test" / "ant" / "00.png").rename(image_folder / "Test" / "00.png")
    for part in ("Train", "Test"):
        shutil.rmtree(image_folder / part / "ant")
    errors = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x", code=2).stderr
    assert "'Test', 'Train' in" in errors
    assert len(errors.strip().splitlines()) == 2  # a warning that no weights are given, and this
