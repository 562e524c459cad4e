import json
import shutil

import pytest

from lookalike import LookalikeError, load
from lookalike.encoder.specs import build_untrained
from tests.cli.test_commands import mistake, run


def test_a_script_is_replayed_logged_and_undone(converted, network_file, image_folder, tmp_path):
    script = tmp_path / "edits.yaml"
    script.write_text(
        "- drop: {prototypes: [0]}\n  note: rests on the watermark\n- rename: {prototype: 0, title: 'an ant'}\n"
    )
    network = ("--network", f"{network_file}:make")
    before = (converted / "model.safetensors").read_bytes()
    run("edit", converted, script, "--data", image_folder, *network, "--dry-run")
    assert (converted / "model.safetensors").read_bytes() == before
    found = json.loads(run("edit", converted, script, "--data", image_folder, *network, "--who", "me", "--json").stdout)
    assert [(entry["who"], entry["note"]) for entry in found["log"]] == [("me", "rests on the watermark"), ("me", "")]
    assert found["prototypes"] == 5
    result = run("edit", converted, *network)
    assert "drop prototype 0 (ant)" in result.stdout
    assert "rests on the watermark" in result.stdout
    run("predict", converted, image_folder / "test", *network)
    shutil.copy(next((image_folder / "train" / "bee").glob("*.png")), tmp_path / "mine.png")  # beside the script
    script.write_text("- add: {image: mine.png, class_name: bee}\n")
    added = run("edit", converted, script, "--data", image_folder, *network, "--dry-run", "--json")
    assert json.loads(added.stdout)["prototypes"] == 6
    opened = run("edit", converted, "--data", image_folder, *network, "--open-test", "final figures")
    assert "on 9 test images" in opened.stdout
    found = json.loads(run("edit", converted, *network, "--undo", 2, "--json").stdout)
    assert (found["head"], len(found["log"]), found["test_opened"]) == (0, 2, 1)
    assert found["prototypes"] == 6


def test_calibrating_does_not_erase_a_history(converted, network_file, image_folder, tmp_path):
    network = ("--network", f"{network_file}:make")
    (tmp_path / "edits.yaml").write_text("- rename: {prototype: 0, title: 'an ant'}\n")
    run("edit", converted, tmp_path / "edits.yaml", *network)
    before = (converted / "edits.json").read_bytes()
    calibrate = ("calibrate", converted, image_folder, *network, "-o", converted)
    assert "has a history of edits, which would be lost" in mistake(*calibrate, "--overwrite")
    assert "exists already" in mistake(*calibrate)
    convert = ("convert", f"{network_file}:make", image_folder, "-o", converted, "--n-prototypes", 2, "--overwrite")
    assert "has a history of edits, which would be lost" in mistake(*convert)
    edited = load(converted, build_untrained(f"{network_file}:make"))
    with pytest.raises(LookalikeError, match="discard_edits=True"):
        edited.save(converted, overwrite=True)
    assert (converted / "edits.json").read_bytes() == before
    run(*convert, "--discard-edits")
    assert not (converted / "edits.json").exists()


def test_images_that_cannot_be_read_are_listed(network_file, image_folder, tmp_path):
    (image_folder / "train" / "ant" / "torn.png").write_bytes(b"no image")
    (tmp_path / "edits.yaml").write_text("- drop: {prototypes: [0]}\n")
    network, skip = f"{network_file}:make", ("--on-error", "skip")
    run("convert", network, image_folder, "-o", tmp_path / "m", *skip)
    command = ("edit", tmp_path / "m", tmp_path / "edits.yaml", "--data", image_folder, "--network", network)
    assert "torn.png" in run(*command, "--dry-run", *skip).stderr


def test_mistakes_are_one_line_and_nothing_is_written(converted, network_file, image_folder, tmp_path):
    network = ("--network", f"{network_file}:make")
    script = tmp_path / "edits.yaml"
    script.write_text("- drop: {prototypes: [0]}\n- drop: {prototypes: [77]}\n")
    before = (converted / "config.json").read_bytes()
    assert "step 2 (drop): prototype must be" in mistake("edit", converted, script, "--data", image_folder, *network)
    assert "--data DATA" in mistake("edit", converted, script, *network)
    assert "there is no edit to undo" in mistake("edit", converted, *network, "--undo", 1)
    assert "leave one of them out" in mistake(
        "edit", converted, "--data", image_folder, *network, "--open-test", "why not", "--dry-run"
    )
    assert "the device 'tpu9' cannot be used" in mistake("edit", converted, *network, "--device", "tpu9")
    assert "give --data" in mistake("edit", converted, *network, "--open-test", "why not")
    assert (converted / "config.json").read_bytes() == before
