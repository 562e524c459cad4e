"""Exact copies in the training folder are told at the conversion, in one line, those between classes first."""

import shutil
import warnings

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from lookalike._core.errors import LookalikeWarning
from lookalike.data import Preprocessing, load_data
from lookalike.data.copies import copies_sentence, warn_of_copies
from tests.cli.test_commands import run

PLAIN = Preprocessing(None, None, (0.0,) * 3, (1.0,) * 3)


def test_copies_are_counted_and_those_between_classes_are_named_first(image_folder):
    train = image_folder / "train"
    assert copies_sentence(load_data(image_folder, PLAIN).train) is None
    for copy in ("again.png", "third.png"):
        shutil.copy(train / "ant" / "00.png", train / "ant" / copy)
    assert copies_sentence(load_data(image_folder, PLAIN).train) == (
        "2 training images are exact copies of others ('ant/00.png' = 'ant/again.png'): lookalike audit lists them"
    )
    shutil.copy(train / "bee" / "01.png", train / "cat" / "copy.png")
    data = load_data(image_folder, PLAIN).train
    assert copies_sentence(data).startswith(
        "3 training images are exact copies of others, 1 of another class ('bee/01.png' = 'cat/copy.png'; 'ant/00"
    )
    assert copies_sentence(Subset(data, [0, 1, 2])) is None


def test_data_that_are_no_files_have_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_copies(Subset(TensorDataset(torch.zeros(3, 2), torch.zeros(3)), [0]))


def test_a_conversion_says_so_once(image_folder, network_file, tmp_path):
    shutil.copy(image_folder / "train" / "bee" / "01.png", image_folder / "train" / "cat" / "copy.png")
    result = run("convert", f"{network_file}:make", image_folder, "-o", tmp_path / "m", "--n-prototypes", 1)
    assert result.stderr.count("1 training image is an exact copy of one of another class") == 1
    with pytest.warns(LookalikeWarning, match="lookalike audit lists them"):
        warn_of_copies(load_data(image_folder, PLAIN).train)
