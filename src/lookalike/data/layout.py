"""The result of reading a folder of images: class names and files of each part; and checks of the class names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lookalike._core.errors import LookalikeError, listing
from lookalike._core.names import name_key
from lookalike.data.passed_over import PassedOver

Kind = Literal["classes", "parts", "classes with parts", "table"]
_MAX_NAMED = 5


@dataclass(frozen=True)
class Part:
    """The files of one part of a data set.

    Attributes:
        root: Folder that contains the files.
        files: The N image files.
        labels: Class of each file [N].
    """

    root: Path
    files: list[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class Layout:
    """Classes, parts and files of a folder of images.

    Attributes:
        kind: ``"classes"`` (CLASS/…), ``"parts"`` (train/CLASS/…), ``"classes with parts"`` (CLASS/train/…) or
            ``"table"``.
        class_names: Class names by label, in ASCII order; whole numbers in a table are in numerical order.
        train: The training part, or all images if there are no parts.
        test: The test part, without files if there is nothing to test on; None if there are no parts.
        notes: Sentences that the user should read.
        passed_over: Counts of the folder's files that were not read.
    """

    kind: Kind
    class_names: list[str]
    train: Part
    test: Part | None
    notes: tuple[str, ...]
    passed_over: PassedOver


def part_of_paths(root: str | Path, paths: Iterable[Iterable[str]]) -> Part:
    """Makes a part from the paths of each class, in the order of the classes."""
    files: list[Path] = []
    counts: list[int] = []
    for paths_of_class in paths:
        n_before = len(files)
        files.extend(map(Path, paths_of_class))
        counts.append(len(files) - n_before)
    return Part(Path(root), files, np.repeat(np.arange(len(counts)), counts).astype(np.int64))


def check_distinct_names(names: Sequence[str], where: str) -> None:
    """Checks that no two class names are the same text in different Unicode forms, such as "é" and "e" + accent.

    Raises:
        LookalikeError: If two are; the message names both.
    """
    first_spelling: dict[str, str] = {}
    for name in names:
        earlier_name = first_spelling.setdefault(name_key(name), name)
        if earlier_name is not name:
            raise LookalikeError(
                f"{where!r} has two classes that read alike, {earlier_name!a} and {name!a}: they are the same text in "
                "Unicode; give one of them another name, or put their images together"
            )


def check_known_classes(where: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Checks that every class of the test part is a class of the training part.

    Args:
        where: The test part, for the message.
        names: Class names of the test part.
        known: Class names of the training part.

    Raises:
        LookalikeError: If not; the message names the unknown classes.
    """
    known_keys = {name_key(name) for name in known}
    unknown = [name for name in names if name_key(name) not in known_keys]
    if unknown:
        raise LookalikeError(
            f"{where!r} has classes that the training folder does not: {listing([*map(repr, unknown)], _MAX_NAMED)}; "
            "name the folders alike, or move these away"
        )
