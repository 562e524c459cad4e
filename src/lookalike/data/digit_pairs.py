"""Digit pairs: two digits side by side, in 100 classes, so that accuracy is not saturated on small data."""

import numpy as np
from PIL import Image

from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray
from lookalike.data.digits import load_digits
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics

SIDE = 32  # pixels; a digit has half of the width
_SIZES = (4000, 1000)  # images of the training and of the test part
_SEED = 0


def load_digit_pairs(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Draws pairs of digits, side by side on 32×32 pixels, from 00 to 99: 4,000 for training, 1,000 for testing.

    Training pairs are drawn from the training digits of ``load_digits``, and test pairs from its test digits, so that
    no digit's image is on both sides. Each digit is scaled to 16×16, in the middle of its half.

    Args:
        preprocessing: How the images are prepared for the network; None keeps their size and normalises them by the
            training part's mean and standard deviation.
    """
    digits = load_digits()
    names = [f"{left}{right}" for left in range(10) for right in range(10)]
    (train_x, train_y), (test_x, test_y) = (
        _pairs(digits_of_part, size, seed)
        for seed, (digits_of_part, size) in enumerate(zip((digits.train, digits.test), _SIZES, strict=True))
    )
    if preprocessing is None:
        preprocessing = Preprocessing(None, (SIDE, SIDE), *channel_statistics(train_x))
    train, test = (ImageArray(x, y, names, preprocessing) for x, y in ((train_x, train_y), (test_x, test_y)))
    return DataBundle("digit-pairs", train, test, names, preprocessing, digits.notes)


def _pairs(part: object, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns n images [n, 32, 32] with labels [n], all classes equally often, give or take one."""
    assert isinstance(part, ImageArray)
    rng = np.random.default_rng([_SEED, seed])
    half = SIDE // 2
    small = [
        np.asarray(Image.fromarray(image).resize((half, half), Image.Resampling.BILINEAR)) for image in part.images
    ]
    rows_of_digit = [np.nonzero(part.labels == digit)[0] for digit in range(10)]
    labels = rng.permutation(np.arange(n) % 100)
    images = np.zeros((n, SIDE, SIDE), np.uint8)
    top = (SIDE - half) // 2
    for image, label in zip(images, labels, strict=True):
        for position, digit in enumerate(divmod(int(label), 10)):
            image[top : top + half, position * half : (position + 1) * half] = small[rng.choice(rows_of_digit[digit])]
    return images, labels.astype(np.int64)


DATASETS.register("digit-pairs")(
    DatasetEntry("two digits side by side, 32×32, 100 classes, 4,000 for training (as digits)", load_digit_pairs)
)
