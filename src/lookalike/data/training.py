"""Loads data to train networks on: one size, three channels, normalised by the training images' own statistics."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_type_hints

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.wording import counted
from lookalike.data.batches import Batches
from lookalike.data.bundle import DATASETS, DataBundle, is_dataset
from lookalike.data.folders import load_folder
from lookalike.data.grey_values import ValueRange
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics, evenly_spread
from lookalike.data.value_survey import settle_value_range

_MAX_NAMED = 20  # unreadable files named in the note


class ReadingOptions(TypedDict, total=False):
    """How image files are read, in ways that are not the network's; see ``Preprocessing``."""

    value_range: ValueRange | None
    as_stored: bool
    scaled_decoding: bool
    large_images: bool


def load_training_data(
    source: str | Path,
    image_size: int,
    *,
    seed: int = 0,
    labels: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    **reading: Unpack[ReadingOptions],
) -> DataBundle:
    """Loads a dataset by its name, or a folder with one sub-folder of images per class, to train a network.

    Args:
        source: A registered name, or a folder.
        image_size: Side S of the images in pixels.
        seed: Seed for splitting a folder that has no training and test folders.
        labels: A table of files and their classes, for a folder without one sub-folder per class.
        on_error: ``"skip"`` reads all of a folder's images once and leaves out those that cannot be read.
        **reading: How a folder's images are read: ``value_range``, ``as_stored``, ``scaled_decoding`` and
            ``large_images`` of ``Preprocessing``.

    Returns:
        A bundle of images [3, S, S]; grey images have three equal channels (paper, appendix A.1). A folder's pictures
        with transparency are laid on white, as the colours stored under transparent pixels are arbitrary.

    Raises:
        LookalikeError: If the name is neither a dataset nor a folder, or is both, or an image cannot be read.
        TypeError: If there is no option of that name.
    """
    checks.option_names("load_training_data", reading, tuple(get_type_hints(ReadingOptions)))
    checks.path("source", source)
    image_size = checks.whole_number("image_size", image_size, 1)
    seed = checks.seed("seed", seed)
    if is_dataset(source):
        if labels is not None:
            raise LookalikeError(f"{source!r} is a dataset with its own labels; leave {str(labels)!r} out (--labels)")
        bundle = DATASETS[str(source)].load(None)
        default = bundle.preprocessing
        repeat = 3 // default.channels
        size = (image_size, image_size)
        has_size = default.crop == size or default.resize == size
        crop = size if default.fit == "contain" else None  # which alone would leave each image its own shape
        resized = default if has_size else replace(default, resize=size, crop=crop)
        return bundle.with_preprocessing(replace(resized, mean=default.mean * repeat, std=default.std * repeat))
    plain = Preprocessing.square(image_size, mean=(0.0,) * 3, std=(1.0,) * 3, transparency="white", **reading)
    bundle = settle_value_range(load_folder(source, plain, seed=seed, labels=labels))
    plain = bundle.preprocessing
    if on_error == "skip":
        bundle = _without_broken(bundle)
    sampled = [bundle.train[int(row)][0].permute(1, 2, 0).numpy() for row in evenly_spread(len(bundle.train))]
    pixels = [(image * 255).round().astype(np.uint8) for image in sampled]
    mean, std = channel_statistics(np.stack(pixels))
    std = tuple(value or 1.0 for value in std)  # a constant channel has a deviation of 0
    return bundle.with_preprocessing(replace(plain, mean=mean, std=std))


def _without_broken(bundle: DataBundle) -> DataBundle:
    """Leaves out images that cannot be read, and lists them in the notes."""
    train, train_messages = _readable(bundle.train)
    test, test_messages = _readable(bundle.test)
    messages = train_messages + test_messages
    if not len(train):
        raise LookalikeError(f"none of the {len(bundle.train)} training images could be read; the first: {messages[0]}")
    if not messages:
        return bundle
    listed = "; ".join(messages[:_MAX_NAMED])
    note = f"{counted(len(messages), 'image')} could not be read and had to be left out: {listed}"
    if len(messages) > _MAX_NAMED:
        note += f"; and {len(messages) - _MAX_NAMED} more"
    return replace(bundle, train=train, test=test, notes=(*bundle.notes, note))


def _readable(samples: Any) -> tuple[Any, list[str]]:
    """Returns the samples that can be read, and the error messages of the others."""
    batches = Batches(samples, on_error="skip")
    for _ in batches:
        pass
    readable = np.setdiff1d(np.arange(len(samples)), list(batches.skipped))
    return samples.select(readable) if batches.skipped else samples, list(batches.skipped.values())
