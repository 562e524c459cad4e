"""Photographs that torchvision can download: flowers, pets, food, land use and tissue, in their official splits."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.identity import identify_array, identify_json
from lookalike._core.startup import import_with_torchvision
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, Samples, Split
from lookalike.data.folders import ImageFiles, split_rows
from lookalike.data.masks import MaskedFiles, trimap_mask
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.vision import data_folder

_Part = tuple[list[Path], list[int]]  # files and labels


@dataclass(frozen=True)
class _Source:
    """A data set of photographs.

    Attributes:
        name: Registered name.
        description: One line about the data set.
        files: For offline use: what the user has to provide, and where.
        read: ``read(root, preprocessing, download)`` returns the bundle.
        size: Side of the default input in pixels.
    """

    name: str
    description: str
    files: str
    read: Callable[[Path, Preprocessing, bool], DataBundle]
    size: int = 224


def _load(source: _Source, preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads a data set, after downloading it if it is missing; None normalises as ImageNet's networks do.

    Raises:
        LookalikeError: If it is missing and cannot be downloaded, or a file is damaged.
    """
    root = data_folder()
    preprocessing = preprocessing or Preprocessing.square(source.size)
    try:
        try:
            return source.read(root, preprocessing, False)
        except (RuntimeError, FileNotFoundError) as error:
            if "h5py" in str(error):
                raise LookalikeError(f"{source.name!r} needs h5py to be read: pip install h5py") from error
            root.mkdir(parents=True, exist_ok=True)
            return source.read(root, preprocessing, True)
    except LookalikeError:
        raise
    except (RuntimeError, OSError, ImportError) as error:
        raise LookalikeError(
            f"{source.name!r} is not in {str(root)!r}, or not with its original files, and could not be downloaded "
            f"({first_line(error).rstrip('.')}); put {source.files} there, or set LOOKALIKE_DATA to the folder that "
            "has it"
        ) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise LookalikeError(
            f"the lists of {source.name!r} in {str(root)!r} are damaged ({first_line(error).rstrip('.')}); remove them "
            "and load the data set again"
        ) from error


def _bundle(
    name: str, folder: Path, classes: list[str], parts: tuple[_Part, _Part], preprocessing: Preprocessing
) -> DataBundle:
    train, test = (ImageFiles(folder, files, labels, classes, preprocessing) for files, labels in parts)
    return DataBundle(name, train, test, classes, preprocessing, split=Split("parts"))


def _read_flowers(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (datasets.Flowers102(root, split=split, download=download) for split in ("train", "test"))
    classes = [str(name) for name in getattr(train, "classes", None) or range(1, 103)]
    files_and_labels = ((train._image_files, train._labels), (test._image_files, test._labels))
    return _bundle("flowers102", root / "flowers-102" / "jpg", _distinct(classes), files_and_labels, preprocessing)


def _read_pets(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")
    both = [datasets.OxfordIIITPet(root, split=split, download=download) for split in ("trainval", "test")]
    classes = list(both[0].classes)
    folder = root / "oxford-iiit-pet" / "images"
    train, test = (
        MaskedFiles(folder, pets._images, pets._labels, classes, preprocessing, trimap_mask) for pets in both
    )
    return DataBundle("oxford-pets", train, test, classes, preprocessing, split=Split("parts"))


def _read_food(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (datasets.Food101(root, split=split, download=download) for split in ("train", "test"))
    files_and_labels = ((train._image_files, train._labels), (test._image_files, test._labels))
    return _bundle("food101", root / "food-101" / "images", list(train.classes), files_and_labels, preprocessing)


def _read_imagenette(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")
    train, test = (
        datasets.Imagenette(root, split=split, size="320px", download=download) for split in ("train", "val")
    )
    classes = [names[0] for names in train.classes]
    files_and_labels = (_files_of(train._samples), _files_of(test._samples))
    return _bundle("imagenette", root / "imagenette2-320", classes, files_and_labels, preprocessing)


def _read_eurosat(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")
    images = datasets.EuroSAT(root, download=download)
    files, labels = _files_of(images.samples)
    both = ImageFiles(root / "eurosat" / "2750", files, labels, list(images.classes), preprocessing)
    train, test = split_rows(both.labels, 0)
    note = f"EuroSAT has no official split: {len(train)} / {len(test)} split by seed 0"
    return DataBundle(
        "eurosat", both.select(train), both.select(test), both.classes, preprocessing, (note,), split=Split("seed", 0)
    )


def _read_pcam(root: Path, preprocessing: Preprocessing, download: bool) -> DataBundle:
    datasets = import_with_torchvision("torchvision.datasets")

    classes = ["no tumour", "tumour"]
    tissue_parts: list[Samples] = []
    for split in ("train", "test"):
        tissue = datasets.PCAM(root, split=split, download=download)
        file = root / "pcam" / datasets.PCAM._FILES[split]["targets"][0]
        with tissue.h5py.File(file) as targets:
            labels = np.asarray(targets["y"]).reshape(-1).astype(np.int64)
        tissue_parts.append(PcamPart(tissue, labels, classes, preprocessing))
    return DataBundle("pcam", tissue_parts[0], tissue_parts[1], classes, preprocessing, split=Split("parts"))


class PcamPart(Dataset[tuple[Tensor, int]]):
    """A part of PatchCamelyon: each image is read from the HDF5 file when it is indexed."""

    def __init__(self, tissue: Any, labels: np.ndarray, classes: list[str], transform: Preprocessing) -> None:
        self.tissue, self.labels, self.classes, self.transform = tissue, labels, classes, transform
        if len(labels) != len(tissue):
            raise ValueError(f"{len(tissue)} images and {len(labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.tissue[index][0]), int(self.labels[index])

    def fingerprint(self) -> str:
        """Returns a fingerprint of the labels and the images' file: its name and size."""
        file = self.tissue._base_folder / self.tissue._FILES[self.tissue._split]["images"][0]
        return identify_json([file.name, file.stat().st_size, identify_array(self.labels)])


def _files_of(samples: list[tuple[str, int]]) -> _Part:
    return [Path(path) for path, _ in samples], [label for _, label in samples]


def _distinct(names: list[str]) -> list[str]:
    """Numbers repeated names: class names must be distinct."""
    return [f"{name} {names[:i].count(name) + 1}" if names[:i].count(name) else name for i, name in enumerate(names)]


_SOURCES = (
    _Source(
        "flowers102",
        "7,169 photographs of 102 flowers, 1,020 for training (the official validation part is left out)",
        "jpg (a folder of images), imagelabels.mat and setid.mat into flowers-102",
        _read_flowers,
    ),
    _Source(
        "oxford-pets",
        "7,349 photographs of 37 breeds of cats and dogs, with masks, 3,680 for training",
        "images and annotations (of images.tar.gz and annotations.tar.gz) into oxford-iiit-pet",
        _read_pets,
    ),
    _Source(
        "food101",
        "101,000 photographs of 101 dishes, 75,750 for training",
        "images and meta (of food-101.tar.gz) into food-101",
        _read_food,
    ),
    _Source(
        "imagenette",
        "13,394 photographs of ten easy classes of ImageNet, 9,469 for training",
        "the folder imagenette2-320 (of imagenette2-320.tgz)",
        _read_imagenette,
    ),
    _Source(
        "eurosat",
        "27,000 satellite images of ten kinds of land, 64×64, 80 / 20 by seed 0",
        "2750 (of EuroSAT.zip) into eurosat",
        _read_eurosat,
        64,
    ),
    _Source(
        "pcam",
        "294,912 patches of tissue with or without tumour, 96×96, 262,144 for training (needs h5py)",
        "the .h5 files of PatchCamelyon's training and test part into pcam",
        _read_pcam,
        96,
    ),
)

for _source in _SOURCES:
    DATASETS.register(_source.name)(DatasetEntry(_source.description, functools.partial(_load, _source)))
