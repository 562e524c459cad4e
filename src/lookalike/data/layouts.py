"""Reads the classes and parts of a folder of images, from its sub-folders or from a table of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike._core.names import name_key
from lookalike.data.class_folders import layout_of_folders
from lookalike.data.layout import Layout, Part, check_known_classes
from lookalike.data.parts import PartName, part_of
from lookalike.data.tables import LabelledFile, find_tables, read_labels
from lookalike.data.tree import Tree, open_tree


def read_layout(root: str | Path, labels: str | Path | None = None, *, min_classes: int = 2) -> Layout:
    """Reads the classes and parts of a folder of images.

    Args:
        root: The folder.
        labels: A table of files and their classes. None uses a Hugging Face ``metadata.csv`` if there is one, else
            the sub-folders.
        min_classes: Smallest number of classes allowed: 2 to make a classifier, 1 to test one.

    Raises:
        LookalikeError: If ``root`` is not a folder, has no classes, or is ambiguous; the message says what to do.
    """
    top = open_tree(root)
    tables = find_tables(top, labels)
    layout = (
        _layout_of_rows(top, read_labels(top, tables)) if tables else layout_of_folders(top, to_test=min_classes == 1)
    )
    if len(layout.class_names) < min_classes:
        remedy = "all classes in its table" if layout.kind == "table" else "all classes' folders in it"
        raise LookalikeError(
            f"{str(root)!r} has one class only, {layout.class_names[0]!r}, and a classifier needs two; "
            f"give a folder with {remedy}"
            + "".join(f" ({note})" for note in layout.notes if "the classes, give" in note)
        )
    return layout


def _layout_of_rows(top: Tree, rows: list[LabelledFile]) -> Layout:
    """Makes a layout of a table's rows, with parts from the table's column or else from the files' folders."""
    part_names: list[PartName | None] = [row.part for row in rows]
    if all(part_name is None for part_name in part_names):
        part_names = _parts_by_folders(rows)
    if None in part_names and any(part_names):
        file = next(row.file for row, part in zip(rows, part_names, strict=True) if part is None)
        other = next(row.file for row, part in zip(rows, part_names, strict=True) if part is not None)
        raise LookalikeError(
            f"a table of {top.path!r} gives {file!r} no part (train, test), and {other!r} has one; give all or none one"
        )
    root, notes = Path(top.path), list[str]()
    if all(part_name is None for part_name in part_names):
        names = _sorted_class_names(rows)
        return Layout("table", names, _part_of_rows(root, rows, names), None, (), top.passed_over)
    by_part: dict[PartName | None, list[LabelledFile]] = {"train": [], "test": [], "val": []}
    for part_name, row in zip(part_names, rows, strict=True):
        by_part[part_name].append(row)
    if not by_part["train"]:
        raise LookalikeError(
            f"the table of {top.path!r} has no training images; leave its column of parts out to split it"
        )
    test_name: PartName = "test" if by_part["test"] or not by_part["val"] else "val"
    if test_name == "test" and by_part["val"]:
        top.passed_over.add("extra_part", by_part["val"][0].file, len(by_part["val"]))
    if not by_part[test_name]:
        notes.append("the table has no test images: nothing to test on")
    names = _sorted_class_names(by_part["train"])
    check_known_classes(f"the {test_name} part of {top.path}", _sorted_class_names(by_part[test_name]), names)
    train, test = _part_of_rows(root, by_part["train"], names), _part_of_rows(root, by_part[test_name], names)
    return Layout("table", names, train, test, tuple(notes), top.passed_over)


def _parts_by_folders(rows: list[LabelledFile]) -> list[PartName | None]:
    """Returns each row's part, named by a folder in its path.

    All are None unless every path names a part, there are at least two parts, and one of them is the training part.
    """
    part_names: list[PartName | None] = [
        next((part_name for part_name in map(part_of, row.file.split("/")[:-1]) if part_name), None) for row in rows
    ]
    is_divided = None not in part_names and len(set(part_names)) > 1 and "train" in part_names
    return part_names if is_divided else [None] * len(rows)


def _sorted_class_names(rows: Sequence[LabelledFile]) -> list[str]:
    """Returns the class names in their first spelling: whole numbers in numerical order, texts in ASCII order."""
    names = {name_key(row.label): row.label for row in reversed(rows)}
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names.values(), key=lambda name: (int(name), name))
    return sorted(names.values())


def _part_of_rows(root: Path, rows: Sequence[LabelledFile], names: Sequence[str]) -> Part:
    """Makes a part from rows of a table, sorted by class as files in class folders are."""
    label_of = {name_key(name): label for label, name in enumerate(names)}
    labelled = sorted((label_of[name_key(row.label)], position) for position, row in enumerate(rows))
    files = [root / rows[position].file for _, position in labelled]
    return Part(root, files, np.array([label for label, _ in labelled], dtype=np.int64))
