"""Folders of images: one sub-folder per class, with or without a split."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.data.bundle import DataBundle
from lookalike.data.decoders import IMAGE_SUFFIXES
from lookalike.data.images import read_image
from lookalike.data.preprocessing import Preprocessing
from lookalike.errors import LookalikeError
from lookalike.provenance import fingerprint_json

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
_TEST_SHARE = 0.2


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files with labels, read when asked for.

    Args:
        root: The folder that the paths are told from.
        files: The files.
        labels: [N].
        classes: The classes' names.
        transform: Prepares one image.

    Raises:
        BrokenImageError: From indexing, if a file cannot be read; it names the file.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        labels: Sequence[int] | np.ndarray,
        classes: list[str],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.root = root
        self.files = list(files)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = classes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, transform = self.files[index], self.transform
        image = transform.read(file) if isinstance(transform, Preprocessing) else transform(read_image(file))
        return image, int(self.labels[index])

    def describe(self, index: int) -> str:
        """Names a sample by its file."""
        return str(self.files[index])

    def select(self, rows: np.ndarray) -> "ImageFiles":
        """Returns some of the files, in that order."""
        files = [self.files[int(row)] for row in rows]
        return ImageFiles(self.root, files, self.labels[rows], self.classes, self.transform)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the files' names, sizes and labels (contents are not read)."""
        listing = [
            [file.relative_to(self.root).as_posix(), file.stat().st_size, int(label)]
            for file, label in zip(self.files, self.labels, strict=True)
        ]
        return fingerprint_json(listing)


def load_folder(root: str | Path, preprocessing: Preprocessing, *, seed: int = 0) -> DataBundle:
    """Loads a folder with one sub-folder per class.

    ``root/train/CLASS/…`` and ``root/test/CLASS/…`` (or ``val``) are taken as they are. Without such a split,
    ``root/CLASS/…`` is split 80 / 20, stratified, by seed. Image files may lie deeper inside a class's folder.

    Args:
        root: The folder.
        preprocessing: What the network takes.
        seed: For the split.

    Raises:
        LookalikeError: If it is not a folder, has no classes, or a class has no images; each names it.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise LookalikeError(f"{str(root)!r} {what}; give a folder with one sub-folder of images per class")
    train_root, test_root = _part(root, _TRAIN), _part(root, _TEST)
    if train_root is None:
        if test_root is not None:
            raise LookalikeError(f"{str(root)!r} has {test_root.name!r} but no 'train' beside it")
        classes, files, labels = _scan(root)
        train, test = _split(labels, seed)
        note = f"no train and test folders in {str(root)!r}: {len(train)} / {len(test)} split by seed {seed}"
        parts = [
            ImageFiles(root, [files[i] for i in rows], labels[rows], classes, preprocessing) for rows in (train, test)
        ]
        return DataBundle(root.name, parts[0], parts[1], classes, preprocessing, (note,))
    classes, files, labels = _scan(train_root)
    train_part = ImageFiles(train_root, files, labels, classes, preprocessing)
    if test_root is None:
        note = f"no test folder beside {str(train_root)!r}: nothing to test on"
        empty = ImageFiles(train_root, [], [], classes, preprocessing)
        return DataBundle(root.name, train_part, empty, classes, preprocessing, (note,))
    test_classes, test_files, test_labels = _scan(test_root, known=classes)
    mapped = [classes.index(test_classes[label]) for label in test_labels]
    test_part = ImageFiles(test_root, test_files, mapped, classes, preprocessing)
    return DataBundle(root.name, train_part, test_part, classes, preprocessing)


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Lists image files: files as they are named, folders by what lies in them.

    Raises:
        LookalikeError: If a path does not exist, or there is no image at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += _images_below(path)
        elif path.exists():
            found.append(path)
        else:
            raise LookalikeError(f"{str(path)!r} does not exist")
    if not found:
        raise LookalikeError(f"no images in {', '.join(repr(str(path)) for path in paths)}")
    return found


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the part of a split: a folder of that name which has folders itself, as a class of that name has not."""
    return next((root / name for name in names if (root / name).is_dir() and _class_folders(root / name)), None)


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _scan(root: Path, known: list[str] | None = None) -> tuple[list[str], list[Path], np.ndarray]:
    folders = _class_folders(root)
    if not folders:
        raise LookalikeError(f"{str(root)!r} has no sub-folders: put each class's images into a folder of its name")
    unknown = [folder.name for folder in folders if known is not None and folder.name not in known]
    if unknown:
        raise LookalikeError(f"{str(root)!r} has classes that the training folder does not: {', '.join(unknown)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        images = _images_below(folder)
        if not images and known is None:
            endings = " ".join(sorted(IMAGE_SUFFIXES))
            raise LookalikeError(f"class {folder.name!r} has no images in {str(folder)!r} (endings: {endings})")
        files += images
        labels += [label] * len(images)
    return [folder.name for folder in folders], files, np.asarray(labels, dtype=np.int64)


def _split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits each class 80 / 20, with at least one sample of each in the first part."""
    rng = np.random.default_rng(seed)
    test: list[Any] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test.append(members[: round(_TEST_SHARE * len(members)) if len(members) > 1 else 0])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
