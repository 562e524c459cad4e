"""Reads tables of labels: finds the columns of files, classes and parts, and the file that each row names."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike._core.names import name_key
from lookalike.data.formats import format_of_suffix, without_suffix
from lookalike.data.parts import PartName, part_of
from lookalike.data.table_file import Table, read_table
from lookalike.data.tree import Tree


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Usual column names, in order of preference.
_FILE = _words(
    "file_name filename file filepath file_path image_path img_path path filenames filepaths paths image_name img_name "
    "image_file image_filename image img images image_id img_id imageid id_code image_index isic_id picture photo "
    "name id"
)
_WHOLE_NUMBER = re.compile(r"[0-9]+(\.0*)?")
_LABEL = _words(
    "label labels class classes class_name classname class_label label_name category category_name categories target y "
    "diagnosis dx breed species ground_truth gt tag level cls class_id label_id"
)
_NAMED_LABEL = _words("label labels class_name classname class_label label_name category_name class_id label_id")
_SPLIT = _words("split set data_set dataset subset partition part usage phase fold")
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_HUGGING_FACE = ("metadata.csv", "metadata.jsonl")
_PROBED_ROWS = 200  # a column is one of files if a cell in its first rows names a file of the folder


@dataclass(frozen=True)
class LabelledFile:
    """An image, its class and its part, from one row of a table.

    Attributes:
        file: Path of the image relative to the root.
        label: Name of the class.
        part: The part that the image belongs to; None if the table has no parts.
    """

    file: str
    label: str
    part: PartName | None


@dataclass(frozen=True)
class Source:
    """A table to read.

    Attributes:
        path: File of the table.
        base: Folder that the table's paths are relative to, itself relative to the root; empty for the root.
        label_column: Name of the column of classes, if the user gave one.
        part: The part that all rows belong to; None if each row has its own, or none.
    """

    path: Path
    base: str = ""
    label_column: str | None = None
    part: PartName | None = None


def find_tables(top: Tree, labels: str | Path | None) -> list[Source]:
    """Returns the user's table of labels, or else the tables of Hugging Face's layout, if there are any.

    Args:
        top: The folder of images.
        labels: Path of the table, optionally followed by ``:COLUMN``; None looks for ``metadata.csv`` and
            ``metadata.jsonl``, in the folder itself and in its training and test folders.

    Raises:
        LookalikeError: If the table does not exist.
    """
    if labels is not None:
        return [_users_table(top, str(labels))]
    sources = []
    for folder, part_name in [(top, None), *((folder, part_of(folder.name)) for folder in top.folders)]:
        for name in _HUGGING_FACE:
            if (folder is top or part_name is not None) and name in folder.tables_and_archives:
                path = Path(folder.path) / name
                header = [_column_key(column) for column in read_table(path).header or []]
                if "file_name" in header and any(column in _LABEL for column in header):
                    folder.take_back("other_file", name)
                    sources.append(Source(path, "" if folder is top else Path(folder.path).name, None, part_name))
    return sources


def _users_table(top: Tree, labels: str) -> Source:
    """Finds the table at ``PATH`` or ``PATH:COLUMN``, relative to the working directory or to the folder of images."""
    name, _, column = labels.rpartition(":")
    root = Path(top.path)
    for path, label_column in ((labels, None), (name, column)):
        for table_path in (Path(path), root / path):
            if path and table_path.is_file():
                if table_path.parent == root and table_path.name in top.tables_and_archives:
                    top.take_back("other_file", table_path.name)
                is_inside = table_path.resolve().is_relative_to(root.resolve())
                base = table_path.resolve().parent.relative_to(root.resolve()).as_posix() if is_inside else ""
                return Source(table_path, "" if base == "." else base, label_column)
    is_folder = Path(labels).is_dir() or (Path(top.path) / labels).is_dir()
    problem = "is a folder: give the file of the table" if is_folder else "does not exist"
    raise LookalikeError(f"the table of labels {labels!r} {problem}")


def read_labels(top: Tree, sources: Sequence[Source]) -> list[LabelledFile]:
    """Returns the labelled images, in the order of their paths; counts rows without file or class as passed over.

    Raises:
        LookalikeError: If a table has no recognisable columns, none of its files exists, or two rows contradict each
            other.
    """
    index = _ImageIndex(top)
    rows: dict[str, LabelledFile] = {}
    for source in sources:
        for line, row in _read_rows(source, index, top):
            earlier_row = rows.get(row.file)
            if earlier_row is None:
                rows[row.file] = row
            elif name_key(earlier_row.label) != name_key(row.label) or earlier_row.part != row.part:
                labels_differ = earlier_row.label != row.label
                earlier, later = (earlier_row.label, row.label) if labels_differ else (earlier_row.part, row.part)
                raise LookalikeError(
                    f"line {line} of {str(source.path)!r} gives {row.file!r} as {later!r}, and an earlier line "
                    f"as {earlier!r}; an image has one class and one part"
                )
            else:
                top.passed_over.add("repeated_row", row.file)
    for file in index.files:
        if file not in rows:
            top.passed_over.add("unlabelled", file)
    return [rows[file] for file in index.files if file in rows]


class _ImageIndex:
    """Finds the images of a folder by the names that a table uses for them.

    A table may give a path from its own folder or from the root, a path that begins above the root, or merely a file
    name, each with or without suffix.

    Attributes:
        files: Paths of all images relative to the root, in order.
    """

    def __init__(self, top: Tree) -> None:
        start = len(top.path.rstrip("/\\")) + 1
        self.files = [path[start:].replace(os.sep, "/") for path in top.walk(count_repeated=True)]
        self._root_name = name_key(Path(top.path).resolve().name)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        # by their names without suffix, and by these with the folder that they are in: many folders can have files of
        # the same names
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._by_folder_and_stem: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            path = _key_of(file)
            folder, _, name = path.rpartition("/")
            stem = without_suffix(name)
            self._by_path[path].append(file)
            self._by_stem[stem].append(file)
            self._by_folder_and_stem[f"{folder.rpartition('/')[2]}/{stem}"].append(file)

    def find(self, name: str, base: str) -> list[str]:
        """Returns the files that a table's cell may mean; more than one if the cell is ambiguous.

        Args:
            name: The cell.
            base: Folder of the table, relative to the root.
        """
        name = "/".join(folder for folder in _key_of(name).split("/") if folder not in ("", "."))
        folder, _, file_name = name.rpartition("/")
        # An exact path wins: from the table's own folder first, then from the root.
        for path in (f"{base}/{name}" if base else name, name):
            if path in self._by_path:
                return self._by_path[path]
        stem = without_suffix(file_name)
        if folder:  # two paths that overlap have this folder in common, unless the file is in the root
            parent = folder.rpartition("/")[2]
            alike = [
                *self._by_folder_and_stem.get(f"/{stem}", []),
                *self._by_folder_and_stem.get(f"{parent}/{stem}", []),
            ]
        else:
            alike = self._by_stem.get(stem, [])
        candidates = [file for file in alike if _may_be_same_format(file_name, file)]
        # Otherwise files whose path overlaps with the cell's, if possible below the table's own folder.
        candidates = [file for file in candidates if not base or file.startswith(f"{base}/")] or candidates
        return [file for file in candidates if self._is_end_of_path(name, without_suffix(_key_of(file)))]

    def _is_end_of_path(self, name: str, file: str) -> bool:
        """Says whether a table's path and a file's path agree where they overlap.

        Either the table's path is the end of the file's ("a.jpg" for "cats/a.jpg"), or it begins further up
        ("/data/photos/cats/a.jpg"). In the second case they must share a folder, or the table's path must name the root
        just before the file: "b/a.jpg" does not mean the root's own "a.jpg".
        """
        table_path, file_path = f"/{without_suffix(name)}", f"/{file}"
        if file_path.endswith(table_path):
            return True
        from_root = f"/{self._root_name}{file_path}"
        return table_path.endswith(file_path) and (file_path.count("/") > 1 or table_path.endswith(from_root))


def _key_of(path: str) -> str:
    """Returns a path by which to find it, however it is spelled."""
    return name_key(path).replace("\\", "/")


def _may_be_same_format(name: str, file: str) -> bool:
    """Says whether a name in a table may mean a file: it has no image suffix, or one of the file's format."""
    image_format = format_of_suffix(name)
    return image_format is None or image_format == format_of_suffix(file) or name == file.rpartition("/")[2]


def _read_rows(source: Source, index: _ImageIndex, top: Tree) -> list[tuple[int, LabelledFile]]:
    """Returns (line, labelled image) of each row that names an image of the folder."""
    table, file_column = _file_column(read_table(source.path), source, index)
    labels = _labels(table, source, file_column)
    row_with_list = next((k for k, label in enumerate(labels) if label.startswith(("[", "{"))), None)
    if row_with_list is not None:
        raise LookalikeError(
            f"line {table.lines[row_with_list]} of {str(source.path)!r} has the class {labels[row_with_list]!r}; "
            "an image has one class"
        )
    part_names = [source.part] * len(table.rows) if source.part else _part_names(table, file_column)
    rows: list[tuple[int, LabelledFile]] = []
    names = table.column(file_column)
    for name, label, part_name, line in zip(names, labels, part_names, table.lines, strict=True):
        if not name:
            continue
        files = index.find(name, source.base)
        if len(files) > 1:
            raise LookalikeError(
                f"line {line} of {str(source.path)!r} names {name!r}, which may be {files[0]!r} or {files[1]!r}: "
                "give the path within the folder"
            )
        if not files:
            top.passed_over.add("missing_file", name)
        elif not label:
            top.passed_over.add("no_label", name)
        else:
            rows.append((line, LabelledFile(files[0], label, part_name)))
    if not rows:
        if not any(names):
            raise LookalikeError(f"the table {str(source.path)!r} names no files: it has a header and no rows")
        n_missing = top.passed_over.counts.get("missing_file")
        reason = f"is in the folder {top.path!r}" if n_missing else "has a class in it"
        example = next(name for name in names if name)
        raise LookalikeError(f"no file of the table {str(source.path)!r}, such as {example!r}, {reason}")
    return rows


def _file_column(table: Table, source: Source, index: _ImageIndex) -> tuple[Table, int]:
    """Returns the table and its column of files; a table of two columns may turn out to have no header."""
    header = [_column_key(name) for name in table.header or []]
    candidates = [header.index(name) for name in _FILE if name in header]
    for column in candidates:
        if any(index.find(cell, source.base) for cell in table.column(column)[:_PROBED_ROWS] if cell):
            return table, column
    if not candidates and table.header is not None and len(header) == 2:  # perhaps the first row is data
        for column in (0, 1):
            if index.find(table.header[column], source.base):
                return Table(table.path, None, [table.header, *table.rows], [1, *table.lines]), column
    if not candidates:
        raise LookalikeError(
            f"the table {str(source.path)!r} has no column of files, only {', '.join(map(repr, table.header or []))}; "
            "name the column 'file_name'"
        )
    return table, candidates[0]


def _labels(table: Table, source: Source, file_column: int) -> list[str]:
    """Returns the class of each row, empty if the row has none.

    Raises:
        LookalikeError: If no column has classes, or two columns have different ones.
    """
    if table.header is None:
        return _as_whole_numbers(table.column(1 - file_column))
    header = [_column_key(name) for name in table.header]
    if source.label_column is not None:
        if _column_key(source.label_column) not in header:
            raise LookalikeError(
                f"the table {str(source.path)!r} has no column {source.label_column!r}, only "
                f"{', '.join(map(repr, table.header))}"
            )
        return _as_whole_numbers(table.column(header.index(_column_key(source.label_column))))
    candidates = [k for name in _LABEL for k, found in enumerate(header) if found == name and k != file_column]
    if not candidates or _is_one_hot(table, file_column):
        return _labels_from_flags(table, source, file_column)
    columns = {k: _as_whole_numbers(table.column(k)) for k in candidates}
    # A column of names is preferred to one of numbers. Others are fine if they say the same, one to one: "label" 0, 1
    # beside "species" cat, dog.
    with_names = [k for k, cells in columns.items() if not all(cell.isdecimal() for cell in cells if cell)]
    preferred = (with_names or list(columns))[0]
    for k, cells in columns.items():
        pairs = set(zip(columns[preferred], cells, strict=True))
        if len(pairs) != len(set(columns[preferred])) or len(pairs) != len(set(cells)):
            if table.header[k] == table.header[preferred]:
                raise LookalikeError(
                    f"the table {str(source.path)!r} has two columns {table.header[k]!r} that differ: rename one"
                )
            raise LookalikeError(
                f"the table {str(source.path)!r} has two columns of classes, {table.header[preferred]!r} and "
                f"{table.header[k]!r}; say which: --labels {source.path}:{table.header[preferred]}"
            )
    return columns[preferred]


def _as_whole_numbers(cells: list[str]) -> list[str]:
    """Returns 10 for 10.0 where all cells are whole numbers: pandas writes them so if one of the rows has none."""
    are_numbers = all(_WHOLE_NUMBER.fullmatch(cell) for cell in cells if cell)
    return [cell.partition(".")[0] for cell in cells] if are_numbers else cells


def _is_one_hot(table: Table, file_column: int) -> bool:
    """Says whether a table has a column of 0 and 1 for each of three classes or more, whatever they are called."""
    flags: list[list[bool]] = []
    for k, name in enumerate(table.header or []):
        key = _column_key(name)
        if k == file_column or key in _SPLIT:
            continue
        if key in _NAMED_LABEL:  # such a column holds the classes, whatever is beside it
            return False
        column = [_FLAGS.get(cell.lower()) for cell in table.column(k)]
        if None in column:
            return False
        flags.append([bool(flag) for flag in column])
    return len(flags) > 2 and bool(table.rows) and all(sum(row) == 1 for row in zip(*flags, strict=True))


def _labels_from_flags(table: Table, source: Source, file_column: int) -> list[str]:
    """Returns the class of each row of a table that has a column of 0 and 1 per class."""
    header = table.header or []
    columns = {
        name: [_FLAGS.get(cell.lower()) for cell in table.column(k)]
        for k, name in enumerate(header)
        if k != file_column and _column_key(name) not in _SPLIT
    }
    if len(columns) < 2 or any(None in flags for flags in columns.values()):
        raise LookalikeError(
            f"the table {str(source.path)!r} has no column of classes, only {', '.join(map(repr, header))}; name "
            f"it 'label', or say which it is: --labels {source.path}:COLUMN (labels=... in Python)"
        )
    labels = []
    for line, flags in zip(table.lines, zip(*columns.values(), strict=True), strict=True):
        classes = [name for name, flag in zip(columns, flags, strict=True) if flag]
        if len(classes) != 1:
            raise LookalikeError(
                f"line {line} of {str(source.path)!r} has {len(classes)} classes "
                f"({', '.join(classes) or 'all are 0'}); an image has one class"
            )
        labels.append(classes[0])
    return labels


def _part_names(table: Table, file_column: int) -> list[PartName | None]:
    """Returns the part of each row; None for all rows if the table has no column of parts.

    Raises:
        LookalikeError: If a column called 'split' or 'partition' has other values.
    """
    header = [_column_key(name) for name in table.header or []]
    for name in _SPLIT:
        column = header.index(name) if name in header else file_column
        if column == file_column:
            continue
        cells = table.column(column)
        part_names = [part_of(cell) for cell in cells]
        if None not in part_names:
            return list(part_names)
        unknown_row = part_names.index(None)
        if any(part_name is not None for part_name in part_names) or name in ("split", "partition"):
            raise LookalikeError(
                f"line {table.lines[unknown_row]} of {str(table.path)!r} has the part {cells[unknown_row]!r}; write "
                f"'train', 'test' or 'val', or rename the column {table.header[column] if table.header else name!r}"
            )
    return [None] * len(table.rows)


def _column_key(name: str) -> str:
    """Returns a column's name in lower case with underscores, as in the lists of usual names."""
    return "_".join(name_key(name).strip().casefold().replace("-", " ").split())
