"""``calibrate``, ``watch``, and the sets that ``predict`` prints."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_commands import mistake, run

NAMES = ("ant", "bee", "cat")


def write_images(folder, n, seed):
    """Writes n images of each class, as ``image_folder`` has them, but noisier."""
    rng = np.random.default_rng(seed)
    for k, (row, column) in enumerate([(0, 0), (0, 16), (16, 0)]):
        (folder / NAMES[k]).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 90, (32, 32), dtype=np.uint8)
            pixels[row : row + 16, column : column + 16] += 120
            Image.fromarray(pixels).convert("RGB").save(folder / NAMES[k] / f"{i:03d}.png")
    return folder


@pytest.fixture
def calibrated(network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    run("convert", network, image_folder, "-o", tmp_path / "model", "--n-prototypes", 2)
    write_images(tmp_path / "validation", 50, 1)
    result = run("calibrate", tmp_path / "model", tmp_path / "validation", "-o", tmp_path / "calibrated",
                 "--network", network, "--false-alarm", 0.02, "--json")  # fmt: skip
    facts = json.loads(result.stdout)["calibration"]
    assert facts["n_fitted"] + facts["n_validation"] == 150
    assert facts["notes"] == []  # files are compared one by one
    return tmp_path / "calibrated", network


def test_predict_prints_the_set_of_a_calibrated_model(calibrated, image_folder):
    folder, network = calibrated
    rows = json.loads(run("predict", folder, image_folder / "test", "--network", network, "--json").stdout)
    assert all(row["calibrated"] for row in rows["predictions"])
    assert {"set", "p_value", "coverage", "unfamiliar", "answered"} == set(rows["predictions"][0]["doubt"])
    printed = run("predict", folder, image_folder / "test", "--network", network).stdout
    assert "set, coverage 0.95" in printed


def test_calibrate_says_how_good_the_probabilities_are(calibrated, tmp_path):
    _, network = calibrated
    printed = run("calibrate", tmp_path / "model", tmp_path / "validation", "-o", tmp_path / "again",
                  "--network", network).stdout  # fmt: skip
    assert "ECE" in printed
    assert "50 to fit, 100 for the guarantees" in printed
    assert "original network" in printed
    few = write_images(tmp_path / "few", 4, 2)
    assert "at least 30 validation images" in mistake(
        "calibrate", tmp_path / "model", few, "-o", tmp_path / "x", "--network", network
    )


def test_watch_writes_a_line_per_batch_and_exits_with_1_at_an_alarm(calibrated, tmp_path):
    folder, network = calibrated
    state, log, pictures = tmp_path / "state.json", tmp_path / "log.jsonl", tmp_path / "modes.png"
    known = write_images(tmp_path / "known", 15, 3)
    common = (folder, "--network", network, "--state", state, "--log", log, "--batch-size", 15)
    (known / "notes.txt").touch()
    result = run("watch", common[0], known, *common[1:], "--json")
    assert "passed over 1 file that is no image, 'notes.txt'." in result.stderr
    lines = result.stdout.splitlines()
    assert [json.loads(line)["batch"] for line in lines] == [1, 2, 3]
    assert len(log.read_text().splitlines()) == 3
    (tmp_path / "new").mkdir()
    for i in range(30):
        Image.fromarray(np.full((32, 32, 3), 250 - i, dtype=np.uint8)).save(tmp_path / "new" / f"{i}.png")
    result = run("watch", common[0], tmp_path / "new", *common[1:], "--modes", pictures, code=1)
    assert "ALARM" in result.stdout
    assert "new mode" in result.stdout
    assert Image.open(pictures).width > 100
    assert len(log.read_text().splitlines()) == 5


def test_watch_takes_labels_from_a_table(calibrated, tmp_path):
    folder, network = calibrated
    known = write_images(tmp_path / "known", 5, 3)
    table = tmp_path / "labels.csv"
    rows = [f"{known / name / f'{i:03d}.png'},{name}" for name in NAMES for i in range(5)]
    table.write_text("\n".join(["file,class", *rows]) + "\n")
    printed = run("watch", folder, known, "--network", network, "--labels", table).stdout
    assert "15 labels added, 15 so far" in printed


def test_a_model_without_calibration_is_refused(network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    run("convert", network, image_folder, "-o", tmp_path / "model", "--n-prototypes", 2)
    message = mistake("watch", tmp_path / "model", image_folder / "test", "--network", network)
    assert "lookalike calibrate MODEL DATA" in message
