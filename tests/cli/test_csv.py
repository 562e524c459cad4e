"""``lookalike predict --csv``: the same as --json, for spreadsheets."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from lookalike._core.names import spreadsheet_cell
from lookalike.cli import app
from lookalike.cli.console import print_csv

run = CliRunner().invoke


def test_csv_holds_what_json_holds(image_folder, network_file, tmp_path):
    spec = f"{network_file}:make"
    made = run(app, ["convert", spec, str(image_folder), "-o", str(tmp_path / "m")])
    assert made.exit_code == 0, made.output
    arguments = ["predict", str(tmp_path / "m"), str(image_folder / "test"), "--network", spec]
    rows = list(csv.DictReader(io.StringIO(run(app, [*arguments, "--csv"]).stdout)))
    expected = json.loads(run(app, [*arguments, "--json"]).stdout)["predictions"]
    assert len(rows) == len(expected) == 9
    for row, one in zip(rows, expected, strict=True):
        assert (row["file"], row["prediction"]) == (one["file"], one["prediction"])
        assert float(row["probability"]) == one["probability"]
        assert {name: float(row[f"probability of {name}"]) for name in one["probabilities"]} == one["probabilities"]
        assert row["unfamiliar"] == str(one["unfamiliar"])
    single = ["predict", str(tmp_path / "m"), str(image_folder / "test" / "ant" / "00.png"), "--network", spec, "--csv"]
    (only,) = csv.DictReader(io.StringIO(run(app, single).stdout))
    assert (only["prediction"], list(only)) == (rows[0]["prediction"], list(rows[0]))
    both = run(app, [*arguments, "--csv", "--json"])
    assert both.exit_code == 2
    assert "choose one of --json and --csv" in both.stderr


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_no_formula(begin):
    assert spreadsheet_cell(f"{begin}1") == f"'{begin}1"
    assert [spreadsheet_cell(value) for value in (None, "", "a=1", -1)] == ["", "", "a=1", -1]


def test_a_name_that_looks_like_a_formula_stays_a_text(capsys):
    print_csv(["file", "x"], [["=HYPERLINK(1)", -0.5], ['a "quote", and\x1b[2J', None]])
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["file", "x"], ["'=HYPERLINK(1)", "-0.5"], ['a "quote", and\\x1b[2J', ""],
    ]  # fmt: skip
