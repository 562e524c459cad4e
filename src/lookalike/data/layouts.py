"""How a folder of images is laid out: by folders or by a table of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike._core.names import name_key
from lookalike.data.class_folders import layout_of_folders
from lookalike.data.layout import Layout, Part, check_known
from lookalike.data.parts import PartName, part_of
from lookalike.data.tables import LabelledFile, find_tables, read_labels
from lookalike.data.tree import Tree, open_tree


def read_layout(root: str | Path, labels: str | Path | None = None, *, min_classes: int = 2) -> Layout:
    """Finds out how a folder of images is laid out.

    Args:
        root: The folder.
        labels: A table of files and their classes; None looks for a Hugging Face ``metadata.csv``, and for folders.
        min_classes: The fewest classes: 2 to make a classifier, 1 to test one.

    Raises:
        LookalikeError: If it is no folder, has no classes, or could be understood in two ways; it says what to do.
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
    """Arranges the rows of a table: by its column of parts, or by the folders that the files are in."""
    parts: list[PartName | None] = [row.part for row in rows]
    if all(part is None for part in parts):
        parts = _parts_by_folders(rows)
    root, notes = Path(top.path), list[str]()
    if all(part is None for part in parts):
        names = _ordered(rows)
        return Layout("table", names, _part(root, rows, names), None, (), top.passed_over)
    by_part: dict[PartName | None, list[LabelledFile]] = {"train": [], "test": [], "val": []}
    for part, row in zip(parts, rows, strict=True):
        by_part[part].append(row)
    if not by_part["train"]:
        raise LookalikeError(
            f"the table of {top.path!r} has no training images; leave its column of parts out to split it"
        )
    tested: PartName = "test" if by_part["test"] or not by_part["val"] else "val"
    if tested == "test" and by_part["val"]:
        top.passed_over.add("extra_part", by_part["val"][0].file, len(by_part["val"]))
    if not by_part[tested]:
        notes.append("the table has no test images: nothing to test on")
    names = _ordered(by_part["train"])
    check_known(f"the {tested} part of {top.path}", _ordered(by_part[tested]), names)
    train, test = (_part(root, by_part[part], names) for part in ("train", tested))
    return Layout("table", names, train, test, tuple(notes), top.passed_over)


def _parts_by_folders(rows: list[LabelledFile]) -> list[PartName | None]:
    """Returns each row's part by a folder in its path; None for all unless each has one, and one is for training."""
    found = [next((part for part in map(part_of, row.file.split("/")[:-1]) if part), None) for row in rows]
    return found if None not in found and len(set(found)) > 1 and "train" in found else [None] * len(rows)


def _ordered(rows: Sequence[LabelledFile]) -> list[str]:
    """Returns the classes' names, each as it is first written: whole numbers by value, texts in ASCII order."""
    names = {name_key(row.label): row.label for row in reversed(rows)}
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names.values(), key=lambda name: (int(name), name))
    return sorted(names.values())


def _part(root: Path, rows: Sequence[LabelledFile], names: Sequence[str]) -> Part:
    """Returns the files of some rows, class after class as folders have them."""
    label_of = {name_key(name): label for label, name in enumerate(names)}
    labelled = sorted((label_of[name_key(row.label)], position) for position, row in enumerate(rows))
    files = [root / rows[position].file for _, position in labelled]
    return Part(root, files, np.array([label for label, _ in labelled], dtype=np.int64))
