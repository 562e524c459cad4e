"""A folder of images as it was understood, and what its classes' names must satisfy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lookalike._core.errors import LookalikeError, listing
from lookalike._core.names import name_key
from lookalike.data.passed_over import PassedOver

Kind = Literal["classes", "parts", "classes with parts", "table"]
_NAMED = 5


@dataclass(frozen=True)
class Part:
    """The files of one part of a data set.

    Attributes:
        root: The folder that their paths are relative to.
        files: The image files.
        labels: Their classes [N].
    """

    root: Path
    files: list[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class Layout:
    """A folder of images as it was understood.

    Attributes:
        kind: ``"classes"``, ``"parts"``, ``"classes with parts"`` or ``"table"``.
        class_names: By label: the names in ASCII order; whole numbers in a table by value.
        train: The training part, or all images where there are no parts.
        test: The test part; None where there are no parts, without images where there is nothing to test on.
        notes: What should be known, in sentences.
        passed_over: What is in the folder and was not taken.
    """

    kind: Kind
    class_names: list[str]
    train: Part
    test: Part | None
    notes: tuple[str, ...]
    passed_over: PassedOver


def part_of_paths(root: str | Path, paths: Iterable[Iterable[str]]) -> Part:
    """Makes a part of each class's paths, in the order of the classes."""
    files: list[Path] = []
    counts: list[int] = []
    for class_paths in paths:
        before = len(files)
        files.extend(map(Path, class_paths))
        counts.append(len(files) - before)
    return Part(Path(root), files, np.repeat(np.arange(len(counts)), counts).astype(np.int64))


def check_distinct(names: Sequence[str], where: str) -> None:
    """Checks that no two classes have the same name once their letters are composed alike.

    Raises:
        LookalikeError: If two have; it names both.
    """
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(name_key(name), name)
        if other is not name:
            raise LookalikeError(
                f"{where!r} has two classes that read alike, {other!a} and {name!a}: they are the same text in "
                "Unicode; give one of them another name, or put their images together"
            )


def check_known(where: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Checks that the test part has no class that the training part has not.

    Raises:
        LookalikeError: If it has; it names those classes.
    """
    keys = {name_key(name) for name in known}
    unknown = [name for name in names if name_key(name) not in keys]
    if unknown:
        raise LookalikeError(
            f"{where!r} has classes that the training folder does not: {listing([*map(repr, unknown)], _NAMED)}; "
            "name the folders alike, or move these away"
        )
