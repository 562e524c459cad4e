"""``lookalike evaluate`` and ``lookalike report``, on a folder of images."""

import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.cli.evaluate import _missed_thresholds as failed
from lookalike.metrics import Scorecard


@pytest.fixture
def saved(image_folder, network_file, tmp_path):
    arguments = [
        "convert",
        f"{network_file}:make",
        str(image_folder),
        "-o",
        str(tmp_path / "model"),
        "--n-prototypes",
        "2",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return tmp_path / "model", image_folder, f"{network_file}:make"


def run(saved, command, *options):
    model, folder, network = saved
    return CliRunner().invoke(app, [command, str(model), str(folder), "--network", network, *map(str, options)])


def test_prints_the_scorecard_and_says_what_it_means(saved):
    result = run(saved, "evaluate", "--images", 5)
    assert result.exit_code == 0, result.output
    assert "agreement with the black box" in result.output
    assert "It agrees with the original on" in result.output


def test_sanity_checks_on_request(saved, tmp_path):
    result = run(saved, "evaluate", "--only", "diversity", "--sanity", "--images", 2)
    assert result.exit_code == 0, result.output
    assert "On 2 images, its heat-maps" in result.output
    out = tmp_path / "report.html"
    options = ["--sanity", "--images", 2, "--browse", 1, "--nearest", 1, "-o", out]
    assert run(saved, "report", *options).exit_code == 0
    text = out.read_text(encoding="utf-8")
    assert "Sanity checks: similarity of explanations" in text
    assert "randomised from the head down, on 2 images." in text
    assert "the prediction needs; the mean over 2 images." in text


def test_json_and_a_file(saved, tmp_path):
    result = run(saved, "evaluate", "--only", "faithfulness,transparency", "--json", "-o", tmp_path / "card.json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.pop("passed_over") == {}
    assert found == json.loads((tmp_path / "card.json").read_text())
    assert found["info"]["sections"] == ["faithfulness", "transparency"]
    assert run(saved, "evaluate", "-o", tmp_path / "card.json").exit_code == 2


def test_exit_codes_for_someones_ci(saved):
    only = ("--only", "faithfulness,transparency")
    assert run(saved, "evaluate", *only, "--max-ghosting", 1, "--min-agreement", 0).exit_code == 0
    result = run(saved, "evaluate", *only, "--min-agreement", 1)
    card = json.loads(run(saved, "evaluate", *only, "--json").stdout)
    assert result.exit_code == (0 if card["agreement"] == 1 else 1)
    other = CliRunner().invoke(
        app,
        ["evaluate", str(saved[0]), str(saved[1]), "--network", saved[2], "--only", "diversity", "--max-ghosting", "0"],
    )
    assert other.exit_code == 2
    assert "needs ghosting, which was not measured" in other.output


def test_failed_thresholds_are_named():
    card = Scorecard({"agreement": [0.5], "ghosting": [0.4]}, {}, ["a"])
    assert failed(card, 0.97, 0.0) == [
        "agreement is 0.5000; --min-agreement is 0.97",
        "ghosting is 0.4000; --max-ghosting is 0",
    ]
    assert failed(card, 0.5, 0.4) == []


def test_writes_a_report(saved, tmp_path):
    path = tmp_path / "report.html"
    result = run(saved, "report", "-o", path, "--images", 4, "--browse", 5, "--title", "Insects & cats")
    assert result.exit_code == 0, result.output
    assert "Insects &amp; cats" in path.read_text()
    again = run(saved, "report", "-o", path)
    assert again.exit_code == 2
    assert "exists already" in again.output
    other = run(saved, "report", "-o", path, "--overwrite", "--images", 4, "--json")
    assert json.loads(other.stdout)["scorecard"]["accuracy"] >= 0


def test_a_black_box_of_ones_own(saved, network_file):
    result = run(saved, "evaluate", "--only", "faithfulness", "--black-box", f"{network_file}:bare", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["agreement"] is not None
    wrong = run(saved, "evaluate", "--black-box-weights", "x.pth")
    assert wrong.exit_code == 2
    assert "needs --black-box" in wrong.output


def test_mistakes_get_one_line(saved, tmp_path):
    assert "did you mean 'transparency'" in run(saved, "evaluate", "--only", "transparancy").output
    nowhere = CliRunner().invoke(app, ["evaluate", str(saved[0]), str(tmp_path / "nowhere"), "--network", saved[2]])
    assert nowhere.exit_code == 2
    assert "neither a folder nor a dataset" in nowhere.output


def test_images_that_cannot_be_read_stop_it_or_are_counted(saved):
    (saved[1] / "test" / "bee" / "01.png").write_text("no")
    result = run(saved, "evaluate", "--only", "faithfulness")
    assert result.exit_code == 2
    assert "01.png': not an image" in result.output
    result = run(saved, "evaluate", "--only", "faithfulness", "--on-error", "skip", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["notes"][-1] == "1 test image could not be read and had to be left out"


def test_a_folder_that_was_split_is_tested_on_the_same_images(image_folder, network_file, tmp_path):
    plain = image_folder / "train"
    network = ["--network", f"{network_file}:make"]
    arguments = ["convert", f"{network_file}:make", plain, "-o", tmp_path / "m", "--split-seed", "5", "--json"]
    converted = json.loads(CliRunner().invoke(app, [str(a) for a in arguments]).stdout)
    only = ["--only", "faithfulness,transparency", "--json"]
    card = json.loads(CliRunner().invoke(app, ["evaluate", str(tmp_path / "m"), str(plain), *network, *only]).stdout)
    assert card["info"]["n_test"] == converted["test"]["n_samples"]
    assert card["accuracy"] == converted["test"]["accuracy"]
    assert card["info"]["data_check"] == {
        "training_data": "same",
        "n_leaked": 0,
        "n_test": 6,
        "is_calibration": False,
    }
    assert (
        "6 images to test on, 18 as the model's training images (those that it was made from; split by seed 5)"
        in (card["notes"][0])
    )
    new = CliRunner().invoke(app, ["evaluate", str(tmp_path / "m"), str(image_folder / "test"), *network, *only])
    assert json.loads(new.stdout)["info"]["n_test"] == 9
    asked = CliRunner().invoke(app, ["evaluate", str(tmp_path / "m"), str(plain), *network, "--split-seed", "6"])
    assert asked.exit_code == 2
    assert "test images are training images of the model" in asked.output


def test_standard_measures_and_the_rule_by_name(saved):
    only = ("--only", "faithfulness", "--images", 4)
    result = run(saved, "evaluate", *only, "--measures", "deletion, sparseness", "--rule", "share", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["info"]["sections"] == ["faithfulness", "deletion", "sparseness"]
    assert found["info"]["options"]["rule"] == "share"
    assert 0 <= found["deletion"] <= 1
    assert found["road"] is None
    wrong = run(saved, "evaluate", *only, "--measures", "delete")
    assert wrong.exit_code == 2
    assert "no standard measure is called 'delete'" in wrong.output


def test_explain_says_how_stable_shares_maps_are(saved, tmp_path):
    model, folder, network = saved
    images = str(next(folder.glob("test/*")))
    for rule, told in (("share", True), ("neuralized", False)):
        out = tmp_path / rule
        arguments = ["explain", str(model), images, "-o", str(out), "--network", network, "--rule", rule]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert ("noise of 1% leaves a correlation of" in result.output) is told
        rows = json.loads((out / "explanations.json").read_text())
        assert all(row["rule"] == rule and (row["map_stability"] is not None) is told for row in rows)


def words_of(page):
    """Returns a page's text, without its tags."""
    return " ".join(re.sub("<[^>]+>", "", page).split())


def test_a_report_shows_a_scorecard_that_was_measured_before(saved, tmp_path):
    card, page = tmp_path / "card.json", tmp_path / "report.html"
    assert run(saved, "evaluate", "--only", "faithfulness,diversity", "-o", card).exit_code == 0
    options = ["--scorecard", card, "--maps", 0, "--intended-use", "To sort insects.", "-o", page]
    result = run(saved, "report", *options)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert "To sort insects." in text
    assert "diversity D_dvs" in words_of(text)
    assert not re.search(r'<th scope="row">(<[^>]+>)?AUROC', text)  # it was not measured
    for options in (
        ["--only", "faithfulness"],
        ["--measures", "all"],
        ["--sanity"],
        ["--resume", "x.json"],
        ["--images", 5],
    ):
        again = run(saved, "report", "--scorecard", card, *options, "-o", tmp_path / "x.html")
        assert again.exit_code == 2
        assert f"with --scorecard nothing is measured: leave out {options[0]}" in " ".join(again.stderr.split())


def test_the_report_that_is_named_next_fits_the_scorecard(saved, tmp_path):
    model, folder, network = saved
    card, page = tmp_path / "card.json", tmp_path / "page.html"
    measured = ["--split-seed", "7", "--large-images", "--only", "faithfulness", "-o", str(card)]
    measured = ["evaluate", str(model), str(folder / "test"), "--network", network, *measured]
    result = CliRunner().invoke(app, measured)
    assert result.exit_code == 0, result.output
    words = shlex.split(" ".join(result.output.split()).rpartition("Next: lookalike ")[2])
    assert words[words.index("--split-seed") + 1] == "7"
    assert words[words.index("--scorecard") + 1] == str(card)
    assert "--large-images" in words
    words[words.index("-o") + 1] = str(page)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert page.exists()


def test_a_report_measures_only_what_is_asked_for(saved, tmp_path):
    page, parts = tmp_path / "report.html", tmp_path / "parts.json"
    result = run(saved, "report", "--only", "faithfulness", "--resume", parts, "--maps", 0, "-o", page)
    assert result.exit_code == 0, result.output
    assert parts.exists()
    text = page.read_text(encoding="utf-8")
    assert "ghosting" not in words_of(re.sub(r'<section id="key".*?</section>', "", text, flags=re.DOTALL))
    assert "ghosting" in words_of(text)  # the key explains all words
