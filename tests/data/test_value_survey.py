import numpy as np
import pytest
from PIL import Image

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.data import Preprocessing, load_data, settle_value_range, warn_of_values

GREY = Preprocessing.square(8, mean=(0.0,), std=(1.0,))


def folder_of(root, make, number=10):
    """Writes classes dark, middle and bright; ``make`` turns a brightness in [0, 1] into values."""
    rng = np.random.default_rng(0)
    for name, brightness in (("dark", 0.1), ("middle", 0.5), ("bright", 0.9)):
        (root / name).mkdir(parents=True)
        for i in range(number):
            values = make(brightness + rng.uniform(-0.05, 0.05, (9, 9)))
            Image.fromarray(values).save(root / name / f"{i}.{'png' if values.dtype == np.uint8 else 'tif'}")
    return root


def means(bundle):
    """Returns the mean grey of each class's training images."""
    x = np.array([float(bundle.train[i][0].mean()) for i in range(len(bundle.train))])
    return {name: x[bundle.train.labels == k].mean() for k, name in enumerate(bundle.class_names)}


def in_order(bundle):
    found = means(bundle)
    assert found["dark"] == pytest.approx(0.1, abs=0.03)
    assert found["middle"] == pytest.approx(0.5, abs=0.03)
    assert found["bright"] == pytest.approx(0.9, abs=0.03)
    return True


@pytest.mark.parametrize(("scale", "value_range"), [(1, (0.0, 1.0)), (255, (0.0, 255.0))])
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_one_scale_is_found_in_all_training_images(tmp_path, scale, value_range, kind):
    if kind == "int32" and scale == 1:
        pytest.skip("whole numbers cannot tell three brightnesses between 0 and 1")
    root = folder_of(tmp_path / "set", lambda v: (v * scale).astype(kind))
    bundle = settle_value_range(load_data(root, GREY))
    assert bundle.preprocessing.value_range == value_range
    assert bundle.test.transform.value_range == value_range
    assert in_order(bundle)
    assert f"{value_range[1]:g} for white" in bundle.notes[-1]


def test_values_that_fit_no_convention_are_asked_for(tmp_path):
    root = folder_of(tmp_path / "ct", lambda v: (v * 4000 - 1000).astype(np.int32))
    with pytest.raises(LookalikeError, match=r"32-bit whole numbers from -\d+ to \d+.*--value-range -\d+,\d+"):
        settle_value_range(load_data(root, GREY))
    bundle = load_data(root, Preprocessing.square(8, mean=(0.0,), std=(1.0,), value_range=(-1000, 3000)))
    assert in_order(settle_value_range(bundle))


def test_sixteen_bits_are_read_whole_and_twelve_are_hinted_at(tmp_path):
    whole = settle_value_range(load_data(folder_of(tmp_path / "16", lambda v: (v * 65_535).astype(np.uint16)), GREY))
    assert whole.preprocessing.value_range is None
    assert in_order(whole)
    assert "0…65535" in whole.notes[-1]
    root = folder_of(tmp_path / "12", lambda v: (v * 4095).astype(np.uint16))
    assert "--value-range 0,4095" in settle_value_range(load_data(root, GREY)).notes[-1]
    assert in_order(load_data(root, Preprocessing.square(8, mean=(0.0,), std=(1.0,), value_range=(0, 4095))))


def test_eight_bits_need_no_scale(tmp_path):
    bundle = load_data(folder_of(tmp_path / "8", lambda v: (v * 255).astype(np.uint8)), GREY)
    assert settle_value_range(bundle) is bundle


def test_several_kinds_of_values_are_refused(tmp_path):
    root = folder_of(tmp_path / "mixed", lambda v: v.astype(np.float32))
    Image.fromarray(np.full((9, 9), 9, np.uint16)).save(root / "dark" / "9.tif")
    with pytest.raises(LookalikeError, match="16-bit whole numbers and floating-point numbers"):
        settle_value_range(load_data(root, GREY, seed=1))


def test_broken_images_do_not_stop_the_search(tmp_path):
    root = folder_of(tmp_path / "set", lambda v: v.astype(np.float32))
    (root / "dark" / "0.tif").write_bytes(b"no image")
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(root / "dark" / "1.tif")
    assert settle_value_range(load_data(root, GREY)).preprocessing.value_range == (0.0, 1.0)


def test_values_that_are_cut_off_are_said(tmp_path):
    root = folder_of(tmp_path / "set", lambda v: (v * 255).astype(np.float32))
    narrow = load_data(root, Preprocessing.square(8, value_range=(0, 100)))
    assert "cut off" in settle_value_range(narrow).notes[-1]
    with pytest.warns(LookalikeWarning, match="values of .* test images? are beyond 0…100"):
        warn_of_values(narrow.test, "test")
    with pytest.warns(LookalikeWarning, match="nearly black"):
        warn_of_values(load_data(root, Preprocessing.square(8, value_range=(0, 65_535))).test, "test")
