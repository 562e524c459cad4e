"""What ``lookalike demo`` prints of its results; tests/demo runs it."""

import re
import shlex

import pytest

from lookalike.cli.demo import print_result
from lookalike.demo.result import DemoResult

ROW = {
    "model": "KMEx", "accuracy": 0.978, "agreement": 0.994, "ghosting": 0.02, "convert_seconds": 1.25,
    "predict_time_ratio": 1.014,
}  # fmt: skip


@pytest.mark.parametrize("name", ["out", "[red] of two words", ":cat:"])
def test_the_table_the_files_and_a_command_to_copy(name, tmp_path, capsys):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("report.html", "network.py"):
        (folder / file).touch()
    result = DemoResult({"n_test": 1000, "black_box_accuracy": 0.979}, [ROW], ("a note",), ("It agrees [a lot].",))
    print_result(result, folder, "digits")
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "Note: a note." in printed
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in printed.splitlines()]
    assert ["model", "accuracy", "agreement", "ghosted", "to convert", "to predict"] in cells
    assert cells.index(["black box", "97.9%", "", "", "", "1"]) + 1 == cells.index(
        ["KMEx", "97.8%", "99.4%", "2.0%", "1.2 s", "× 1.01"]
    )
    assert "1,000 test digits" in printed
    assert "• It agrees [a lot]." in printed
    assert f"In {folder}:" in printed
    assert "report.html" in printed
    assert "gallery.png" not in printed  # it is not there
    command = printed.rpartition("Next: ")[2]
    network = f"{folder}/network.py:digit_network"
    assert shlex.split(command) == [
        "lookalike", "explain", f"{folder}/model", "IMAGES", "-o", "pictures", "--network", network,
    ]  # fmt: skip
