"""Tables of labels: which columns hold files, classes and parts, and which file each row means."""

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


# The columns' usual names, the surest first.
_FILE = _words(
    "file_name filename file filepath file_path image_path img_path path filenames filepaths paths image_name img_name "
    "image_file image_filename image img images image_id img_id imageid id_code image_index isic_id picture photo "
    "name id"
)
_LABEL = _words(
    "label labels class classes class_name classname class_label label_name category category_name categories target y "
    "diagnosis dx breed species ground_truth gt tag level cls class_id label_id"
)
_SPLIT = _words("split set data_set dataset subset partition part usage phase fold")
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_HUGGING_FACE = ("metadata.csv", "metadata.jsonl")
_PROBED = 200  # rows that say whether a column holds files


@dataclass(frozen=True)
class LabelledFile:
    """A row of a table that was understood.

    Attributes:
        file: Relative to the root.
        label: The class's name.
        part: Which part it belongs to; None where the table has none.
    """

    file: str
    label: str
    part: PartName | None


@dataclass(frozen=True)
class Source:
    """A table to read.

    Attributes:
        path: Its file.
        base: The folder that its files are relative to, itself relative to the root; empty for the root.
        label_column: The column with the classes, where it was named.
        part: The part that all of its rows belong to; None where the rows say so.
    """

    path: Path
    base: str = ""
    label_column: str | None = None
    part: PartName | None = None


def find_tables(top: Tree, labels: str | Path | None) -> list[Source]:
    """Returns the table that was given, or those that Hugging Face's layout has beside its images.

    Args:
        top: The folder with the images.
        labels: The table's path, perhaps with ``:COLUMN``; None looks for a ``metadata.csv`` or ``metadata.jsonl``.

    Raises:
        LookalikeError: If the table does not exist.
    """
    if labels is not None:
        return [_given(top, str(labels))]
    found = []
    for folder, part in [(top, None), *((folder, part_of(folder.name)) for folder in top.folders)]:
        for name in _HUGGING_FACE:
            if (folder is top or part is not None) and name in folder.lists:
                path = Path(folder.path) / name
                header = [_plain(column) for column in read_table(path).header or []]
                if "file_name" in header and any(column in _LABEL for column in header):
                    folder.take_back("other_file", name)
                    found.append(Source(path, "" if folder is top else Path(folder.path).name, None, part))
    return found


def _given(top: Tree, labels: str) -> Source:
    name, _, column = labels.rpartition(":")
    for path, label_column in ((labels, None), (name, column)):
        for place in (Path(path), Path(top.path) / path):
            if path and place.is_file():
                if place.parent == Path(top.path) and place.name in top.lists:
                    top.take_back("other_file", place.name)
                inside = place.resolve().is_relative_to(Path(top.path).resolve())
                base = place.resolve().parent.relative_to(Path(top.path).resolve()).as_posix() if inside else ""
                return Source(place, "" if base == "." else base, label_column)
    is_folder = Path(labels).is_dir() or (Path(top.path) / labels).is_dir()
    problem = "is a folder: give the file of the table" if is_folder else "does not exist"
    raise LookalikeError(f"the table of labels {labels!r} {problem}")


def read_labels(top: Tree, sources: Sequence[Source]) -> list[LabelledFile]:
    """Returns the images that tables name, in the order of their paths; counts what is passed over.

    Raises:
        LookalikeError: If a table cannot be understood, none of its files is there, or two rows disagree.
    """
    index = _ImageIndex(top)
    rows: dict[str, LabelledFile] = {}
    for source in sources:
        for line, row in _understand(source, index, top):
            known = rows.get(row.file)
            if known is None:
                rows[row.file] = row
            elif name_key(known.label) != name_key(row.label) or known.part != row.part:
                what = (known.label, row.label) if known.label != row.label else (known.part, row.part)
                raise LookalikeError(
                    f"line {line} of {str(source.path)!r} says {what[1]!r} of {row.file!r}, and another line "
                    f"{what[0]!r}; an image has one class and one part"
                )
            else:
                top.passed_over.add("repeated_row", row.file)
    for file in index.files:
        if file not in rows:
            top.passed_over.add("unlabelled", file)
    return [rows[file] for file in index.files if file in rows]


class _ImageIndex:
    """All images of a tree, to be found by what a table calls them.

    Attributes:
        files: Their paths within the root, in order.
    """

    def __init__(self, top: Tree) -> None:
        start = len(top.path.rstrip("/\\")) + 1
        self.files = [path[start:].replace("\\", "/") if "\\" in path else path[start:] for path in top.walk(tell=True)]
        self._root_name = name_key(Path(top.path).resolve().name)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            self._by_stem[name_key(without_suffix(file.rpartition("/")[2]))].append(file)

    def find(self, told: str, base: str) -> list[str]:
        """Returns the files that a cell may mean: one, none, or several that it cannot tell apart."""
        told = "/".join(part for part in name_key(told).replace("\\", "/").split("/") if part not in ("", "."))
        last = told.rpartition("/")[2]
        alike = [file for file in self._by_stem.get(without_suffix(last), []) if _same_format(last, file)]
        for exact in (f"{base}/{told}" if base else told, told):
            same = [file for file in alike if name_key(file) == exact]
            if same:
                return same
        below = [file for file in alike if not base or file.startswith(f"{base}/")] or alike
        return [file for file in below if self._fits(told, without_suffix(name_key(file)))]

    def _fits(self, told: str, file: str) -> bool:
        """Says whether one path is the end of the other, and the folders that both name are the same."""
        told, one = f"/{without_suffix(told)}", f"/{file}"
        if one.endswith(told):
            return True
        return told.endswith(one) and (
            one.count("/") > 1 or told == f"/{self._root_name}{one}" or told.endswith(f"/{self._root_name}{one}")
        )


def _same_format(told: str, file: str) -> bool:
    """Says whether a name without a suffix, or with one of the same format, may mean a file."""
    wanted = format_of_suffix(told)
    return wanted is None or wanted == format_of_suffix(file) or told == file.rpartition("/")[2]


def _understand(source: Source, index: _ImageIndex, top: Tree) -> list[tuple[int, LabelledFile]]:
    table = read_table(source.path)
    table, files = _file_column(table, source, index)
    labels = _label_column(table, source, files)
    several = next((k for k, label in enumerate(labels) if label.startswith(("[", "{"))), None)
    if several is not None:
        raise LookalikeError(
            f"line {table.lines[several]} of {str(source.path)!r} has the class {labels[several]!r}; "
            "an image has one class"
        )
    parts = [source.part] * len(table.rows) if source.part else _part_column(table, files)
    rows: list[tuple[int, LabelledFile]] = []
    told = table.column(files)
    for k, line in enumerate(table.lines):
        if not told[k]:
            continue
        found = index.find(told[k], source.base)
        if len(found) > 1:
            raise LookalikeError(
                f"line {line} of {str(source.path)!r} names {told[k]!r}, which may be {found[0]!r} or {found[1]!r}: "
                "give the path within the folder"
            )
        if not found:
            top.passed_over.add("missing_file", told[k])
        elif not labels[k]:
            top.passed_over.add("no_label", told[k])
        else:
            rows.append((line, LabelledFile(found[0], labels[k], parts[k])))
    if not rows:
        if not any(told):
            raise LookalikeError(f"the table {str(source.path)!r} names no files: it has a header and no rows")
        missing = top.passed_over.counts.get("missing_file")
        reason = f"is in the folder {top.path!r}" if missing else "has a class in it"
        example = next(name for name in told if name)
        raise LookalikeError(f"no file of the table {str(source.path)!r}, such as {example!r}, {reason}")
    return rows


def _file_column(table: Table, source: Source, index: _ImageIndex) -> tuple[Table, int]:
    """Returns the table, and which column holds files."""
    header = [_plain(name) for name in table.header or []]
    candidates = [header.index(name) for name in _FILE if name in header]
    for column in candidates:
        if any(index.find(cell, source.base) for cell in table.column(column)[:_PROBED] if cell):
            return table, column
    if not candidates and table.header is not None and len(header) == 2:  # two columns without a header
        for column in (0, 1):
            if index.find(table.header[column], source.base):
                whole = Table(table.path, None, [table.header, *table.rows], [1, *table.lines])
                return whole, column
    if not candidates:
        raise LookalikeError(
            f"the table {str(source.path)!r} has no column of files, but {', '.join(map(repr, table.header or []))}; "
            "call it 'file_name'"
        )
    return table, candidates[0]


def _label_column(table: Table, source: Source, files: int) -> list[str]:
    """Returns each row's class; empty where it has none."""
    if table.header is None:
        return table.column(1 - files)
    header = [_plain(name) for name in table.header]
    if source.label_column is not None:
        if _plain(source.label_column) not in header:
            raise LookalikeError(
                f"the table {str(source.path)!r} has no column {source.label_column!r}, but "
                f"{', '.join(map(repr, table.header))}"
            )
        return table.column(header.index(_plain(source.label_column)))
    candidates = [header.index(name) for name in _LABEL if name in header and header.index(name) != files]
    if not candidates:
        return _flags(table, source, files)
    columns = {table.header[k]: table.column(k) for k in candidates}
    named = [name for name, cells in columns.items() if not all(cell.isdecimal() for cell in cells if cell)]
    first = (named or list(columns))[0]
    for name, cells in columns.items():
        pairs = set(zip(columns[first], cells, strict=True))
        if len(pairs) != len(set(columns[first])) or len(pairs) != len(set(cells)):
            raise LookalikeError(
                f"the table {str(source.path)!r} has two columns of classes, {first!r} and {name!r}; say which: "
                f"--labels {source.path}:{first}"
            )
    return columns[first]


def _flags(table: Table, source: Source, files: int) -> list[str]:
    """Returns the classes of a table with a column of 0 and 1 for each class."""
    header = table.header or []
    columns = {
        name: [_FLAGS.get(cell.lower()) for cell in table.column(k)]
        for k, name in enumerate(header)
        if k != files and _plain(name) not in _SPLIT
    }
    if len(columns) < 2 or any(None in flags for flags in columns.values()):
        raise LookalikeError(
            f"the table {str(source.path)!r} has no column of classes, but {', '.join(map(repr, header))}; call it "
            f"'label', or say which it is: --labels {source.path}:COLUMN"
        )
    labels = []
    for line, flags in zip(table.lines, zip(*columns.values(), strict=True), strict=True):
        true = [name for name, flag in zip(columns, flags, strict=True) if flag]
        if len(true) != 1:
            raise LookalikeError(
                f"line {line} of {str(source.path)!r} has {len(true)} classes ({', '.join(true) or 'all are 0'}); "
                "an image has one class"
            )
        labels.append(true[0])
    return labels


def _part_column(table: Table, files: int) -> list[PartName | None]:
    """Returns the part of each row; None for all where no column tells.

    Raises:
        LookalikeError: If a column called 'split' or 'partition' has other values.
    """
    header = [_plain(name) for name in table.header or []]
    for name in _SPLIT:
        column = header.index(name) if name in header else files
        if column == files:
            continue
        cells = table.column(column)
        parts = [part_of(cell) for cell in cells]
        if all(part is not None for part in parts):
            return list(parts)
        strange = next(k for k, part in enumerate(parts) if part is None)
        if any(part is not None for part in parts) or name in ("split", "partition"):
            raise LookalikeError(
                f"line {table.lines[strange]} of {str(table.path)!r} has the part {cells[strange]!r}; write 'train', "
                f"'test' or 'val', or call the column {table.header[column] if table.header else name!r} otherwise"
            )
    return [None] * len(table.rows)


def _plain(name: str) -> str:
    return "_".join(name_key(name).strip().casefold().replace("-", " ").split())
