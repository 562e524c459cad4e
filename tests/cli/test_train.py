"""``lookalike train`` and ``lookalike reproduce``, on a folder of images."""

import csv
import json
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lookalike import LookalikeError, load, load_classifier
from lookalike.baselines import hyperparameters
from lookalike.cli import app
from lookalike.experiments import EXPERIMENTS, Experiment, Subject, Workbench, workbench
from lookalike.experiments.variants import Converter
from lookalike.saved import read_provenance
from tests.processes import run_command, start_command

FAST = ["--network", "lookalike:small-cnn", "--set", "image_size=16", "--set", "n_prototypes=2", "--epochs", "3"]


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def trained(image_folder, tmp_path):
    def make(method, *more):
        target = tmp_path / method
        result = run("train", method, "--dataset", image_folder, "-o", target, *FAST, "--learning-rate", 0.02, *more)
        assert result.exit_code == 0, result.output
        return target, result

    return make


def test_a_black_box_is_trained_converted_and_evaluated(trained, image_folder, tmp_path):
    box, result = trained("blackbox")
    assert "Training black box (lookalike:small-cnn) with 24 training images of 3 classes." in result.output
    assert "epoch 3 (all): loss" in result.output
    assert not (tmp_path / "blackbox.training").exists()
    assert load_classifier(str(box)).class_names == ["ant", "bee", "cat"]
    converted = run("convert", box, image_folder, "-o", tmp_path / "kmex", "--n-prototypes", 2, "--json")
    assert converted.exit_code == 0, converted.output
    assert json.loads(converted.stdout)["test"]["black_box_accuracy"] is not None
    baseline, _ = trained("protopnet")
    card = run("evaluate", baseline, image_folder, "--black-box", box, "--images", 3, "--json")
    assert card.exit_code == 0, card.output
    assert json.loads(card.stdout)["agreement"] is not None
    refused = run("evaluate", box, image_folder)
    assert refused.exit_code == 2
    assert "convert it first" in refused.output


@pytest.mark.parametrize("method", ["blackbox", "protopnet"])
def test_jpeg_files_are_trained_on(method, trained, image_folder):
    """Their pixels are decoded into memory that is used again, which a training must not look at as a network's."""
    for file in list(image_folder.rglob("*.png")):
        Image.open(file).convert("RGB").resize((40, 30)).save(file.with_suffix(".jpg"))
        file.unlink()
    target, _ = trained(method)
    assert load(target).class_names == ["ant", "bee", "cat"] if method == "protopnet" else load_classifier(str(target))


def test_a_finished_epoch_is_reported_with_the_figures_of_the_log(trained):
    folder, result = trained("blackbox")
    rows = list(csv.DictReader((folder / "training.csv").open()))
    assert len(rows) == 3
    for row in rows:
        accuracy = f"training {float(row['train_accuracy']):.1%}, test {float(row['test_accuracy']):.1%}"
        line = f"epoch {row['epoch']} ({row['phase']}): loss {float(row['loss']):.4g}, {accuracy}, "
        assert line in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to train on")
@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_training_on_a_device_that_is_not_there_is_refused(command, image_folder, tmp_path):
    if command == "train":
        arguments = ["train", "blackbox", "-d", image_folder, "-o", tmp_path / "net", *FAST]
    else:
        arguments = ["reproduce", "accuracy", "-d", image_folder, "--quick", "-o", tmp_path / "out", "--models", "kmex"]
    result = run(*arguments, "--device", "cuda")
    assert result.exit_code in (1, 2)
    assert "this machine cannot train with these settings" in " ".join(result.output.split())


@pytest.mark.parametrize("method", ["flint", "protovae"])
def test_kmex_of_a_baseline(method, trained, image_folder, tmp_path):
    folder, _ = trained(method)
    assert len(list(csv.DictReader((folder / "training.csv").open()))) == 3
    converted = run("convert", folder, image_folder, "-o", tmp_path / "kmex", "--n-prototypes", 2)
    assert converted.exit_code == 0, converted.output
    assert load(tmp_path / "kmex").provenance["method"] == "KMEx"
    images = next((image_folder / "test" / "ant").iterdir())
    assert run("predict", folder, images).exit_code == 0
    assert run("explain", folder, images, "-o", tmp_path / "explained").exit_code == 0


def test_json_has_the_log_and_nothing_else_on_standard_output(trained, image_folder, tmp_path):
    _, result = trained("blackbox", "--json")
    found = json.loads(result.stdout)
    assert [row["epoch"] for row in found["log"]] == [1, 2, 3]
    assert found["provenance"]["learning_rate"] == 0.02


def test_show_lists_the_hyperparameters_and_trains_nothing(tmp_path):
    result = run("train", "protopnet", "-d", "cifar10", "-o", tmp_path / "x", "--show", "--json")
    assert json.loads(result.stdout)["epochs"] == 35
    result = run("train", "protopnet", "-d", "mnist", "-o", tmp_path / "x", "--show", "--preset", "reference-code")
    assert "0.01" in result.output
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["protonet"], "no method is called 'protonet'; did you mean 'protopnet'"),
        (["flint", "--set", "entropie=1"], "flint has no hyper-parameter 'entropie'"),
        (["flint", "--set", "entropy"], "--set takes NAME=VALUE"),
        (["flint", "--network", "lookalike:tiny"], "no network is called 'tiny'"),
        (["flint", "--network", "torchvision:resnet43", "--from-scratch"], "torchvision has no model 'resnet43'"),
        (["flint", "--precision", "7-bit", "--from-scratch", "--network", "lookalike:small-cnn"], "precision must be"),
        (["flint", "--device", "abacus"], "the device must be one of auto, cpu"),
    ],
)
def test_mistakes_are_one_line(arguments, message, image_folder, tmp_path):
    result = run("train", *arguments, "--dataset", image_folder, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_experiments_are_trained_on_a_device_that_exists(image_folder, tmp_path):
    result = run("reproduce", "accuracy", "-d", image_folder, "-o", tmp_path / "out", "--device", "abacus")
    assert result.exit_code == 2
    assert "the device must be one of auto, cpu" in result.output.replace("\n", " ")


def test_what_is_there_is_not_overwritten_before_any_work(image_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = run("train", "blackbox", "-d", image_folder, "-o", tmp_path / "out", "--overwrite", *FAST)
    assert result.exit_code == 2
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(image_folder, tmp_path):
    command = ["train", "blackbox", "-d", image_folder, "-o", tmp_path / "net", *FAST, "--epochs", "40"]
    process = start_command(*command)
    process.wait_for("epoch 2")
    process.send_signal(signal.SIGINT)
    rest = process.finish()
    assert process.exit_code == 130
    assert "the same command goes on after the last finished epoch" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "net").exists()
    again = run_command(*command)
    assert "Going on to train black box" in again
    assert "epoch 1 " not in again
    assert "epoch 40 " in again
    assert not (tmp_path / "net.training").exists()


def test_experiments_are_listed():
    result = run("reproduce", "--json")
    assert "baselines" in [row["name"] for row in json.loads(result.stdout)]


def test_an_experiment_is_measured_in_as_many_processes_as_asked_for(image_folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lookalike.experiments.measure_in_processes", lambda *arguments: asked.append(arguments[-1]))
    monkeypatch.setattr("lookalike.cli.reproduce._run", lambda *_: ["a file"])
    for more in ([], ["--jobs", "3"]):
        result = run("reproduce", "accuracy", "-d", image_folder, "--quick", "-o", tmp_path / "out", *more)
        assert result.exit_code == 0, result.output
    assert asked == [3]


def test_an_experiment_runs_is_taken_up_and_reports_what_failed(image_folder, tmp_path):
    arguments = ["reproduce", "baselines", "-d", image_folder, "--quick", "-o", tmp_path / "out", "--models", "kmex"]
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert "training images-small-cnn-blackbox-seed0" in first.output
    out = tmp_path / "out" / "quick"
    table = (out / "baselines.md").read_text()
    assert table.startswith("# Black box, baselines, and KMEx of each, a quick look\n")
    again = run(*arguments, "--json")
    assert "training" not in again.stderr
    assert (out / "baselines.md").read_text() == table
    assert json.loads(again.stdout)["failed"] == {}
    both = [*arguments[:-1], "kmex,protopnet,protopnet+kmex"]
    for name, files in (
        ("kmex-of-baselines", ("md", "csv", "json")),
        ("robustness", ("md", "csv", "json", "png", "svg")),
        ("summary", ("md", "csv", "json", "png", "svg")),
    ):
        viewed = run("reproduce", name, *both[2:])
        assert viewed.exit_code == 0, viewed.output
        assert all((out / f"{name}.{ending}").stat().st_size > 100 for ending in files)
        assert ("training" in viewed.stderr) == (name == "kmex-of-baselines")  # the first view makes what is missing
    assert (out / "kmex-of-baselines-images-small-cnn-protopnet.png").stat().st_size > 1000
    values = json.loads((out / "kmex-of-baselines.json").read_text())
    rows = values["rows"]
    assert values["figures"] == ["kmex-of-baselines-images-small-cnn-protopnet.png"]
    assert values["cells"]["images-small-cnn-protopnet-seed0"]["made"]["epochs"] == 2
    assert [row["names"][2] for row in rows] == ["ProtoPNet", "ProtoPNet + KMEx", "difference"]
    before, after, difference = (row["values"]["accuracy"][0] for row in rows)
    assert difference == pytest.approx(after - before)
    summary = json.loads((out / "summary.json").read_text())
    assert [row["names"][1] for row in summary["rows"]] == ["KMEx", "ProtoPNet", "ProtoPNet + KMEx"]
    nothing = run("reproduce", "kmex-of-baselines", *both[2:-1], "kmex")
    assert nothing.exit_code == 2
    assert "kmex-of-baselines has nothing to show of kmex" in nothing.output
    assert json.loads((out / "kmex-of-baselines.json").read_text()) == values


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["-d", "nowhere"], "'nowhere' is neither a folder nor a dataset"),
        (["-d", "digits,digitz"], "'digitz' is neither a folder nor a dataset"),
        (["--network", "torchvision:resnet35"], "torchvision has no model 'resnet35'"),
        (["--network", "resnet34"], "'resnet34' names no network that can be built again"),
        (["--models", "kmax"], "no model is called 'kmax'"),
    ],
)
def test_a_mistake_in_the_request_is_told_before_anything_is_done(wrong, told, tmp_path):
    found = run("reproduce", "accuracy", "--quick", "-o", tmp_path / "out", *wrong)
    assert found.exit_code == 2
    assert told in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_data_that_cannot_be_read_are_reported_and_the_others_go_on(image_folder, tmp_path):
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    found = run("reproduce", "clustering", "-d", f"{empty},{image_folder}", "--quick", "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert found.output.count("failed:") == 1
    assert f"failed: {empty}" in found.output
    assert "| images | small-cnn | kmeans |" in (tmp_path / "out" / "quick" / "clustering.md").read_text()
    nothing = run("reproduce", "clustering", "-d", empty, "--quick", "-o", tmp_path / "out")
    assert nothing.exit_code == 2


@pytest.mark.slow
def test_other_data_of_the_same_name_are_not_answered_from_what_is_kept(image_folder, tmp_path):
    other = tmp_path / "elsewhere" / image_folder.name
    shutil.copytree(image_folder, other)
    arguments = ["--quick", "--models", "kmex", "-o", tmp_path / "out"]
    run("reproduce", "accuracy", "-d", image_folder, *arguments)
    same = run("reproduce", "ghosting", "-d", image_folder, *arguments)
    assert "training" not in same.output
    next((other / "train" if (other / "train").is_dir() else other).rglob("*.png")).unlink()
    changed = run("reproduce", "accuracy", "-d", other, *arguments)
    assert changed.exit_code == 0, changed.output
    assert "was made with other options or data; it and its conversion are made again" in changed.output
    assert "converting images-small-cnn-kmex-seed0" in changed.output


def test_what_takes_longer_than_all_others_runs_by_its_name_alone(monkeypatch, image_folder, tmp_path):
    assert EXPERIMENTS["training-length"].alone
    monkeypatch.setattr(EXPERIMENTS, "_members", {"long": Experiment("Long", "", lambda *_: 1 / 0, alone=True)})
    done = run("reproduce", "all", "-d", image_folder, "--quick", "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout) == {"files": [], "failed": {}}
    assert run("reproduce", "long", "-d", image_folder, "--quick", "-o", tmp_path / "out").exit_code == 1


@pytest.mark.slow
def test_all_experiments_go_on_past_one_that_cannot_be_run(monkeypatch, image_folder, tmp_path):
    kept = {name: EXPERIMENTS[name] for name in ("attributes", "clustering")}
    monkeypatch.setattr(EXPERIMENTS, "_members", kept)

    def broken(*_):
        raise ValueError("no room")

    kept["broken"] = Experiment("Broken", "", broken)
    result = run(
        "reproduce", "all", "-d", image_folder, "--quick", "--models", "kmex", "-o", tmp_path / "out", "--json"
    )
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["failed"]["broken"].startswith("ValueError: no room (where: ")
    assert list(told["failed"]) == ["broken"]
    assert "attributes: 'images' has no attributes; glyphs, styles and celeba have" in result.stderr
    assert [Path(file).name for file in told["files"]] == ["clustering.md", "clustering.csv", "clustering.json"]
    del kept["broken"]
    assert run("reproduce", "all", "-d", image_folder, "--quick", "-o", tmp_path / "out").exit_code == 0


@pytest.mark.slow
def test_a_model_made_with_other_options_is_made_again(image_folder, tmp_path):
    said = []
    bench = Workbench(tmp_path, quick=True, say=said.append)
    subject = Subject(str(image_folder), "lookalike:small-cnn", "kmex", 0)
    bench.model(subject)
    bench.model(subject)
    assert len(said) == 2  # trained and converted once
    other = Workbench(tmp_path, quick=False, say=said.append)
    (tmp_path / f"{subject.name.replace('kmex', 'blackbox')}.0123.training").mkdir()  # left by yet other options
    other.model(subject)
    assert "was made with other options" in said[2]
    assert said[3].startswith("training")
    assert said[4].startswith("converting")
    assert not list(tmp_path.glob("*.training"))
    assert not list(tmp_path.glob(".*.old"))


def test_a_model_that_is_half_removed_is_made_again(image_folder, tmp_path):
    bench = Workbench(tmp_path, quick=True)
    subject = Subject(str(image_folder), "lookalike:small-cnn", "kmex", 0)
    before = bench.model(subject).prototypes.vectors
    (tmp_path / subject.name.replace("kmex", "blackbox") / "config.json").unlink()
    said = []
    again = Workbench(tmp_path, quick=True, say=said.append).model(subject).prototypes.vectors
    assert [what.partition(" ")[0] for what in said[1:]] == ["training", "converting"]
    assert torch.equal(before, again)


def test_a_folder_named_like_a_dataset_is_trained_once_and_as_any_folder(image_folder, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(image_folder, folder)
    said = []
    bench = Workbench(tmp_path / "models", quick=True, say=said.append)
    subject = Subject(str(folder), "lookalike:small-cnn", "kmex", 0)
    for _ in range(2):
        bench.model(subject)
    assert [what.partition(" ")[0] for what in said] == ["training", "converting"]
    assert read_provenance(bench.folder / "digits-small-cnn-blackbox-seed0")["learning_rate"] == 0.001


def test_a_folder_named_like_a_dataset_is_trained_as_was_shown(image_folder, tmp_path):
    folder = image_folder.rename(tmp_path / "digits")
    arguments = ["train", "blackbox", "-d", folder, "-o", tmp_path / "net", *FAST]
    shown = json.loads(run(*arguments, "--show", "--json").stdout)
    done = run(*arguments, "--json")
    assert json.loads(done.stdout)["provenance"].items() >= shown.items()


def test_a_training_that_failed_is_not_tried_again(image_folder, tmp_path, monkeypatch):
    tried = []

    def broken(*_, **__):
        tried.append(1)
        raise ValueError("no room")

    monkeypatch.setattr(workbench, "train", broken)
    bench = Workbench(tmp_path, quick=True)
    subject = Subject(str(image_folder), "lookalike:small-cnn", "kmex", 0)
    with pytest.raises(ValueError, match="no room"):
        bench.model(subject)
    with pytest.raises(LookalikeError, match="ValueError: no room"):
        bench.model(subject)
    assert len(tried) == 1


def test_a_model_is_made_by_one_run_at_a_time(image_folder, tmp_path):
    said, waits, subject = [], Event(), Subject(str(image_folder), "lookalike:small-cnn", "kmex", 0)

    def say(line):
        said.append(line)
        if line.startswith("waiting"):
            waits.set()
        elif line.startswith("training"):
            waits.wait(60)  # for the other run to come

    benches = [Workbench(tmp_path, quick=True, say=say) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda bench: bench.model(subject), benches)
    assert torch.equal(first.prototypes.vectors, second.prototypes.vectors)
    assert len([what for what in said if what.startswith("training")]) == 1
    assert len([what for what in said if what.startswith("converting")]) == 1
    assert any(what.startswith("waiting: ") for what in said)


def test_conversions_have_the_number_of_prototypes_that_the_data_set_asks_for(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(workbench, "hyperparameters", _two_per_class)
    bench = Workbench(tmp_path, quick=True)
    subject = Subject(str(image_folder), "lookalike:small-cnn", "kmex", 0)
    assert len(bench.model(subject).prototypes) == 2 * bench.model(subject).n_classes
    assert len(Converter(bench, subject).convert().prototypes) == 2 * bench.model(subject).n_classes
    assert len(Converter(bench, subject).convert(n_prototypes=3).prototypes) == 3 * bench.model(subject).n_classes


def _two_per_class(method, dataset, given):
    return hyperparameters(method, dataset, given={**given, "n_prototypes": 2})


SLOW_EXPERIMENTS = ("how-many", "clustering", "large-k-means", "qualitative")


@pytest.mark.parametrize(
    "name",
    ["embedding", "controls", "patches", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_EXPERIMENTS)],
)
def test_experiments_with_the_black_box_of_small_data(name, image_folder, tmp_path):
    result = run("reproduce", name, "-d", image_folder, "--quick", "--models", "kmex", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "quick"
    text = (out / f"{name}.md").read_text()
    assert text.count("\n| images | small-cnn |") >= (1 if name == "qualitative" else 3)
    assert (out / f"{name}.json").exists()
    shown = re.findall(r"\((.*\.png)\)", text)
    assert len(shown) == {"embedding": 1, "how-many": 1, "patches": 1, "large-k-means": 1, "qualitative": 3}.get(
        name, 0
    )
    assert all((out / file).stat().st_size > 1000 for file in shown)


@pytest.mark.slow
def test_killed_in_the_middle_an_experiment_ends_with_the_same_table(image_folder, tmp_path):
    command = ["reproduce", "accuracy", "-d", image_folder, "--quick", "--models", "kmex,flint,flint+kmex", "-o"]
    run_command(*command, tmp_path / "whole")
    process = start_command(*command, tmp_path / "killed")
    process.wait_for("training images-small-cnn-flint")
    process.send_signal(signal.SIGKILL)  # one model is measured, one is being trained
    process.finish()
    assert process.exit_code == -signal.SIGKILL
    assert not (tmp_path / "killed" / "quick" / "accuracy.md").exists()
    kept = tmp_path / "killed" / "quick" / "cells" / "images-small-cnn-kmex-seed0.json"
    before = kept.read_bytes()
    again = run_command(*command, tmp_path / "killed")
    assert "training images-small-cnn-blackbox" not in again
    assert kept.read_bytes() == before
    for file in ("accuracy.md", "accuracy.csv"):
        assert (tmp_path / "killed" / "quick" / file).read_bytes() == (tmp_path / "whole" / "quick" / file).read_bytes()


def test_attributes_need_data_that_have_some(image_folder, tmp_path):
    result = run("reproduce", "attributes", "-d", image_folder, "--quick", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "'images' has no attributes; glyphs, styles and celeba have" in result.output
