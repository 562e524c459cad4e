"""Loads registered datasets and folders of images, prepares their images, and reads any data in batches."""

from pathlib import Path

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data.augmentation import Augmentation
from lookalike.data.batches import Batch, Batches
from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry, ImageArray, Split, is_dataset
from lookalike.data.closeups import load_closeups
from lookalike.data.corrections import with_corrections
from lookalike.data.decoders import IMAGE_FORMATS
from lookalike.data.digit_pairs import load_digit_pairs
from lookalike.data.digits import load_digits
from lookalike.data.folders import ImageFiles, find_images, list_images, load_folder
from lookalike.data.glyphs import load_glyphs
from lookalike.data.imagenet_photos import load_imagenet_photos
from lookalike.data.images import decode_image, read_image
from lookalike.data.listed import load_celeba, load_cub200
from lookalike.data.masks import HasMasks, MaskedFiles
from lookalike.data.passed_over import PassedOver
from lookalike.data.photo_sets import PcamPart
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.quickdraw import load_quickdraw
from lookalike.data.raw import InputBatch, read_inputs
from lookalike.data.roles import TrainingRecord, with_roles
from lookalike.data.stamps import fetch_stamps, find_stamps, load_stamps
from lookalike.data.styles import load_styles
from lookalike.data.training import load_training_data
from lookalike.data.transforms import check_preprocessing, preprocessing_or_none, read_preprocessing
from lookalike.data.transparency import is_transparent, warn_of_transparency
from lookalike.data.value_survey import settle_value_range, value_remark, warn_of_values
from lookalike.data.vision import data_folder

__all__ = [
    "DATASETS",
    "IMAGE_FORMATS",
    "Attributes",
    "Augmentation",
    "Batch",
    "Batches",
    "DataBundle",
    "DatasetEntry",
    "HasMasks",
    "ImageArray",
    "ImageFiles",
    "InputBatch",
    "MaskedFiles",
    "PassedOver",
    "PcamPart",
    "Preprocessing",
    "Split",
    "TrainingRecord",
    "check_preprocessing",
    "data_folder",
    "decode_image",
    "fetch_stamps",
    "find_images",
    "find_stamps",
    "is_transparent",
    "list_datasets",
    "list_images",
    "load_celeba",
    "load_closeups",
    "load_cub200",
    "load_data",
    "load_digit_pairs",
    "load_digits",
    "load_folder",
    "load_for_model",
    "load_glyphs",
    "load_imagenet_photos",
    "load_quickdraw",
    "load_stamps",
    "load_styles",
    "load_training_data",
    "preprocessing_or_none",
    "read_image",
    "read_inputs",
    "read_preprocessing",
    "settle_value_range",
    "value_remark",
    "warn_of_transparency",
    "warn_of_values",
    "with_corrections",
    "with_roles",
]


def list_datasets(pattern: str = "*") -> list[str]:
    """Returns the names of the registered datasets that match a shell pattern."""
    return DATASETS.names(checks.text("pattern", pattern))


def load_data(
    source: str | Path,
    preprocessing: Preprocessing | None = None,
    *,
    seed: int = 0,
    labels: str | Path | None = None,
    min_classes: int = 2,
) -> DataBundle:
    """Loads a dataset by its name, or a folder of images with one sub-folder per class or a table of labels.

    Args:
        source: A registered name, or a folder.
        preprocessing: How the images are prepared for the network. A folder needs one; a dataset has its own, which
            this replaces.
        seed: Seed for splitting a folder that has no training and test folders.
        labels: A table of files and their classes, for a folder without one sub-folder per class.
        min_classes: Smallest number of classes that a folder may have: 2 to make a classifier, 1 to test one.

    Raises:
        LookalikeError: If the name is neither a dataset nor a folder, or is both; also as in ``load_folder``.
    """
    checks.path("source", source)
    checks.optional(checks.instance, "preprocessing", preprocessing, Preprocessing, "a Preprocessing")
    seed = checks.seed("seed", seed)
    if is_dataset(source):
        if labels is not None:
            raise LookalikeError(f"{source!r} is a dataset with its own labels; leave {str(labels)!r} out (--labels)")
        return DATASETS[str(source)].load(preprocessing)
    if preprocessing is None:
        raise LookalikeError(
            f"to read the images of {str(source)!r}, say what size and normalisation the model takes "
            "(--image-size, --mean, --std; preprocessing=... in Python)"
        )
    return load_folder(source, preprocessing, seed=seed, labels=labels, min_classes=min_classes)


def load_for_model(
    source: str | Path,
    preprocessing: Preprocessing | None,
    record: TrainingRecord,
    *,
    labels: str | Path | None = None,
    asked_seed: int | None = None,
) -> DataBundle:
    """Loads a folder or a dataset for a model that exists: its own record says which are its training images.

    Args:
        source: A folder, or a dataset's name, as for ``load_data``.
        preprocessing: The model's preprocessing.
        record: The model's record of its training data.
        labels: A table of files and their classes, for a folder without one sub-folder per class.
        asked_seed: Seed of a split that the user asked for; None takes that of the model.

    Raises:
        LookalikeError: If the model has no preprocessing for a folder's images; also as in ``load_data`` and
            ``with_roles``.
    """
    checks.path("source", source)
    if preprocessing is None and not is_dataset(source):
        raise LookalikeError(
            f"the model does not know what images go through, so it cannot read {str(source)!r}; give a data set, e.g. "
            "lookalike.data.load_folder(folder, preprocessing), or convert with preprocessing=..."
        )
    own_seed = None if record.split is None else record.split.seed
    seed = own_seed or 0 if asked_seed is None else asked_seed
    return with_roles(
        load_data(source, preprocessing, seed=seed, labels=labels, min_classes=1), record, asked_seed=asked_seed
    )
