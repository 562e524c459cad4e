"""Rows of Parquet files, row group by row group, as columns ``index``, ``image`` and ``label``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("index", "image", "label")
_READ_ROWS = 256  # in memory at once, besides those that are kept


class Group(NamedTuple):
    """A row group.

    Attributes:
        file: The Parquet file.
        number: Number of the row group in the file.
        start: Index of its first row, if rows are numbered in their order.
        rows: Number of rows.
    """

    file: str
    number: int
    start: int
    rows: int


def list_groups(files: Sequence[Path]) -> list[Group]:
    """Returns the row groups of some files in their order, without empty ones."""
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
    """Reads a row group in chunks.

    Yields:
        Columns ``index`` [n], ``image`` [n] and ``label`` [n], the last two as objects. If the file has no column
        ``index``, the rows are numbered in their order.
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


def find_rows(groups: Sequence[Group], indices: np.ndarray) -> dict[str, np.ndarray]:
    """Reads the rows with some indices [m], and only the row groups that contain any of them."""
    matches = []
    for group in groups:
        if not np.isin(_indices(group), indices).any():
            continue
        for rows in read_group(group):
            positions = np.flatnonzero(np.isin(rows["index"], indices))
            if len(positions):
                matches.append(take_rows(rows, positions))
    return join_rows(matches)


def take_rows(rows: dict[str, np.ndarray], positions: np.ndarray | slice) -> dict[str, np.ndarray]:
    """Returns the rows at some positions."""
    return {name: column[positions] for name, column in rows.items()}


def join_rows(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins chunks of rows, in their order."""
    empty = {"index": np.arange(0), "image": np.empty(0, object), "label": np.empty(0, object)}
    return {name: np.concatenate([none, *(chunk[name] for chunk in chunks)]) for name, none in empty.items()}


def _indices(group: Group) -> np.ndarray:
    """Returns the indices of a row group's rows [n]."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(group.file) as opened:
        if "index" not in opened.schema_arrow.names:
            return np.arange(group.start, group.start + group.rows)
        return np.asarray(opened.read_row_group(group.number, columns=["index"])["index"].to_numpy(), dtype=np.int64)


def _objects(column: Any) -> np.ndarray:
    """Returns a column as Python objects [n], with lists as arrays."""
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        array[position] = np.asarray(value) if isinstance(value, list) else value
    return array
