"""Views of free photographs: read from an installed package without importing it."""

import sys

import numpy as np
import pytest
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing, load_data
from lookalike.data.closeups import PHOTOGRAPHS


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package ``skimage`` with six small photographs, which cannot be imported."""
    folder = tmp_path / "skimage"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for k, (file, _) in enumerate(PHOTOGRAPHS.values()):
        slope = np.broadcast_to(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (60, 80, 3)).copy()
        slope[..., 2] = 30 * k
        Image.fromarray(slope).save(folder / "data" / file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    return folder


def test_views_of_each_photograph_are_shared_between_the_parts(package):
    bundle = load_data("closeups", Preprocessing.square(16))
    assert bundle.class_names == list(PHOTOGRAPHS)
    # 60 × 80: windows of 36 pixels, steps of 12: three rows of four views
    counts = np.bincount(bundle.train.labels) + np.bincount(bundle.test.labels)
    assert counts.tolist() == [12] * 6
    assert len(bundle.train) == len(bundle.test) == 36
    slope = bundle.train.images[0][0, :, 0].astype(int)
    assert slope[-1] > slope[0]
    mirrored = bundle.test.images[0][0, :, 0].astype(int)
    assert mirrored[-1] < mirrored[0]
    assert "no measure of a classifier" in bundle.notes[0]
    assert "skimage" not in sys.modules


def test_a_missing_photograph_or_package_is_named(package, monkeypatch):
    (package / "data" / "coffee.png").unlink()
    with pytest.raises(LookalikeError, match=r"scikit-image has no 'coffee\.png'"):
        load_data("closeups")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(LookalikeError, match=r"'closeups' .* pip install scikit-image"):
        load_data("closeups")
