"""Folders of image files as data sets: ``ImageFiles`` and ``load_folder``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.identity import identify_json
from lookalike._core.names import text_of, visible
from lookalike.data.bundle import DataBundle, Split
from lookalike.data.identity import content_keys, file_stats, names_within
from lookalike.data.images import read_image
from lookalike.data.layout import Part
from lookalike.data.layouts import read_layout
from lookalike.data.passed_over import PassedOver
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.tree import open_tree

_TEST_SHARE = 0.2


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files with labels; each file is read when it is indexed.

    Args:
        root: Folder that contains the files.
        files: Paths of the N files.
        labels: [N].
        classes: Class names, by label.
        transform: Prepares one image.

    Raises:
        BrokenImageError: From indexing, if a file cannot be read; the message names the file.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        labels: Sequence[int] | np.ndarray,
        classes: list[str],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.root = checks.path("root", root)
        self.files = [
            checks.path("files", file) for file in checks.instance("files", files, Sequence, "a list of files")
        ]
        self.classes = checks.names("classes", classes)
        self.labels = checks.labels_of("labels", labels, self.classes, len(self.files))
        if not callable(transform):
            raise checks.unfit("transform", transform, "a function that prepares an image")
        self.transform = transform
        # Cached hashes of the files' contents; a file is hashed again if its size or modification time changes.
        self._content_keys: np.ndarray | None = None
        self._file_stats: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, transform = self.files[index], self.transform
        image = transform.read(file) if isinstance(transform, Preprocessing) else transform(read_image(file))
        return image, int(self.labels[index])

    def fitted(self, index: int) -> tuple[Tensor, int]:
        """Returns an image before ``Preprocessing.finish``, and its label; the transform is a ``Preprocessing``."""
        return self.transform.fit_file(self.files[index]), int(self.labels[index])  # type: ignore[attr-defined]

    def describe(self, index: int) -> str:
        """Returns the name of a sample's file."""
        return visible(str(self.files[index]))

    def select(self, rows: np.ndarray) -> "ImageFiles":
        """Returns the files of the given rows, in the order of ``rows``."""
        files = [self.files[int(row)] for row in rows]
        selected = ImageFiles(self.root, files, self.labels[rows], self.classes, self.transform)
        if self._content_keys is not None and self._file_stats is not None:
            selected._content_keys, selected._file_stats = self._content_keys[rows], self._file_stats[rows]
        return selected

    def joined(self, other: "ImageFiles") -> "ImageFiles":
        """Returns the files of both data sets, sorted by class and path."""
        files, labels = [*self.files, *other.files], np.concatenate([self.labels, other.labels])
        rows = np.array(sorted(range(len(files)), key=lambda row: (labels[row], files[row])), dtype=np.int64)
        return ImageFiles(self.root, files, labels, self.classes, self.transform).select(rows)

    def content_keys(self) -> np.ndarray:
        """Returns a hash of each file's bytes [N], int64; equal files have equal hashes."""
        stats = file_stats(self.files)
        if self._content_keys is None or self._file_stats is None:
            self._content_keys = content_keys(self.files)
        else:
            changed = np.flatnonzero((stats != self._file_stats).any(1))
            self._content_keys[changed] = content_keys([self.files[int(row)] for row in changed])
        self._file_stats = stats
        return self._content_keys.copy()

    def fingerprint(self) -> str:
        """Returns a fingerprint of the files' names, contents and labels."""
        keys, labels = self.content_keys().tolist(), np.asarray(self.labels).tolist()
        names = [text_of(name) for name in names_within(self.root, self.files)]
        return identify_json([list(row) for row in zip(names, keys, labels, strict=True)])


def load_folder(
    root: str | Path,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    labels: str | Path | None = None,
    min_classes: int = 2,
) -> DataBundle:
    """Loads a folder of images.

    ``root/train/CLASS/…`` and ``root/test/CLASS/…`` (or ``val``, and other usual names) become the training and test
    part. Without such folders, ``root/CLASS/…`` is split 80 / 20, stratified, by seed. Images may be at any depth
    inside a class folder, and all of this inside further single folders. The bundle's ``passed_over`` and ``notes``
    report the files that were not read.

    Args:
        root: The folder.
        preprocessing: How the images are prepared for the network.
        seed: Seed for the split.
        labels: A table of files and their classes (CSV, TSV, JSON lines), for a folder without class folders.
        min_classes: Smallest number of classes allowed: 2 to make a classifier, 1 to test one.

    Raises:
        LookalikeError: If ``root`` is not a folder, has no classes, or is ambiguous; the message says what to do.
    """
    root = checks.path("root", root)
    checks.instance("preprocessing", preprocessing, Preprocessing, "a Preprocessing")
    seed = checks.seed("seed", seed)
    layout = read_layout(root, labels, min_classes=min_classes)
    name = text_of(Path(root).resolve().name)
    notes = [*layout.notes]
    train, test, split = layout.train, layout.test, Split("parts")
    if test is None:
        split = Split("seed", int(seed))
        train, test = _split_part(train, seed)
        notes.insert(
            0,
            f"no train and test folders in '{visible(str(root))}': {len(train.files)} / {len(test.files)} "
            f"split by seed {seed}",
        )
    notes += layout.passed_over.sentences()
    return DataBundle(
        name,
        ImageFiles(train.root, train.files, train.labels, layout.class_names, preprocessing),
        ImageFiles(test.root, test.files, test.labels, layout.class_names, preprocessing),
        layout.class_names,
        preprocessing,
        tuple(notes),
        split=split,
        passed_over=layout.passed_over,
    )


def list_images(paths: Sequence[str | Path]) -> tuple[list[Path], PassedOver]:
    """Lists the given files, and the image files in the given folders.

    Returns:
        The files, and counts of the folders' files that are no images.

    Raises:
        LookalikeError: If a path does not exist, or there is no image at all.
    """
    files: list[Path] = []
    passed_over = PassedOver()
    for path in map(Path, paths):
        if path.is_dir():
            tree = open_tree(path)
            files += map(Path, tree.walk(count_repeated=True))
            passed_over.join(tree.passed_over)
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise LookalikeError(f"'{visible(str(path))}' is a pipe or a device: write the image to a file")
        else:
            raise LookalikeError(f"'{visible(str(path))}' does not exist")
    if not files:
        details = "; ".join(passed_over.sentences())
        searched = ", ".join(f"'{visible(str(path))}'" for path in paths)
        raise LookalikeError(f"no images in {searched}" + (f" ({details})" if details else ""))
    return files, passed_over


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Lists the given files, and the image files in the given folders.

    Raises:
        LookalikeError: If a path does not exist, or there is no image at all.
    """
    if isinstance(paths, str | bytes) or not isinstance(paths, Sequence):
        raise checks.unfit("paths", paths, "a list of files and folders")
    return list_images([checks.path("paths", path) for path in paths])[0]


def _split_part(part: Part, seed: int) -> tuple[Part, Part]:
    """Splits a folder's images into a training and a test part."""
    train, test = (
        Part(part.root, [part.files[row] for row in rows], part.labels[rows]) for rows in split_rows(part.labels, seed)
    )
    return train, test


def split_rows(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits each class 80 / 20; returns the rows for training and for testing. A single image goes to training."""
    rng = np.random.default_rng(seed)
    test_rows_per_class: list[Any] = []
    for label in np.unique(labels):
        rows_of_class = rng.permutation(np.flatnonzero(labels == label))
        n_test = round(_TEST_SHARE * len(rows_of_class)) if len(rows_of_class) > 1 else 0
        test_rows_per_class.append(rows_of_class[:n_test])
    test_rows = np.sort(np.concatenate(test_rows_per_class))
    return np.setdiff1d(np.arange(len(labels)), test_rows), test_rows
