import json
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from lookalike.cli import app, console
from lookalike.saved import read_provenance
from tests.processes import start_command

RUNNER = CliRunner()


def run(*arguments, code=0):
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def mistake(*arguments):
    """Runs a command that must fail with exit code 2 and one clear line."""
    result = run(*arguments, code=2)
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_convert_predict_explain(converted, network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    result = run("predict", converted, image_folder / "test", "--network", network, "--json")
    found = json.loads(result.stdout)
    assert len(found["predictions"]) == 9
    right = [row["prediction"] in row["file"] for row in found["predictions"]]
    assert sum(right) >= 8
    out = tmp_path / "pictures"
    result = run("explain", converted, image_folder / "test" / "ant", "-o", out, "--network", network,
                 "--labels-from-folders")  # fmt: skip
    assert "This looks like prototype" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "0000-00.png", "0001-01.png", "0002-02.png", "explanations.json",
    ]  # fmt: skip
    rows = json.loads((out / "explanations.json").read_text())
    assert rows[0]["true"] == "ant"
    assert Image.open(out / "0000-00.png").width > 300


def test_a_network_of_ones_own_is_built_again_with_the_arguments_it_had(image_folder, tmp_path):
    """Weights of three classes set the number of classes of a network whose function has another as its default."""
    file = tmp_path / "sized.py"
    file.write_text(
        "from torch import nn\n\n\ndef make(num_classes=10, width=4):\n"
        "    head = nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)\n"
    )
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    run("convert", f"{file}:make", image_folder, "-o", tmp_path / "out", "--weights", tmp_path / "weights.pth",
        "--model-arg", "width=6", "--image-size", 8, "--mean", 0.5, "--std", 0.5, "--n-prototypes", 1)  # fmt: skip
    result = run("predict", tmp_path / "out", image_folder / "test", "--network", f"{file}:make", "--json")
    assert len(json.loads(result.stdout)["predictions"]) == 9


def test_errors_whose_message_cannot_be_set_are_shown():
    class Fixed(Exception):
        message = property(lambda self: "fixed")

    with pytest.raises(Fixed), console._visible_errors():
        raise Fixed


def test_convert_prints_tables_or_json(network_file, image_folder, tmp_path):
    result = run(
        "convert", f"{network_file}:make", image_folder, "-o", tmp_path / "a", "--n-prototypes", "ant=1,bee=2,cat=3"
    )
    assert "Prototypes" in result.stdout
    assert "accuracy" in result.stdout
    result = run(
        "convert", f"{network_file}:make", image_folder, "-o", tmp_path / "b", "--json", "--n-prototypes", "auto"
    )
    report = json.loads(result.stdout)
    numbers = ["--n-prototypes", "1,cat=3"]
    run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "c", *numbers)
    assert read_provenance(tmp_path / "c")["n_prototypes"] == {"ant": 1, "bee": 1, "cat": 3}
    assert report["test"]["n_samples"] == 9
    assert report["preprocessing"]["crop"] == [8, 8]
    assert report["images_as"].endswith("shorter side to 8 (bilinear), centre crop 8×8; mean 0.5, std 0.5")
    assert {row["class"] for row in report["prototypes"]} == {"ant", "bee", "cat"}


def test_a_prototype_models_embedding_can_be_converted_again(image_folder, tmp_path):
    from safetensors.torch import save_file

    from tests.architectures import make

    model, _ = make("torchvision-resnet18")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    options = ["--image-size", 32, "--n-prototypes", 1]
    run(
        "convert",
        "torchvision:resnet18",
        image_folder,
        "-o",
        tmp_path / "a",
        "--weights",
        tmp_path / "w.safetensors",
        *options,
    )
    run(
        "convert",
        tmp_path / "a",
        image_folder,
        "-o",
        tmp_path / "b",
        "--n-prototypes",
        2,
        "--similarity",
        "mahalanobis",
    )
    result = run("predict", tmp_path / "b", image_folder / "test", "--json")
    assert len(json.loads(result.stdout)["predictions"]) == 9


def test_broken_images_stop_or_are_skipped_and_listed(network_file, image_folder, tmp_path, converted):
    for part in ("train", "test"):
        (image_folder / part / "bee" / "01.png").write_text("no image")
    command = ["convert", f"{network_file}:make", image_folder, "-o", tmp_path / "new", "--n-prototypes", 1]
    assert "bee/01.png': not an image" in mistake(*command)
    assert not (tmp_path / "new").exists()
    result = run(*command, "--on-error", "skip")
    assert "Skipped 2 images that could not be read" in result.stdout
    assert result.stdout.count("bee/01.png") == 2
    network = f"{network_file}:make"
    assert "not an image" in mistake("predict", converted, image_folder / "test", "--network", network)
    result = run("predict", converted, image_folder / "test", "--network", network, "--on-error", "skip", "--json")
    found = json.loads(result.stdout)
    assert (len(found["predictions"]), len(found["skipped"])) == (8, 1)
    broken = image_folder / "test" / "bee" / "01.png"
    for form in ("--json", "--csv"):
        error = mistake("predict", converted, broken, "--network", network, "--on-error", "skip", form)
        assert "none of 1 image could be read" in error


def test_mistakes_are_one_line_each(network_file, image_folder, tmp_path, converted):
    make, out = f"{network_file}:make", tmp_path / "x"
    assert "names no model" in mistake("convert", "resnet18", image_folder, "-o", out)
    assert "exists already" in mistake("convert", make, image_folder, "-o", converted)
    assert "neither a folder nor a dataset" in mistake("convert", make, "digitz", "-o", out)
    assert "does not exist" in mistake("convert", make, image_folder, "-o", out, "--weights", "none.pth")
    assert "--n-prototypes takes" in mistake("convert", make, image_folder, "-o", out, "--n-prototypes", "few")
    assert "names 'dog', which is not a class" in mistake(
        "convert", make, image_folder, "-o", out, "--n-prototypes", "ant=1,bee=1,cat=1,dog=1"
    )
    twice = mistake("convert", make, image_folder, "-o", out, "--n-prototypes", "5,ant=2,ant=3")
    assert "names a class twice: '5,ant=2,ant=3'" in twice
    for numbers in ("ant=2", "ant=2,5", "5,ant=x"):
        error = mistake("convert", make, image_folder, "-o", out, "--n-prototypes", numbers)
        assert "for all classes" in error or "--n-prototypes 5,CLASS=NUMBER" in error
    for early in (
        ["--n-prototypes", "0"], ["--level", "patch", "--decision", "sum"], ["--cluster", "auto"],
        ["--cluster", "auto", "--working-folder", tmp_path / "w", "--workers", "2"],
    ):  # fmt: skip
        error = mistake("convert", "nonetwork", image_folder, "-o", out, *early)
        assert "nonetwork" not in error
        assert early[0].removeprefix("--").partition("-")[0] in error or early[-2] in error
    assert "no similarity is called 'l9'" in mistake("convert", make, image_folder, "-o", out, "--similarity", "l9")
    assert "--mean takes" in mistake("convert", make, image_folder, "-o", out, "--mean", "a,b")
    assert "takes NAME=VALUE" in mistake("convert", make, image_folder, "-o", out, "--model-arg", "x")
    assert RUNNER.invoke(app, ["convert", make, str(image_folder), "-o", str(out), "--seed", "-1"]).exit_code == 2
    assert "the device 'tpu9' cannot be used" in mistake("convert", make, image_folder, "-o", out, "--device", "tpu9")
    bare = f"{network_file}:bare"
    assert "say what size and normalisation" in mistake("convert", bare, image_folder, "-o", out)
    assert "--image-size, --mean and --std together" in mistake(
        "convert", bare, image_folder, "-o", out, "--image-size", 8
    )
    assert "--network path/to/file.py:function" in mistake("predict", converted, image_folder)
    assert "does not exist" in mistake("predict", converted, "none.png", "--network", make)
    assert "holds no saved model" in mistake("predict", tmp_path, image_folder)
    assert "none of the model's classes" in mistake(
        "explain",
        converted,
        network_file.parent / "out" / "images",
        "--network",
        make,
        "-o",
        out,
        "--labels-from-folders",
    )
    assert not out.exists()
    run("convert", bare, image_folder, "-o", out, "--image-size", 8, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")


def test_few_distinct_images_are_warned_of(network_file, image_folder, tmp_path):
    result = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x", "--n-prototypes", 9)
    assert "warning: class 'ant' has 8 distinct embeddings; 9 prototypes asked: using 8" in result.stderr


def test_ctrl_c_leaves_nothing_half_written_and_it_works_again(network_file, image_folder, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        network_file.read_text()
        + """
import time


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = make()[0], 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 4:
            print("in the middle", flush=True)
            time.sleep(60)
        return self.net(x)


def slow():
    return Slow(), make()[1]
"""
    )
    arguments = ["convert", f"{slow}:slow", image_folder, "-o", tmp_path / "o", "--batch-size", 4]
    process = start_command(*arguments)
    process.wait_for("in the middle")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    errors = process.finish()
    assert process.exit_code == 130
    assert "error: interrupted" in errors
    assert "Traceback" not in errors
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [name for name in left if name != "__pycache__"] == ["images", "network.py", "slow.py"]
    run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "o")


def test_overwriting_spares_what_is_not_ours(network_file, image_folder, converted):
    message = mistake("convert", f"{network_file}:make", image_folder, "-o", image_folder, "--overwrite")
    assert "is not overwritten: it has files" in message
    assert len(list(image_folder.rglob("*.png"))) == 33
    run("convert", f"{network_file}:make", image_folder, "-o", converted, "--overwrite")


def test_a_conversion_is_not_lost_for_its_test_images(network_file, image_folder, tmp_path):
    for path in (image_folder / "test").rglob("*.png"):
        path.write_text("no")
    result = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x", "--on-error", "skip", "--json")
    assert "nothing was measured on the test images" in result.stderr
    assert json.loads(result.stdout)["test"] is None
    assert (tmp_path / "x" / "model.safetensors").exists()


def test_help_version_and_datasets():
    assert "lookalike 0." in run("--version").stdout
    for command in ("demo", "convert", "predict", "explain", "datasets"):
        help_text = run(command, "--help").stdout
        assert "--json" in help_text
        assert "<bool>" not in help_text
    assert "digits" in run("datasets").stdout
    assert "digits" in [entry["name"] for entry in json.loads(run("datasets", "--json").stdout)]


def test_no_images_means_no_pixels(network_file, image_folder, tmp_path):
    run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x", "--no-images")
    assert not list((tmp_path / "x").rglob("*.png"))


def test_thread_counts_are_left_alone(network_file, image_folder, tmp_path):
    before = torch.get_num_threads()
    run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "x")
    assert torch.get_num_threads() == before


def test_a_working_folder_goes_on_and_serves_other_options(network_file, image_folder, tmp_path):
    command = ["convert", f"{network_file}:make", image_folder, "--working-folder", tmp_path / "w", "--json"]
    first = json.loads(run(*command, "-o", tmp_path / "a", "--memory-limit", "1MB").stdout)
    before = (tmp_path / "w" / "embeddings" / "embeddings.npy").stat().st_mtime_ns
    again = json.loads(run(*command, "-o", tmp_path / "b", "--n-prototypes", 2).stdout)
    assert (tmp_path / "w" / "embeddings" / "embeddings.npy").stat().st_mtime_ns == before
    assert first["provenance"]["memory_limit"] == 1_000_000
    assert again["provenance"]["n_prototypes"] == 2
    error = mistake(*command, "-o", tmp_path / "c", "--image-size", 9)
    assert "embeddings made with other transform" in error
    assert "memory_limit takes bytes" in mistake(*command, "-o", tmp_path / "c", "--memory-limit", "some")


def test_what_was_done_otherwise_is_shown(network_file, image_folder, tmp_path):
    result = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "a", "--precision", "bfloat16",
                 "--memory-limit", 300, "--n-prototypes", 2)  # fmt: skip
    assert "bfloat16: of 1 image compared" in result.output
    assert "clustered in parts" in result.output
    error = mistake("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "b", "--precision", "float16")
    assert "float16 is for GPUs" in error


def test_a_profile_names_its_steps(converted, network_file, image_folder, tmp_path, monkeypatch):
    # its hundreds of small clusterings would make most of a trace, which takes a minute to write
    monkeypatch.setattr("lookalike.conversion.convert.advise", lambda *_: None)
    network, trace = f"{network_file}:make", tmp_path / "trace.json"
    result = run("convert", network, image_folder, "-o", tmp_path / "a", "--profile", trace)
    assert "Its largest steps:" in result.stderr
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"lookalike: encoder", "lookalike: cluster and survey", "lookalike: wait for images"} <= names
    run("explain", converted, image_folder / "test" / "ant", "-o", tmp_path / "p", "--network", network,
        "--profile", tmp_path / "explain.json")  # fmt: skip
    names = {event.get("name") for event in json.loads((tmp_path / "explain.json").read_text())["traceEvents"]}
    assert {"lookalike: maps on the inputs", "lookalike: draw"} <= names
    error = mistake("convert", network, image_folder, "-o", tmp_path / "b", "--profile", trace)
    assert "exists already; choose another place for the trace" in error


def test_a_temperature_is_fitted_given_or_refused(network_file, image_folder, tmp_path):
    command = ("convert", f"{network_file}:make", image_folder, "--n-prototypes", 2)
    fitted = json.loads(run(*command, "-o", tmp_path / "a", "--json").stdout)["provenance"]["calibration"]
    assert fitted["source"] == "fitted"
    assert "fitted to 24 held-out training images" in run(*command, "-o", tmp_path / "b").output
    given = run(*command, "-o", tmp_path / "c", "--temperature", 1)
    assert re.search(r"probabilities +temperature 1, given", given.output)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["classifier"]["options"]["temperature"] == 1
    for value in ("warm", "0", "nan"):
        error = mistake(*command, "-o", tmp_path / "d", "--temperature", value)
        assert f"--temperature takes 'auto' or a number above 0, not '{value}'" in error


def test_the_command_to_type_next_works_as_it_stands(network_file, image_folder, tmp_path, monkeypatch):
    """Also in a folder with a broken file and an earlier report."""
    monkeypatch.chdir(tmp_path)
    (image_folder / "train" / "ant" / "note.jpg").write_text("no picture")
    (tmp_path / "report.html").write_text("an earlier one")
    network, size = f"{network_file}:make", ("--image-size", 8, "--mean", 0, "--std", 1)
    done = run("convert", network, image_folder, "-o", "m", "--n-prototypes", 1, "--on-error", "skip", *size).output
    words = shlex.split(done.split("Next: lookalike ")[1].splitlines()[0])
    assert words[-4:] == ["--on-error", "skip", "-o", "report-2.html"]
    shown = run(
        "evaluate", "m", image_folder, "--only", "transparency", "--on-error", "skip", "--network", network
    ).output
    words = shlex.split(shown.split("Next: lookalike ")[1].splitlines()[0])
    assert " ".join(words).startswith(f"report m {image_folder} --on-error skip -o report-2.html")


def test_a_free_name_is_the_first_that_is_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert console.free_name("report.html") == "report.html"
    for name in ("report.html", "report-2.html"):
        Path(name).touch()
    assert console.free_name("report.html") == "report-3.html"


def test_options_that_a_saved_model_has_no_use_for_are_refused(converted, network_file, image_folder, tmp_path):
    again = ("convert", converted, image_folder, "-o", tmp_path / "again", "--network", f"{network_file}:make")
    for options in (("--weights", "x.pth"), ("--weights-by-order",), ("--model-arg", "k=7"), ("--head", "4")):
        assert f"leave out {options[0]}" in mistake(*again, *options)
    fresh = ("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "fresh")
    assert "--network is for saved models" in mistake(*fresh, "--network", "nowhere.py:zzz")
    edit = ("edit", converted, "--network", f"{network_file}:make")
    for option in ("--labels", "--corrections"):
        assert f"{option} is about the training images" in mistake(*edit, option, "none.csv")


def test_maps_on_prototypes_are_made_once_for_all_batches(network_file, image_folder, converted, tmp_path, monkeypatch):
    from lookalike import explanation

    mapped = []

    def count(model, unseen, *options):
        mapped.extend(unseen.tolist())
        return original(model, unseen, *options)

    original = explanation.maps_on_prototypes
    monkeypatch.setattr(explanation, "maps_on_prototypes", count)
    run("explain", converted, image_folder / "test", "-o", tmp_path / "p", "--network", f"{network_file}:make",
        "--batch-size", 1)  # fmt: skip
    assert mapped
    assert len(mapped) == len(set(mapped))


def test_a_seed_that_divides_nothing_is_told_and_advice_can_be_left_out(network_file, image_folder, tmp_path):
    convert = ["convert", f"{network_file}:make", image_folder, "--n-prototypes", 1]
    result = run(*convert, "-o", tmp_path / "a", "--split-seed", 3, "--no-advice")
    assert "--split-seed 3 changes nothing: the data come in a training and a test part." in result.stderr
    assert "advice" not in read_provenance(tmp_path / "a")
    result = run(*convert, "-o", tmp_path / "b")
    assert "changes nothing" not in result.stderr
    assert "advice" in read_provenance(tmp_path / "b")
    evaluate = ["evaluate", tmp_path / "a", image_folder, "--network", f"{network_file}:make", "--only", "transparency"]
    assert "--split-seed 3 changes nothing" in run(*evaluate, "--split-seed", 3).stderr
    whole = run("convert", f"{network_file}:make", image_folder / "train", "--n-prototypes", 1, "-o", tmp_path / "c",
                "--split-seed", 3)  # fmt: skip
    assert "changes nothing" not in whole.stderr
