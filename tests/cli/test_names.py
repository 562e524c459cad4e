import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.cli.console import print_json
from lookalike.model import load

RUNNER = CliRunner()
NOT_TEXT = os.fsdecode(b"caf\xe9")
CLASSES = {"ant": "\x1b[2J\x1b]0;owned\x07", "bee": "abc\u202egnp\n[bold]error: x[red]", "cat": NOT_TEXT}
FILE = os.fsdecode(b"\x1b[31m\n\xff `|$x$ ") + "z" * 60


def run(*arguments, code=0):
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    for sign in result.output.replace("\n", ""):
        assert unicodedata.category(sign) not in ("Cc", "Cf", "Cs"), repr(result.output)
    return result


@pytest.fixture
def hostile_folder(image_folder):
    """The images in folders and files with names that are no text, or that a terminal would obey."""
    for part in ("train", "test"):
        for old, new in CLASSES.items():
            (image_folder / part / old).rename(image_folder / part / new)
        (image_folder / part / NOT_TEXT / "00.png").rename(image_folder / part / NOT_TEXT / f"{FILE}.png")
    return image_folder


def test_names_reach_neither_the_terminal_raw_nor_end_a_command(hostile_folder, network_file, tmp_path):
    network, model, out = f"{network_file}:make", tmp_path / "model", tmp_path / "pictures"
    shown = run("convert", network, hostile_folder, "-o", model, "--n-prototypes", 2).stdout
    assert r"\x1b[2J\x1b]0;owned\x07" in shown
    assert r"abc\u202egnp\n[bold]error: x[red]" in shown
    assert r"caf\xe9" in shown
    names = sorted([CLASSES["ant"], CLASSES["bee"], r"caf\xe9"])
    again = load(model, model=load_network(network_file))
    assert again.class_names == names
    assert json.loads((model / "config.json").read_text("utf-8"))["class_names"] == names
    assert "\x1b" not in (model / "README.md").read_text("utf-8")

    result = run("predict", model, hostile_folder / "test", "--network", network, "--json")
    rows = json.loads(result.stdout)["predictions"]
    row = next(row for row in rows if row["file"].endswith("zzz.png"))
    assert Path(os.fsdecode(unquote_to_bytes(row["file_bytes"]))).is_file()
    assert sum("file_bytes" in row for row in rows) == 3
    run("predict", model, hostile_folder / "test", "--network", network)

    few = [next((hostile_folder / "test" / name).iterdir()) for name in (CLASSES["ant"], CLASSES["bee"])]
    few.append(hostile_folder / "test" / NOT_TEXT / f"{FILE}.png")
    options = ["--network", network, "--labels-from-folders", "--no-maps", "--nearest", 1]
    result = run("explain", model, *few, "-o", out, *options)
    assert r"\x1b[31m\n\xff" in result.stdout
    rows = json.loads((out / "explanations.json").read_text("utf-8"))
    assert sorted(row["true"] for row in rows) == names
    assert all((out / row["picture"]).is_file() for row in rows)
    for picture in out.iterdir():
        assert set(picture.name.encode()) <= set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    row = next(row for row in rows if "name_bytes" in row and row["name"].endswith("zzz.png"))
    assert Path(os.fsdecode(unquote_to_bytes(row["name_bytes"]))).is_file()

    run("evaluate", model, hostile_folder, "--network", network, "--only", "transparency", "-o", tmp_path / "card.json")


def test_a_report_shows_names_as_they_are_written(hostile_folder, network_file, tmp_path):
    network, model = f"{network_file}:make", tmp_path / "model"
    run("convert", network, hostile_folder, "-o", model, "--n-prototypes", 1, "--no-images")
    options = ["--images", 2, "--browse", 2, "--nearest", 1]
    run("report", model, hostile_folder, "--network", network, "-o", tmp_path / "report.html", *options)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert not {sign for sign in page if unicodedata.category(sign) in ("Cc", "Cf")} - {"\n"}
    assert r"abc\u202egnp\n[bold]error: x[red]" in page


def load_network(network_file):
    scope = {}
    exec(network_file.read_text(), scope)
    return scope["make"]()[0]


def test_errors_and_warnings_show_names_as_they_are_written(hostile_folder, network_file, tmp_path):
    network = f"{network_file}:make"
    for arguments in (
        ["convert", network, tmp_path / "\x1b[31mno\nerror: fine", "-o", tmp_path / "o"],
        ["convert", network, hostile_folder, "-o", tmp_path / "o", "--labels", "\x1b]0;x\x07"],
        ["convert", "\x1b[31m", hostile_folder, "-o", tmp_path / "o"],
        ["predict", tmp_path / "\x1b[31m", "\u202ex.png"],
    ):
        errors = [line for line in run(*arguments, code=2).stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
    for arguments in (["datasets", "\x1b[31m"], ["\x1b[31m"], ["datasets", "--\x1b[31m"]):
        assert r"\x1b" in run(*arguments, code=2).output
    (hostile_folder / "train" / NOT_TEXT / f"{FILE}.png").write_text("no image")
    result = run("convert", network, hostile_folder, "-o", tmp_path / "o", "--on-error", "skip", "--json")
    assert r"\xff" in json.loads(result.stdout)["skipped"][0]


def test_a_model_in_a_folder_whose_name_is_no_text_is_read_again(image_folder, network_file, tmp_path):
    network, model = f"{network_file}:make", tmp_path / NOT_TEXT
    run("convert", network, image_folder, "-o", model, "--n-prototypes", 1, "--no-images")
    run("predict", model, image_folder / "test", "--network", network)
    error = run("convert", network, image_folder, "-o", model, code=2).stderr
    assert r"caf\xe9' exists already" in error


def test_an_explanation_writes_a_class_as_all_else_does(hostile_folder, network_file, tmp_path):
    network, model = f"{network_file}:make", tmp_path / "model"
    run("convert", network, hostile_folder, "-o", model, "--n-prototypes", 1, "--no-images")
    image = hostile_folder / "test" / NOT_TEXT / f"{FILE}.png"
    shown = run("explain", model, image, "-o", tmp_path / "out", "--network", network, "--no-maps").stdout
    assert r"of class 'caf\xe9'" in shown


@pytest.mark.parametrize("arguments", [["\x1b[2Jevaluate"], ["--\x1b[2Jquiet"], ["evaluate", "--\x1b[2Jquiet"]])
def test_a_mistyped_command_does_not_reach_the_terminal_raw(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert r"\x1b[2J" in result.output
    assert "\x1b[2J" not in result.output


@pytest.mark.parametrize(("encoding", "is_plain"), [("ascii", True), ("utf-8", False)])
def test_json_is_what_the_output_can_write(encoding, is_plain, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    print_json({"class": "café"})
    assert json.loads(written.getvalue()) == {"class": "café"}
    assert written.getvalue().isascii() is is_plain


@pytest.mark.slow
def test_a_locale_that_can_write_nothing_loses_nothing(hostile_folder, network_file, tmp_path):
    """One process converts, and its model knows the same class names as one made under UTF-8."""
    make_umlaut = hostile_folder / "train" / "café"
    (hostile_folder / "train" / CLASSES["ant"]).rename(make_umlaut)
    (hostile_folder / "test" / CLASSES["ant"]).rename(hostile_folder / "test" / "café")
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    script = (
        "import sys, torch; torch.set_num_threads(1); from lookalike.cli import main; sys.argv[0] = 'lookalike'; main()"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, "convert", f"{network_file}:make", hostile_folder, "-o", tmp_path / "m",
         "--json", "--no-images"],
        env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    assert made.stdout.isascii()
    classes = {row["class"] for row in json.loads(made.stdout)["prototypes"]}
    assert classes == {"café", CLASSES["bee"], r"caf\xe9"}
    assert set(load(tmp_path / "m", model=load_network(network_file)).class_names) == classes
