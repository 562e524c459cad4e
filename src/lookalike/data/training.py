"""Data as networks are trained on them: one size, three channels, normalised by the training images' own statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike import checks
from lookalike.data.bundle import DATASETS, DataBundle, is_dataset
from lookalike.data.folders import load_folder
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics, evenly_spread
from lookalike.errors import LookalikeError


def load_training_data(
    source: str | Path, image_size: int, *, seed: int = 0, labels: str | Path | None = None
) -> DataBundle:
    """Loads a dataset by name, or a folder with one sub-folder of images per class, to train a network on it.

    Args:
        source: A registered name, or a folder.
        image_size: Side of the images in pixels.
        seed: For the split of a folder that has none.
        labels: A table of files and their classes, where the folder's sub-folders do not tell.

    Returns:
        Images [3, S, S]: grey ones three times (paper, appendix A.1).

    Raises:
        LookalikeError: If there is neither a dataset nor a folder of that name, or both, or an image cannot be read.
    """
    checks.path("source", source)
    checks.whole_number("image_size", image_size, 1)
    checks.seed("seed", seed)
    if is_dataset(source):
        if labels is not None:
            raise LookalikeError(
                f"{source!r} is a dataset, which knows its labels; leave {str(labels)!r} out (--labels)"
            )
        bundle = DATASETS[str(source)].load(None)
        own = bundle.preprocessing
        repeat = 3 // own.channels
        size = (image_size, image_size)
        fitted = own if own.crop == size or own.resize == size else replace(own, resize=size, crop=None)
        return bundle.with_preprocessing(replace(fitted, mean=own.mean * repeat, std=own.std * repeat))
    plain = Preprocessing.square(image_size, mean=(0.0,) * 3, std=(1.0,) * 3)
    bundle = load_folder(source, plain, seed=seed, labels=labels)
    few = [bundle.train[int(row)][0].permute(1, 2, 0).numpy() for row in evenly_spread(len(bundle.train))]
    pixels = [(image * 255).round().astype(np.uint8) for image in few]
    mean, std = channel_statistics(np.stack(pixels))
    std = tuple(value or 1.0 for value in std)  # a channel that never changes
    return bundle.with_preprocessing(replace(plain, mean=mean, std=std))
