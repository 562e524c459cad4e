"""Data as networks are trained on them: one size, three channels, normalised by the training images' own statistics."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data.batches import Batches
from lookalike.data.bundle import DATASETS, DataBundle, is_dataset
from lookalike.data.folders import load_folder
from lookalike.data.grey_values import ValueRange
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics, evenly_spread
from lookalike.data.value_survey import settle_value_range

_NAMED = 20  # files that could not be read


def load_training_data(
    source: str | Path,
    image_size: int,
    *,
    seed: int = 0,
    labels: str | Path | None = None,
    value_range: ValueRange | None = None,
    as_stored: bool = False,
    large_images: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
) -> DataBundle:
    """Loads a dataset by name, or a folder with one sub-folder of images per class, to train a network on it.

    Args:
        source: A registered name, or a folder.
        image_size: Side of the images in pixels.
        seed: For the split of a folder that has none.
        labels: A table of files and their classes, where the folder's sub-folders do not tell.
        value_range: The values of black and white of a folder's images, for greys of more than 8 bits.
        as_stored: Do not turn a folder's photographs upright.
        large_images: Read images beyond Pillow's limit too.
        on_error: ``"skip"`` reads all of a folder's images once and leaves out those that cannot be read.

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
            raise LookalikeError(f"{source!r} is a dataset with its own labels; leave {str(labels)!r} out (--labels)")
        bundle = DATASETS[str(source)].load(None)
        own = bundle.preprocessing
        repeat = 3 // own.channels
        size = (image_size, image_size)
        fitted = own if own.crop == size or own.resize == size else replace(own, resize=size, crop=None)
        return bundle.with_preprocessing(replace(fitted, mean=own.mean * repeat, std=own.std * repeat))
    reading: dict[str, Any] = {"value_range": value_range, "as_stored": as_stored, "large_images": large_images}
    plain = Preprocessing.square(image_size, mean=(0.0,) * 3, std=(1.0,) * 3, **reading)
    bundle = settle_value_range(load_folder(source, plain, seed=seed, labels=labels))
    plain = bundle.preprocessing
    if on_error == "skip":
        bundle = _without_broken(bundle)
    few = [bundle.train[int(row)][0].permute(1, 2, 0).numpy() for row in evenly_spread(len(bundle.train))]
    pixels = [(image * 255).round().astype(np.uint8) for image in few]
    mean, std = channel_statistics(np.stack(pixels))
    std = tuple(value or 1.0 for value in std)  # a channel that never changes
    return bundle.with_preprocessing(replace(plain, mean=mean, std=std))


def _without_broken(bundle: DataBundle) -> DataBundle:
    """Leaves out images that cannot be read, and says which in the notes."""
    parts, skipped = [], []
    for part in (bundle.train, bundle.test):
        batches: Any = Batches(part, on_error="skip")
        for _ in batches:
            pass
        readable = np.setdiff1d(np.arange(len(part)), list(batches.skipped))
        parts.append(part.select(readable) if batches.skipped else part)  # type: ignore[attr-defined]
        skipped += list(batches.skipped.values())
    if not len(parts[0]):
        raise LookalikeError(f"none of the {len(bundle.train)} training images could be read; the first: {skipped[0]}")
    if not skipped:
        return bundle
    note = f"{len(skipped)} images could not be read and are left out: {'; '.join(skipped[:_NAMED])}"
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return replace(bundle, train=parts[0], test=parts[1], notes=(*bundle.notes, note + more))
