"""Rows of Parquet files, row group by row group, as columns ``index``, ``image`` and ``label``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("index", "image", "label")
_READ_ROWS = 256  # in memory at once, beside those that are kept


class Group(NamedTuple):
    """A row group.

    Attributes:
        file: The file.
        number: Its number there.
        start: The index of its first row, where rows are numbered in their order.
        rows: How many it has.
    """

    file: str
    number: int
    start: int
    rows: int


def list_groups(files: Sequence[Path]) -> list[Group]:
    """Returns the row groups of some files that have rows, in their order."""
    import pyarrow.parquet as pq

    groups, start = [], 0
    for file in files:
        footer = pq.read_metadata(file)
        for number in range(footer.num_row_groups):
            rows = footer.row_group(number).num_rows
            if rows:
                groups.append(Group(str(file), number, start, rows))
            start += rows
    return groups


def read_group(group: Group) -> Iterator[dict[str, np.ndarray]]:
    """Reads a row group in parts.

    Yields:
        Indices [n], images [n] as objects, labels [n] as objects; without a column ``index`` the rows are numbered in
        their order.
    """
    import pyarrow.parquet as pq

    start = group.start
    with pq.ParquetFile(group.file, page_checksum_verification=True) as opened:
        names = [name for name in COLUMNS if name in opened.schema_arrow.names]
        for batch in opened.iter_batches(_READ_ROWS, row_groups=[group.number], columns=names, use_threads=False):
            rows = {name: _objects(batch.column(name)) for name in ("image", "label")}
            if "index" in names:
                rows["index"] = np.asarray(batch.column("index").to_numpy(zero_copy_only=False), dtype=np.int64)
            else:
                rows["index"] = np.arange(start, start + len(batch))
            start += len(batch)
            yield rows


def find_rows(groups: Sequence[Group], wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Reads the rows that have one of some indices, and no row group without any."""
    parts = []
    for group in groups:
        if not np.isin(_indices(group), wanted).any():
            continue
        for rows in read_group(group):
            found = np.flatnonzero(np.isin(rows["index"], wanted))
            if len(found):
                parts.append(take_rows(rows, found))
    return join_rows(parts)


def take_rows(rows: dict[str, np.ndarray], positions: np.ndarray | slice) -> dict[str, np.ndarray]:
    """Returns some rows."""
    return {name: column[positions] for name, column in rows.items()}


def join_rows(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins rows, in the order of the parts."""
    empty = {"index": np.arange(0), "image": np.empty(0, object), "label": np.empty(0, object)}
    return {name: np.concatenate([none, *(part[name] for part in parts)]) for name, none in empty.items()}


def _indices(group: Group) -> np.ndarray:
    import pyarrow.parquet as pq

    with pq.ParquetFile(group.file) as opened:
        if "index" not in opened.schema_arrow.names:
            return np.arange(group.start, group.start + group.rows)
        return np.asarray(opened.read_row_group(group.number, columns=["index"])["index"].to_numpy(), dtype=np.int64)


def _objects(column: Any) -> np.ndarray:
    """Returns values as Python's own [n], with lists as arrays."""
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        array[position] = np.asarray(value) if isinstance(value, list) else value
    return array
