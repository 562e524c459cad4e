"""Data as networks are trained on them: one size, three channels, normalised by the training images' own statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.data.bundle import DATASETS, DataBundle
from lookalike.data.folders import load_folder
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics
from lookalike.errors import LookalikeError

_STATISTICS = 2000  # images of a folder, evenly spread, whose mean and deviation stand for all


def load_training_data(source: str | Path, image_size: int, *, seed: int = 0) -> DataBundle:
    """Loads a dataset by name, or a folder with one sub-folder of images per class, to train a network on it.

    Args:
        source: A registered name, or a folder.
        image_size: Side of the images in pixels.
        seed: For the split of a folder that has none.

    Returns:
        Images [3, S, S]: grey ones three times (paper, appendix A.1).

    Raises:
        LookalikeError: If there is neither a dataset nor a folder of that name, or an image cannot be read.
    """
    if isinstance(source, str) and source in DATASETS:
        bundle = DATASETS[source].load(None)
        own = bundle.preprocessing
        repeat = 3 // own.channels
        size = (image_size, image_size)
        fitted = own if own.crop == size or own.resize == size else replace(own, resize=size, crop=None)
        return bundle.with_preprocessing(replace(fitted, mean=own.mean * repeat, std=own.std * repeat))
    if not Path(source).exists():
        raise LookalikeError(
            f"{str(source)!r} is neither a folder nor a dataset; there are the datasets {', '.join(DATASETS)}"
        )
    plain = Preprocessing.square(image_size, mean=(0.0,) * 3, std=(1.0,) * 3)
    bundle = load_folder(source, plain, seed=seed)
    n = len(bundle.train)
    rows = np.unique(np.linspace(0, n - 1, min(_STATISTICS, n)).astype(int))
    pixels = [(bundle.train[int(row)][0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for row in rows]
    mean, std = channel_statistics(np.stack(pixels))
    std = tuple(value or 1.0 for value in std)  # a channel that never changes
    return bundle.with_preprocessing(replace(plain, mean=mean, std=std))
