"""Options of commands: each has the default of the function behind it, and what is given arrives there."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from lookalike import convert
from lookalike.cli import app
from lookalike.conversion.options import settings_of
from lookalike.explanation import Explainer
from lookalike.metrics import EvaluationSettings
from lookalike.model import PrototypeModel

COMMANDS = typer.main.get_command(app).commands
OTHER_NAMES = {"images": "n_images", "runs": "n_runs", "workers": "num_workers", "nearest": "n_nearest"}
OWN = {  # where a command has a default of its own
    "explain": {"batch_size": 64},
    "report": {"images": 30},
    # numbers of prototypes are a text, which can name classes; options of patches are only given where there are some
    "convert": {"batch_size": 64, "n_prototypes": "5", "layers": None, "decision": None},
}


def defaults_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def defaults_of_convert():
    groups = asdict(settings_of("convert", 5, 0, {}))
    grouped = {name: value for one in groups.values() if isinstance(one, dict) for name, value in one.items()}
    del grouped["output"]  # the network's; the command's is a folder
    return defaults_of(convert) | grouped


FUNCTIONS = {
    "evaluate": asdict(EvaluationSettings()),
    "report": asdict(EvaluationSettings()) | defaults_of(Explainer),
    "explain": defaults_of(Explainer),
    "calibrate": defaults_of(PrototypeModel.calibrate),
    "convert": defaults_of_convert(),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_switches_are_off_unless_given(name):
    switches = [one for one in COMMANDS[name].params if getattr(one, "is_flag", False) and not one.secondary_opts]
    on = [one.name for one in switches if one.default]
    assert not on  # nobody could switch them off


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_are_those_of_the_function_behind_the_command(name):
    known, own = FUNCTIONS[name], OWN.get(name, {})
    compared = {one.name: one.default for one in COMMANDS[name].params if OTHER_NAMES.get(one.name, one.name) in known}
    assert compared == {option: own.get(option, known[OTHER_NAMES.get(option, option)]) for option in compared}
    assert len(compared) > 3


@pytest.fixture
def saved(converted, network_file, image_folder):
    return str(converted), str(image_folder), f"{network_file}:make"


def card_of(saved, command, *options):
    model, folder, network = saved
    result = CliRunner().invoke(app, [command, model, folder, "--network", network, "--json", *map(str, options)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    return found["scorecard"] if command == "report" else found


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_options_of_an_evaluation_are_those_that_were_given(command, saved, tmp_path):
    given = {
        "--images": ("n_images", 2), "--composite": ("composite", "epsilon"), "--rule": ("rule", "gradient"),
        "--precision": ("precision", "bfloat16"), "--batch-size": ("batch_size", 7), "--seed": ("seed", 5),
    }  # fmt: skip
    page = ["--maps", 0, "--browse", 1, "-o", tmp_path / "page.html"] if command == "report" else []
    asked = ["--only", "faithfulness, robustness", "--measures", "sparseness", "--runs", 2, "--sanity", *page]
    options = [text for option, (_, value) in given.items() for text in (option, value)]
    card = card_of(saved, command, *asked, *options, "--resume", tmp_path / "parts.json", "--budget", "1h")
    info = card["info"]
    assert {name: info["options"][name] for name, _ in given.values()} == dict(given.values())
    assert info["seeds"] == [5, 6]
    assert sorted(info["sections"]) == ["faithfulness", "robustness", "sanity", "sparseness"]
    assert info["budget"]["seconds"] == 3600
    assert (tmp_path / "parts.json").exists()


def test_what_a_calibration_promises_is_what_was_asked_for(saved, tmp_path):
    model, _, network = saved
    for k, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "validation" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng([k, i]).integers(0, 60, (12, 10, 3), dtype=np.uint8)
            pixels[..., k] += 190
            Image.fromarray(pixels).save(tmp_path / "validation" / name / f"{i}.png")
    asked = {"coverage": 0.9, "false_alarm": 0.2, "novelty": "direction", "conservative": True, "seed": 3}
    options = ["--coverage", 0.9, "--false-alarm", 0.2, "--novelty", "direction", "--conservative", "--seed", 3]
    arguments = ["calibrate", model, tmp_path / "validation", "-o", tmp_path / "m", "--network", network, "--json"]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *options]])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["calibration"]
    assert {name: facts[name] for name in asked} == asked
    again = [str(argument) for argument in arguments]
    assert CliRunner().invoke(app, again).exit_code == 2  # the folder is there
    assert CliRunner().invoke(app, [*again, "--overwrite"]).exit_code == 0


def test_explanations_are_those_that_were_asked_for(saved, tmp_path):
    model, folder, network = saved

    def explained(name, *options):
        arguments = ["explain", model, f"{folder}/test/ant", "-o", tmp_path / name, "--network", network, *options]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / name / "explanations.json").read_text())

    rows = explained("maps", "--nearest", 2, "--rule", "gradient", "--labels-from-folders", "--batch-size", 2)
    assert [len(row["nearest"]) for row in rows] == [2, 2, 2]
    assert {row["rule"] for row in rows} == {"gradient"}
    assert {row["true"] for row in rows} == {"ant"}
    assert {row["rule"] for row in explained("plain", "--no-maps")} == {None}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_says_what_it_is_for(name):
    assert [one.name for one in COMMANDS[name].params if not one.help] == []


def test_a_mistake_is_one_line_however_long_its_text(saved):
    model, folder, network = saved
    long = ":cat: " * 60  # which is no emoji, either
    result = CliRunner().invoke(app, ["evaluate", model, folder, "--network", network, "--budget", long])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: --budget takes a time above 0")
    assert line.endswith(f"not {long!r}")


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_shows_switches_without_a_type(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "--help" in result.output
    assert "<bool>" not in result.output


@pytest.mark.parametrize("command", ["convert", "predict"])
def test_json_is_all_that_is_printed_whatever_a_network_says(command, network_file, image_folder, tmp_path):
    noisy = tmp_path / "noisy.py"
    noisy.write_text(network_file.read_text() + "\nprint('hello')\n")
    arguments = {
        "convert": ["convert", f"{noisy}:make", image_folder, "-o", tmp_path / "model", "--n-prototypes", 2],
        "predict": ["predict", tmp_path / "model", image_folder / "test", "--network", f"{noisy}:make"],
    }
    if command == "predict":
        assert CliRunner().invoke(app, list(map(str, arguments["convert"]))).exit_code == 0
    result = CliRunner().invoke(app, [*map(str, arguments[command]), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    assert "hello" in result.stderr


def test_whoever_stops_reading_ends_a_command_by_a_code_of_its_own():
    """1 is an alarm, or a bound that is missed; 2 is a mistake."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lookalike", "datasets", "--json"]
    assert subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False).returncode == 141
    os.close(writer)


def test_a_command_without_an_output_runs():
    command = f"{sys.executable} -m lookalike datasets >&-"
    result = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False, text=True)
    assert result.returncode == 0, result.stderr
