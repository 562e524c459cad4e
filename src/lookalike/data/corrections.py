"""Corrected labels: a table of training samples whose label should be another; the data themselves stay as they are."""

import copy
import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.names import spreadsheet_cell
from lookalike._core.records import read_bytes, shown
from lookalike._core.wording import counted
from lookalike.data.batches import Batches

if TYPE_CHECKING:
    from lookalike.data.bundle import DataBundle

_MOST_DIGITS = 18  # Python refuses to read numbers of thousands of digits
COLUMNS = ("sample", "file_name", "label", "corrected")


def with_corrections(bundle: "DataBundle", path: str | Path) -> "DataBundle":
    """Returns the same data with corrected training labels. No file of the data is changed.

    Args:
        bundle: The data.
        path: A table as the studio writes it, ``corrected-labels.csv``: the sample's number in the training part, its
            file's name, its label in the data, and the label that it should have.

    Raises:
        LookalikeError: If the table is none, a row does not fit the data, or two rows contradict each other; the
            message names the row.
    """
    path = checks.path("corrections", path)
    labels = getattr(bundle.train, "labels", None)
    if not isinstance(labels, np.ndarray):
        raise LookalikeError(
            f"labels can be corrected in folders, tables and data sets that hold their labels, not in a "
            f"{type(bundle.train).__name__}"
        )
    named = Batches(bundle.train)
    corrected_labels = labels.copy()
    line_of: dict[int, int] = {}
    for number, row in _rows(path):
        sample = _sample_of(row["sample"], len(labels), number, path)
        present = bundle.class_names[int(labels[sample])]
        name = named.name_of(sample)
        if row["file_name"] and name is not None and not _is_same_file(name, row["file_name"]):
            raise LookalikeError(
                f"{str(path)!r}, line {number}: sample {sample} is {name!r} in these data, not {row['file_name']!r}; "
                "the corrections belong to other data, or to another split"
            )
        if spreadsheet_cell(present) != row["label"]:
            raise LookalikeError(
                f"{str(path)!r}, line {number}: sample {sample} is labelled {present!r} in these data, not "
                f"{row['label']!r}; the corrections belong to other data, or are made already"
            )
        classes = [
            k for k, class_name in enumerate(bundle.class_names) if spreadsheet_cell(class_name) == row["corrected"]
        ]
        if not classes:
            raise LookalikeError(f"{str(path)!r}, line {number}: there is no class {shown(row['corrected'])}")
        if line_of.setdefault(sample, number) != number and corrected_labels[sample] != classes[0]:
            raise LookalikeError(
                f"{str(path)!r}, line {number}: sample {sample} should be {shown(row['corrected'])} here and "
                f"{bundle.class_names[corrected_labels[sample]]!r} in line {line_of[sample]}; leave one of them out"
            )
        corrected_labels[sample] = classes[0]
    train: Any = copy.copy(bundle.train)
    train.labels = corrected_labels
    note = f"{counted(len(line_of), 'training label')} corrected by {path.name!r}"
    return replace(bundle, train=train, notes=(*bundle.notes, note))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of the table, with the numbers of their lines."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise LookalikeError(f"the table of corrected labels {str(path)!r} does not exist") from None
    except (OSError, LookalikeError) as error:
        raise LookalikeError(f"the table of corrected labels {str(path)!r} cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "backslashreplace")))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise LookalikeError(
            f"{str(path)!r} is no table of corrected labels: it has no column {missing[0]!r} (columns: "
            f"{', '.join(COLUMNS)})"
        )
    try:
        for row in reader:
            yield reader.line_num, {column: row[column] or "" for column in COLUMNS}
    except csv.Error as error:
        raise LookalikeError(f"{str(path)!r}, line {reader.line_num + 1} cannot be read: {error}") from error


def _sample_of(text: str, n_samples: int, number: int, path: Path) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS or int(text) >= n_samples:
        raise LookalikeError(
            f"{str(path)!r}, line {number}: there is no training sample {shown(text)}; there are {n_samples:,}"
        )
    return int(text)


def _is_same_file(name: str, written: str) -> bool:
    """Compares files by their last part, as folders are moved."""
    return spreadsheet_cell(PurePath(name).name) in (PurePath(written).name, spreadsheet_cell(PurePath(written).name))
