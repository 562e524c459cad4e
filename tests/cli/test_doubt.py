"""``calibrate``, ``watch``, and the sets that ``predict`` prints."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from lookalike import LookalikeError, Watch, embed, evaluate, load
from lookalike.audit import audit
from lookalike.data import load_for_model
from tests.cli.test_commands import mistake, run
from tests.conftest import NETWORK_FILE

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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a network's file, training images, a model, and the model calibrated; made once."""
    folder = tmp_path_factory.mktemp("doubt")
    (folder / "network.py").write_text(NETWORK_FILE)
    network = f"{folder / 'network.py'}:make"
    write_images(folder / "images" / "train", 8, 0)
    write_images(folder / "images" / "test", 3, 10)
    run("convert", network, folder / "images", "-o", folder / "model", "--n-prototypes", 2)
    write_images(folder / "validation", 50, 1)
    (folder / "validation" / "Thumbs.db").touch()
    result = run("calibrate", folder / "model", folder / "validation", "-o", folder / "calibrated",
                 "--network", network, "--false-alarm", 0.02, "--json")  # fmt: skip
    printed = json.loads(result.stdout)
    assert printed["passed_over"] == {"thumbnail": {"count": 1, "examples": ["Thumbs.db"]}}
    facts = printed["calibration"]
    assert facts["n_fitted"] + facts["n_validation"] == 150
    assert facts["notes"] == []  # files are compared one by one
    return folder


@pytest.fixture
def calibrated(place):
    return place / "calibrated", f"{place / 'network.py'}:make"


def test_predict_prints_the_set_of_a_calibrated_model(calibrated, place):
    folder, network = calibrated
    options = (place / "images" / "test", "--network", network)
    rows = json.loads(run("predict", folder, *options, "--json").stdout)["predictions"]
    assert all(row["calibrated"] for row in rows)
    assert {"set", "p_value", "coverage", "unfamiliar", "answered"} == set(rows[0]["doubt"])
    printed = run("predict", folder, *options).stdout
    assert "set, coverage 0.95" in printed
    assert "The probabilities were calibrated on " in printed
    assert " on average" in printed
    table = list(csv.DictReader(io.StringIO(run("predict", folder, *options, "--csv").stdout)))
    assert [json.loads(line["set"]) for line in table] == [[m["class"] for m in row["doubt"]["set"]] for row in rows]
    assert [line["answered"] for line in table] == [str(row["doubt"]["answered"]) for row in rows]
    assert {line["calibrated"] for line in table} == {"True"}
    assert "The probabilities are not calibrated" in run("predict", place / "model", *options).stdout


def test_calibrate_says_how_good_the_probabilities_are(calibrated, place, tmp_path):
    _, network = calibrated
    printed = run("calibrate", place / "model", place / "validation", "-o", tmp_path / "again",
                  "--network", network).stdout  # fmt: skip
    assert "ECE" in printed
    assert "passed over 1 file or folder of thumbnails" in printed
    assert "50 to fit, 100 for the guarantees" in printed
    assert "original network" in printed
    few = write_images(tmp_path / "few", 4, 2)
    assert "at least 30 validation images" in mistake(
        "calibrate", place / "model", few, "-o", tmp_path / "x", "--network", network
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
    assert json.loads(log.read_text().splitlines()[0])["time"].endswith("+00:00")
    for file in (tmp_path / "new").iterdir():  # as a camera that writes into the same files
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(file)
    result = run("watch", common[0], known / "ant", *common[1:], "--modes", pictures, code=1)
    assert "15 images left out: watched before" in result.stdout
    assert "not drawn: the files are gone, or hold other images now" in " ".join(result.stderr.split())


def test_a_watch_that_was_killed_before_its_log_writes_the_line_next_time(calibrated, tmp_path):
    folder, network = calibrated
    known, state, log = write_images(tmp_path / "known", 5, 3), tmp_path / "state.json", tmp_path / "log.jsonl"
    common = ("--network", network, "--state", state, "--log", log, "--batch-size", 5)
    run("watch", folder, known, *common)
    lines, kept = log.read_text().splitlines(keepends=True), state.read_text()
    assert [json.loads(line)["batch"] for line in lines] == [1, 2, 3]
    more = known / "ant" / "000.png"  # watched before: its batch has no new image
    for left in ("".join(lines[:2]), "".join(lines[:2]) + lines[2][:40]):  # killed before the line, or within it
        log.write_text(left)
        state.write_text(kept)
        run("watch", folder, more, *common)
        again = [json.loads(line) for line in log.read_text().splitlines()]
        assert again[2] == json.loads(lines[2]) | {"time": again[2]["time"]}
        assert again[3]["n_images"] == 0
    for left in ("".join(lines), ""):  # nothing is missing, and a new log begins anywhere
        log.write_text(left)
        state.write_text(kept)
        run("watch", folder, more, *common)
        assert len(log.read_text().splitlines()) == left.count("\n") + 1


def test_watch_takes_labels_from_a_table(calibrated, tmp_path):
    folder, network = calibrated
    known, state = write_images(tmp_path / "known", 5, 3), tmp_path / "state.json"
    table, options = tmp_path / "labels.csv", ("--network", network, "--state", state)
    rows = [f"{known / name / f'{i:03d}.png'},{name}" for name in NAMES for i in range(5)]
    labels = (folder, "--labels", table, *options)
    run("watch", folder, known, *options)
    table.write_text("\n".join(rows) + "\n")
    assert "begin the table with the line 'file,class'" in mistake("watch", *labels)
    table.write_text("\n".join(["file,class", *rows, rows[0].removesuffix("ant") + "bee"]) + "\n")
    assert "another class than a line before" in mistake("watch", *labels)
    table.write_text("\n".join(["file,class", *rows, "elsewhere.png,ant"]) + "\n")
    assert "15 labels added (1 other of no image that waits for its label), 15 so far" in run("watch", *labels).stdout
    assert "give the --state of that watch" in mistake("watch", folder, "--labels", table, "--network", network)
    assert "there are no images to watch" in mistake("watch", folder, *options)


def test_watch_of_a_camera_that_writes_one_file(calibrated, tmp_path):
    folder, network = calibrated
    latest, table, log = tmp_path / "latest.png", tmp_path / "labels.csv", tmp_path / "log.jsonl"
    options = ("--network", network, "--state", tmp_path / "state.json", "--log", log)
    for k, file in enumerate(sorted(write_images(tmp_path / "shots", 1, 5).rglob("*.png"))):
        latest.write_bytes(file.read_bytes())
        assert f"({k + 1} so far)" in run("watch", folder, latest, *options).stdout
    ids = [json.loads(line)["images"][0]["id"] for line in log.read_text().splitlines()]
    table.write_text(f"file,class\n{latest},ant\n")
    assert "3 images that wait for labels are called" in mistake("watch", folder, "--labels", table, *options)
    table.write_text("\n".join(["file,class,id", *(f"{latest},{k},{i}" for k, i in zip(NAMES, ids, strict=True))]))
    assert "3 labels added, 3 so far" in run("watch", folder, "--labels", table, *options).stdout


def test_a_model_without_calibration_is_refused(place):
    message = mistake("watch", place / "model", place / "images" / "test", "--network", f"{place / 'network.py'}:make")
    assert "lookalike calibrate MODEL DATA" in message


@pytest.fixture(scope="module")
def barely_calibrated(place):
    """The model calibrated on the test part of a folder with a training part: too few images for an alarm of 0.01."""
    network = f"{place / 'network.py'}:make"
    write_images(place / "parts" / "train", 8, 0)
    write_images(place / "parts" / "test", 20, 5)
    folder = place / "barely"
    printed = run("calibrate", place / "model", place / "parts", "-o", folder, "--network", network).stdout
    return folder, network, " ".join(printed.split())


UNTESTED = "not tested (99 validation images needed besides those of the fit, not 40, or --false-alarm 0.03)"


def test_calibrate_says_what_it_used_and_what_it_cannot_test(barely_calibrated):
    _, _, printed = barely_calibrated
    assert f"unfamiliar {UNTESTED}" in printed
    assert "at most 0.01 of familiar images" not in printed
    assert "abstention none: an error rate of 0.05 with confidence 0.9 needs 45 validation images" in printed
    assert "sets coverage 0.95, on average over calibrations" in printed
    assert "the calibration used the 60 test images of parts and left out its 24 training images" in printed
    assert "give a folder of other validation images" in printed


def test_nothing_is_said_of_unfamiliar_images_where_they_are_not_tested(barely_calibrated, place):
    folder, network, _ = barely_calibrated
    options = (place / "images" / "test", "--network", network)
    predictions = json.loads(run("predict", folder, *options, "--json").stdout)["predictions"]
    assert {row["unfamiliar"] for row in predictions} == {row["doubt"]["unfamiliar"] for row in predictions} == {None}
    assert f"Unfamiliar images: {UNTESTED}." in run("predict", folder, *options).stdout
    assert f"unfamiliar: {UNTESTED}" in run("watch", folder, *options).stdout
    report = json.loads(run("watch", folder, *options, "--json").stdout)
    assert (report["unfamiliar"], report["not_tested"]) == (None, UNTESTED)
    assert json.loads(run("watch", place / "calibrated", *options, "--json").stdout)["not_tested"] is None


def test_methods_take_a_folder_as_the_commands_do(place):
    """A folder's path gives what its data set gives; the model's own training images in it are left out."""
    namespace = {}
    exec((place / "network.py").read_text(), namespace)
    model = load(place / "model", namespace["bare"]())
    by_command = load(place / "calibrated", namespace["bare"]())
    by_method = model.calibrate(str(place / "validation"), false_alarm=0.02)
    assert by_method.doubt.facts == by_command.doubt.facts
    whole = load_for_model(place / "images", model.preprocessing, model.training_record)
    assert (len(whole.train), len(whole.test)) == (24, 9)
    card = evaluate(model, place / "images", only=("transparency",), progress=False)
    assert card.info["n_test"] == 9
    audited = audit(model, str(place / "images"), place / "validation", progress=False)
    assert audited.n_samples == {"train": 24, "test": 150}
    assert model.update(str(place / "validation"), progress=False).prototypes.counts.sum() > 24
    assert Watch(by_method).add(place / "validation").n_images == 150
    with pytest.raises(LookalikeError, match=r"of a folder lookalike.data.load_folder\(folder, preprocessing\)"):
        embed(model, "images")
    model.preprocessing = None
    with pytest.raises(LookalikeError, match=r"does not know what images go through, so it cannot read '.*images'"):
        model.calibrate(place / "images")
