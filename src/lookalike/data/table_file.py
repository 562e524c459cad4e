"""Reads a table of texts from a file: CSV with any usual delimiter, TSV, JSON lines or JSON."""

import codecs
import csv
import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError

_DELIMITERS = ",\t;|"
# A JSON object with one of these keys is a single row, and not a mapping from files to classes.
_FILE_KEYS = {"file_name", "filename", "file", "image", "path"}
_CONTAINERS = (
    (b"PK\x03\x04", "a spreadsheet or an archive", "save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet", "save it as CSV"),
    (b"PAR1", "a Parquet file", "save it as CSV, e.g. pandas.read_parquet(FILE).to_csv(…)"),
    (b"\x1f\x8b", "a compressed file", "unpack it"),
)


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        path: File that the table was read from.
        header: Column names; None if the file has no header.
        rows: Cells of each row.
        lines: Line number in the file, from 1, at which each row begins.
    """

    path: Path
    header: list[str] | None
    rows: list[list[str]]
    lines: list[int]

    def column(self, position: int) -> list[str]:
        """Returns the cells of a column, without surrounding spaces."""
        return [row[position].strip() for row in self.rows]


def read_table(path: Path) -> Table:
    """Reads a table whose first row is a header.

    Raises:
        LookalikeError: If the file cannot be read, is not text or is empty, or a row has more cells than the header.
    """
    text = _read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _table_of_records(path, _read_json(path, text))
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise LookalikeError(f"the table {str(path)!r} is empty")
    delimiter = max(_DELIMITERS, key=first.count)
    if first.count(delimiter):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows, numbers = _read_csv(path, reader)
    else:  # no delimiter: each line is a path, spaces and a class
        numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
        rows = [lines[number - 1].strip().rsplit(maxsplit=1) for number in numbers]
    header, width = [name.strip() for name in rows[0]], len(rows[0])
    for row, number in zip(rows, numbers, strict=True):
        if len(row) > width and any(cell.strip() for cell in row[width:]):
            raise LookalikeError(
                f"line {number} of {str(path)!r} has {len(row)} cells and the first line {width}: put cells with a "
                f"{delimiter!r} in them into quotes"
            )
    return Table(path, header, [(row + [""] * width)[:width] for row in rows[1:]], numbers[1:])


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LookalikeError(f"cannot read the table {str(path)!r}: {error.strerror or error}") from error
    for signature, container, remedy in _CONTAINERS:
        if content.startswith(signature):
            raise LookalikeError(f"the table {str(path)!r} is {container}: {remedy}")
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise LookalikeError(
            f"the table {str(path)!r} is not UTF-8 text (byte {error.start}): save it as CSV with UTF-8"
        ) from error
    if "\x00" in text:
        raise LookalikeError(f"the table {str(path)!r} is not text: save it as CSV with UTF-8")
    return text


def _read_csv(path: Path, reader: Any) -> tuple[list[list[str]], list[int]]:
    """Returns the rows that are not empty, and the line at which each begins."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    start = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise LookalikeError(f"line {reader.line_num} of {str(path)!r} cannot be read: {error}") from error
    return rows, numbers


def _as_object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON; one that gives two values to a name is refused."""
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries and entries[name] != value:
            raise LookalikeError(
                f"{str(path)!r} gives {name!r} as {entries[name]!r} and as {value!r}; an image has one class"
            )
        entries[name] = value
    return entries


def _read_json(path: Path, text: str) -> list[tuple[int, Any]]:
    """Reads JSON lines, a JSON list of objects, or one JSON object that maps files to classes.

    Returns:
        (line or entry number, record) of each row.
    """
    try:
        document = json.loads(text, object_pairs_hook=functools.partial(_as_object, path))
    except LookalikeError:
        raise
    except ValueError:  # several lines of JSON
        document = None
    if isinstance(document, list):
        return list(enumerate(document, 1))
    if isinstance(document, dict) and path.suffix.lower() not in (".jsonl", ".ndjson") and _maps_files(document):
        return [(k, {"file_name": file, "label": label}) for k, (file, label) in enumerate(document.items(), 1)]
    records = []
    for number, line in enumerate(io.StringIO(text, newline=None), 1):  # str.splitlines ends lines within texts, too
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line, object_pairs_hook=functools.partial(_as_object, path))))
        except LookalikeError:
            raise
        except ValueError as error:
            raise LookalikeError(f"line {number} of {str(path)!r} is not JSON: {error}") from error
    return records


def _maps_files(document: dict[str, Any]) -> bool:
    """Says whether a JSON object maps files to classes, and is not a single row with a file and a class."""
    has_labels = all(isinstance(value, str | int) for value in document.values())
    return len(document) > 1 and not _FILE_KEYS.intersection(document) and has_labels


def _table_of_records(path: Path, records: list[tuple[int, Any]]) -> Table:
    invalid_entry = next((number for number, record in records if not isinstance(record, dict)), None)
    if invalid_entry is not None:
        raise LookalikeError(f"entry {invalid_entry} of {str(path)!r} is not an object with a file and a class")
    if not records:
        raise LookalikeError(f"the table {str(path)!r} is empty")
    header = list(dict.fromkeys(name for _, record in records for name in record))
    rows = [[_cell(record.get(name)) for name in header] for _, record in records]
    return Table(path, header, rows, [number for number, _ in records])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
