"""Data sets whose split is defined by list files beside the images: CelebA and CUB-200-2011 (paper, appendix A.1)."""

from pathlib import Path
from typing import Any

import numpy as np

from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.startup import import_with_torchvision
from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry
from lookalike.data.folders import ImageFiles
from lookalike.data.images import read_image
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import evenly_spread, saved_statistics
from lookalike.data.vision import data_folder

_SIDE = 224


def load_celeba(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads CelebA in its official split: faces, male or female, with 40 attributes.

    Args:
        preprocessing: How the images are prepared for the network; None is 224×224, normalised by the training part.

    Raises:
        LookalikeError: If the files are missing and cannot be downloaded, or a list is damaged.
    """
    datasets = import_with_torchvision("torchvision.datasets")
    root = data_folder()
    files = "img_align_celeba (a folder of images), list_attr_celeba.txt and the other lists into celeba"

    def read(split: str, download: bool) -> Any:
        return datasets.CelebA(root, split=split, target_type="attr", download=download)

    try:
        try:
            train_and_test = [read(split, False) for split in ("train", "test")]
        except RuntimeError:
            root.mkdir(parents=True, exist_ok=True)
            train_and_test = [read(split, True) for split in ("train", "test")]
    except (RuntimeError, OSError, ImportError) as error:
        reason = first_line(error)
        raise LookalikeError(
            f"'celeba' is not in {str(root)!r}, or not with its original files, and could not be downloaded "
            f"({reason}); put {files} there, or set LOOKALIKE_DATA to the folder that has it"
        ) from error
    except (ValueError, IndexError) as error:
        raise LookalikeError(f"a list of 'celeba' in {str(root)!r} is damaged: {error}") from error
    names = [name for name in train_and_test[0].attr_names if name]
    male = names.index("Male")
    folder = root / "celeba" / "img_align_celeba"
    classes = ["female", "male"]
    attributes = [celeba.attr.numpy().astype(np.uint8) for celeba in train_and_test]
    if preprocessing is None:
        paths = [folder / name for name in train_and_test[0].filename]
        preprocessing = _default_preprocessing(root, "celeba", paths)
    train, test = (
        ImageFiles(folder, [folder / name for name in celeba.filename], values[:, male], classes, preprocessing)
        for celeba, values in zip(train_and_test, attributes, strict=True)
    )
    return DataBundle("celeba", train, test, classes, preprocessing, (), Attributes(names, *attributes))


def load_cub200(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads CUB-200-2011 in its official split: 200 species of birds.

    Args:
        preprocessing: How the images are prepared for the network; None is 224×224, normalised by the training part.

    Raises:
        LookalikeError: If the files are missing, or a list is damaged; the message names the file.
    """
    root = data_folder()
    folder = root / "CUB_200_2011"
    if not folder.is_dir():
        raise LookalikeError(
            f"'cub200' is not in {str(root)!r} and must be fetched by hand: unpack CUB_200_2011.tgz there, or set "
            "LOOKALIKE_DATA to the folder that has CUB_200_2011"
        )
    paths = _read_list(folder / "images.txt")
    labels = {key: int(value) - 1 for key, value in _read_list(folder / "image_class_labels.txt", number=True).items()}
    in_train = {key: value == "1" for key, value in _read_list(folder / "train_test_split.txt", number=True).items()}
    classes = [name.split(".", 1)[-1] for name in _read_list(folder / "classes.txt").values()]
    for file_name, values in (("image_class_labels.txt", labels), ("train_test_split.txt", in_train)):
        missing = [key for key in paths if key not in values]
        if missing:
            raise LookalikeError(f"{str(folder / file_name)!r} is damaged: it has no line for image {missing[0]}")
    if labels and not 0 <= min(labels.values()) <= max(labels.values()) < len(classes):
        raise LookalikeError(f"{str(folder / 'image_class_labels.txt')!r} is damaged: a class is not in classes.txt")
    image_folder = folder / "images"
    train_keys, test_keys = [key for key in paths if in_train[key]], [key for key in paths if not in_train[key]]
    if preprocessing is None:
        preprocessing = _default_preprocessing(root, "cub200", [image_folder / paths[key] for key in train_keys])

    def select(keys: list[str]) -> ImageFiles:
        files = [image_folder / paths[key] for key in keys]
        return ImageFiles(image_folder, files, [labels[key] for key in keys], classes, preprocessing)

    return DataBundle("cub200", select(train_keys), select(test_keys), classes, preprocessing)


def _read_list(path: Path, *, number: bool = False) -> dict[str, str]:
    """Reads a list file of lines "key value"; ``number`` checks that the values are whole numbers."""
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        value_of_key = {key: value.strip() for key, value in lines}
        if number:
            _ = [int(value) for value in value_of_key.values()]
    except (OSError, UnicodeDecodeError) as error:
        raise LookalikeError(f"cannot read {str(path)!r}: {error}") from error
    except ValueError as error:
        raise LookalikeError(f"{str(path)!r} is damaged: {error}") from error
    if not value_of_key:
        raise LookalikeError(f"{str(path)!r} is damaged: it is empty")
    return value_of_key


def _default_preprocessing(root: Path, name: str, files: list[Path]) -> Preprocessing:
    """Returns a preprocessing to 224×224, normalised by up to 2,000 training images, read at a quarter of that size."""
    small = (_SIDE // 4, _SIDE // 4)
    images = np.stack(
        [np.asarray(read_image(files[row]).convert("RGB").resize(small)) for row in evenly_spread(len(files))]
    )
    mean, std = saved_statistics(root, name, images)
    return Preprocessing.square(_SIDE, mean=mean, std=std)


DATASETS.register("celeba")(
    DatasetEntry("202,599 faces, male or female, with 40 attributes, 162,770 for training", load_celeba)
)
DATASETS.register("cub200")(DatasetEntry("11,788 photographs of 200 birds, 5,994 for training", load_cub200))
