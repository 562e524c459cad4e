"""Data sets whose parts are told by lists beside the images: CelebA and CUB-200-2011 (paper, appendix A.1)."""

from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError, first_line
from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry
from lookalike.data.folders import ImageFiles
from lookalike.data.images import read_image
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import evenly_spread, kept_statistics
from lookalike.data.vision import data_folder

_SIDE = 224


def load_celeba(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads CelebA: faces, male or female, with 40 attributes; the official split.

    Args:
        preprocessing: What the network takes; None is 224×224, normalised by the training part.

    Raises:
        LookalikeError: If it is neither there nor to be had, or a list is damaged.
    """
    from torchvision.datasets import CelebA

    root = data_folder()
    files = "img_align_celeba (a folder of images), list_attr_celeba.txt and the other lists into celeba"

    def read(split: str, download: bool) -> CelebA:
        return CelebA(root, split=split, target_type="attr", download=download)

    try:
        try:
            parts = [read(split, False) for split in ("train", "test")]
        except RuntimeError:
            root.mkdir(parents=True, exist_ok=True)
            parts = [read(split, True) for split in ("train", "test")]
    except (RuntimeError, OSError, ImportError) as error:
        first = first_line(error)
        raise LookalikeError(
            f"'celeba' is not in {str(root)!r}, or not with its original files, and could not be downloaded ({first}); "
            f"put {files} there, or set LOOKALIKE_DATA to the folder that has it"
        ) from error
    except (ValueError, IndexError) as error:
        raise LookalikeError(f"a list of 'celeba' in {str(root)!r} is damaged: {error}") from error
    names = [name for name in parts[0].attr_names if name]
    male = names.index("Male")
    folder = root / "celeba" / "img_align_celeba"
    classes = ["female", "male"]
    attributes = [part.attr.numpy().astype(np.uint8) for part in parts]
    if preprocessing is None:
        paths = [folder / name for name in parts[0].filename]
        preprocessing = _own_preprocessing(root, "celeba", paths)
    train, test = (
        ImageFiles(folder, [folder / name for name in part.filename], values[:, male], classes, preprocessing)
        for part, values in zip(parts, attributes, strict=True)
    )
    return DataBundle("celeba", train, test, classes, preprocessing, (), Attributes(names, *attributes))


def load_cub200(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads CUB-200-2011: 200 species of birds, by its official lists.

    Args:
        preprocessing: What the network takes; None is 224×224, normalised by the training part.

    Raises:
        LookalikeError: If it is not there, or a list is damaged; it names the file.
    """
    root = data_folder()
    folder = root / "CUB_200_2011"
    if not folder.is_dir():
        raise LookalikeError(
            f"'cub200' is not in {str(root)!r} and must be fetched by hand: unpack CUB_200_2011.tgz there, or set "
            "LOOKALIKE_DATA to the folder that has CUB_200_2011"
        )
    paths = _listed(folder / "images.txt")
    labels = {key: int(value) - 1 for key, value in _listed(folder / "image_class_labels.txt", number=True).items()}
    in_train = {key: value == "1" for key, value in _listed(folder / "train_test_split.txt", number=True).items()}
    classes = [name.split(".", 1)[-1] for name in _listed(folder / "classes.txt").values()]
    for what, found in (("image_class_labels.txt", labels), ("train_test_split.txt", in_train)):
        missing = [key for key in paths if key not in found]
        if missing:
            raise LookalikeError(f"{str(folder / what)!r} is damaged: it has no line for image {missing[0]}")
    if labels and not 0 <= min(labels.values()) <= max(labels.values()) < len(classes):
        raise LookalikeError(f"{str(folder / 'image_class_labels.txt')!r} is damaged: a class is not in classes.txt")
    keys = {part: [key for key in paths if in_train[key] == (part == "train")] for part in ("train", "test")}
    files = {part: [folder / "images" / paths[key] for key in chosen] for part, chosen in keys.items()}
    if preprocessing is None:
        preprocessing = _own_preprocessing(root, "cub200", files["train"])
    train, test = (
        ImageFiles(folder / "images", files[part], [labels[key] for key in keys[part]], classes, preprocessing)
        for part in ("train", "test")
    )
    return DataBundle("cub200", train, test, classes, preprocessing)


def _listed(path: Path, *, number: bool = False) -> dict[str, str]:
    """Reads a list of lines "key value"."""
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = {key: value.strip() for key, value in lines}
        if number:
            _ = [int(value) for value in found.values()]
    except (OSError, UnicodeDecodeError) as error:
        raise LookalikeError(f"cannot read {str(path)!r}: {error}") from error
    except ValueError as error:
        raise LookalikeError(f"{str(path)!r} is damaged: {error}") from error
    if not found:
        raise LookalikeError(f"{str(path)!r} is damaged: it is empty")
    return found


def _own_preprocessing(root: Path, name: str, files: list[Path]) -> Preprocessing:
    """Returns what makes 224×224 of images, normalised by evenly spread training images, at a quarter of that size."""
    small = (_SIDE // 4, _SIDE // 4)
    images = np.stack(
        [np.asarray(read_image(files[row]).convert("RGB").resize(small)) for row in evenly_spread(len(files))]
    )
    mean, std = kept_statistics(root, name, images)
    return Preprocessing.square(_SIDE, mean=mean, std=std)


DATASETS.register("celeba")(
    DatasetEntry("202,599 faces, male or female, with 40 attributes, 162,770 for training", load_celeba)
)
DATASETS.register("cub200")(DatasetEntry("11,788 photographs of 200 birds, 5,994 for training", load_cub200))
