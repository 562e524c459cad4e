"""Small things that a first day shows: what to type next, and mistakes that are refused before any work."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike._core.errors import LookalikeError
from lookalike._core.startup import import_with_torchvision
from lookalike.data import load_data
from lookalike.encoder import Outputs, map_classes
from tests.cli.test_commands import mistake, run


def test_a_missing_folder_is_refused_before_the_network_is_loaded(tmp_path):
    error = mistake("convert", "timm:nosuchnetwork", tmp_path / "nofolder", "-o", tmp_path / "model")
    assert "nofolder' is neither a folder nor a dataset" in error


def test_the_table_of_predictions_has_no_nameless_column(converted, network_file, image_folder):
    printed = run("predict", converted, image_folder / "test", "--network", f"{network_file}:make").stdout
    header = next(line for line in printed.splitlines() if "prediction" in line and "file" in line)
    assert all(name.strip() for name in header.strip("┃│|\n ").replace("│", "┃").split("┃"))


def test_a_lone_picture_of_twelve_bits_is_said_to_be_nearly_black(converted, network_file, tmp_path):
    pixels = np.linspace(0, 4095, 144).astype(np.uint16).reshape(12, 12)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    error = run("predict", converted, tmp_path / "deep.png", "--network", f"{network_file}:make").stderr
    assert "its values, 0…4095, are all nearly black: the model reads 0…65535" in " ".join(error.split())


def test_commands_say_what_to_type_next(converted, network_file, image_folder):
    network = f"{network_file}:make"
    result = run("evaluate", converted, image_folder, "--network", network, "--only", "transparency")
    assert f"Next: lookalike report {converted} {image_folder} -o report.html --network {network}" in result.stdout


def test_a_sentence_has_no_comma_before_a_bracket(converted, network_file, image_folder, tmp_path):
    printed = run("explain", converted, image_folder / "test" / "ant" / "00.png", "-o", tmp_path / "pictures",
                  "--no-maps", "--network", f"{network_file}:make").stdout  # fmt: skip
    said = " ".join(printed.split())
    assert "shown by '" in said
    assert ", (" not in said


def test_too_few_outputs_for_the_classes_ask_for_the_right_checkpoint():
    asked = "is this the right checkpoint for these data? the black box has 4 classes and the model 6"
    assert asked in map_classes(Outputs(None, 4, names=list("abcd")), list("uvwxyz")).note
    assert asked in map_classes(Outputs(None, 4), list("uvwxyz")).note
    assert "right checkpoint" not in map_classes(Outputs(None, 6), list("uvwx")).note


def test_a_torchvision_of_another_build_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "torchvision_of_another_build.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('something else')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookalikeError, match=r"torchvision \S+ does not fit torch \S+ \(operator torchvision::nms"):
        import_with_torchvision("torchvision_of_another_build")
    with pytest.raises(RuntimeError, match="something else"):
        import_with_torchvision("broken")


@pytest.mark.parametrize("dataset", ["mnist", "svhn", "cifar10", "stl10", "flowers102", "celeba", "quickdraw"])
def test_a_torchvision_of_another_build_is_one_line_of_data_sets_too(dataset, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "data"))
    with pytest.raises(LookalikeError, match=r"^torchvision \S+ does not fit torch \S+ .* install the two of one"):
        load_data(dataset)


def test_torchvision_is_imported_in_one_place_alone():
    source = Path(lookalike.__file__).parent
    bare = re.compile(r"^\s*(?:import|from) torchvision\b", re.MULTILINE)
    assert [file.name for file in source.rglob("*.py") if bare.search(file.read_text(encoding="utf-8"))] == []
