"""Shards: Parquet files of embeddings, sorted by class, on storage that all nodes share."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_array, fingerprint_file
from lookalike._core.replacing import replacing_file
from lookalike._core.working_folder import unsealed, write_sealed

_META = b"lookalike"
_GROUP_ROWS = 512  # classes with fewer rows share a row group with the next one, so that no row group is tiny
_READERS = 16


@dataclass(frozen=True)
class Shard:
    """The footer of a shard.

    Attributes:
        path: The file.
        rows: Number of rows.
        classes: For each class in the shard, its label, its first row and its number of rows [c, 3].
        first: Smallest index of its samples, including those that could not be read.
        last: Largest index of its samples.
        skipped: Messages about images that could not be read, by index.
    """

    path: Path
    rows: int
    classes: np.ndarray
    first: int
    last: int
    skipped: dict[int, str]

    @property
    def n_requested(self) -> int:
        """Number of its samples, including those that could not be read."""
        return self.rows + len(self.skipped)


@dataclass(frozen=True)
class Rows:
    """Rows of shards.

    Attributes:
        indices: Indices of the samples [n].
        labels: Classes of the samples [n].
        embeddings: [n, D], float32.
    """

    indices: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: np.ndarray) -> "Rows":
        """Returns the rows at some positions."""
        return Rows(self.indices[rows], self.labels[rows], self.embeddings[rows])


def shard_name(indices: np.ndarray) -> str:
    """Returns the name of a shard. It depends on the samples alone, so every actor gives them the same name."""
    ordered = np.sort(np.asarray(indices, dtype=np.int64))
    return f"{ordered[0]:012d}-{ordered[-1]:012d}-{fingerprint_array(ordered)[:8]}.parquet"


def write_shard(
    path: Path,
    requested: np.ndarray,
    rows: Rows,
    predictions: np.ndarray | None,
    skipped: Mapping[int, str],
) -> None:
    """Writes a shard. The file appears only when it is complete.

    Args:
        path: Path of the file.
        requested: Indices of all its samples, including those that could not be read.
        rows: Embeddings of the samples that could be read.
        predictions: The black box's predicted classes [n], if it has any.
        skipped: Messages about the images that could not be read, by index.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.lexsort((rows.indices, rows.labels))
    rows = rows.take(order)
    labels, starts, counts = np.unique(rows.labels, return_index=True, return_counts=True)
    meta = {
        "classes": np.stack([labels, starts, counts], axis=1).tolist(),
        "asked": [int(requested.min()), int(requested.max())],
        "skipped": {str(index): message for index, message in skipped.items()},
    }
    dim = rows.embeddings.shape[1]
    flat = pa.array(np.ascontiguousarray(rows.embeddings, dtype=np.float32).reshape(-1))
    table = pa.table(
        {
            "index": pa.array(rows.indices, pa.int64()),
            "label": pa.array(rows.labels, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
            "prediction": pa.nulls(len(rows), pa.int64())
            if predictions is None
            else pa.array(predictions[order], pa.int64()),
        }
    ).replace_schema_metadata({_META: json.dumps(meta).encode()})
    with replacing_file(path, sweep=False) as aside:
        with pq.ParquetWriter(aside, table.schema, use_dictionary=False, write_statistics=False) as writer:
            start = 0
            for stop in (*(starts[1:]), len(rows)):
                if stop - start >= _GROUP_ROWS or stop == len(rows):
                    writer.write_table(table.slice(start, stop - start), row_group_size=max(1, int(stop - start)))
                    start = int(stop)
        # before the shard is renamed into place: even a killed process leaves no shard without a checksum
        write_sealed(_checksum_file(path), fingerprint_file(aside).encode())


def damaged_shards(paths: Sequence[str]) -> list[str]:
    """Returns the shards that do not match their checksums."""
    return [path for path in paths if not _is_intact(Path(path))]


def _is_intact(path: Path) -> bool:
    """Returns whether a shard matches its checksum."""
    try:
        return unsealed(_checksum_file(path)) == fingerprint_file(path).encode()
    except (OSError, LookalikeError):
        return False


def _checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def open_shard(path: Path) -> Shard:
    """Reads a shard's footer.

    Raises:
        LookalikeError: If the file is not a shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
        meta = json.loads(footer.metadata[_META])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise LookalikeError(
            f"the shard {str(path)!r} cannot be read: {error}; remove it, and its samples are embedded again"
        ) from error
    return Shard(
        path,
        footer.num_rows,
        np.asarray(meta["classes"], dtype=np.int64).reshape(-1, 3),
        meta["asked"][0],
        meta["asked"][1],
        {int(index): message for index, message in meta["skipped"].items()},
    )


def shard_names(folder: Path) -> set[str]:
    """Returns the names of the complete shards in a folder."""
    return {path.name for path in folder.glob("*.parquet") if not path.name.startswith(".")}


def open_shards(folder: Path) -> list[Shard]:
    """Reads the footers of all shards in a folder, ordered by name, and so by index."""
    paths = [folder / name for name in sorted(shard_names(folder))]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(open_shard, paths))


def read_indices(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices [n] and labels [n] of a shard's rows."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["index", "label"])
    return table["index"].to_numpy(), table["label"].to_numpy()


def read_rows(path: Path, start: int = 0, count: int | None = None) -> Rows:
    """Reads consecutive rows of a shard, and only the row groups that contain them."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        lengths = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        stop = sum(lengths) if count is None else start + count
        ends = np.cumsum(lengths)
        begins = ends - lengths
        groups = np.flatnonzero((begins < stop) & (ends > start)).tolist()
        if not groups:
            return Rows(np.arange(0), np.arange(0), np.zeros((0, 1), dtype=np.float32))
        table = file.read_row_groups(groups, columns=["index", "label", "embedding"], use_threads=False)
    table = table.slice(start - int(begins[groups[0]]), stop - start)
    embeddings = table["embedding"].combine_chunks()
    dim = embeddings.type.list_size
    return Rows(
        np.array(table["index"]),
        np.array(table["label"]),
        embeddings.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim),
    )


def sorted_by_index(chunks: Iterable[Rows]) -> Rows:
    """Joins rows and sorts them by index. Of several rows with the same index, the first is kept."""
    chunks = [chunk for chunk in chunks if len(chunk)]
    indices = np.concatenate([chunk.indices for chunk in chunks])
    _, first = np.unique(indices, return_index=True)
    if len(chunks) == 1:
        return chunks[0].take(first)
    labels = np.concatenate([chunk.labels for chunk in chunks])[first]
    # one class may fill most of the memory: each chunk is copied to its final rows, then released
    target_row = np.full(len(indices), -1, dtype=np.int64)
    target_row[first] = np.arange(len(first))
    embeddings = np.empty((len(first), chunks[0].embeddings.shape[1]), dtype=np.float32)
    start = 0
    while chunks:
        chunk = chunks.pop(0)
        targets = target_row[start : start + len(chunk)]
        embeddings[targets[targets >= 0]] = chunk.embeddings[targets >= 0]
        start += len(chunk)
    return Rows(indices[first], labels, embeddings)


def repeated_rows(shards: list[Shard]) -> dict[int, np.ndarray]:
    """Finds samples that are in more than one shard, as after two conversions wrote to one folder at the same time.

    Shards whose ranges of indices overlap are compared with each other; the others cannot share samples.

    Args:
        shards: All shards.

    Returns:
        Position of a shard → indices of its rows that an earlier shard contains too.

    Raises:
        LookalikeError: If two different samples have the same index.
    """
    order = sorted(range(len(shards)), key=lambda position: (shards[position].first, shards[position].last))
    repeated: dict[int, np.ndarray] = {}
    overlapping: list[int] = []
    last_index = -1
    for position in [*order, None]:
        if position is not None and overlapping and shards[position].first <= last_index:
            overlapping.append(position)
            last_index = max(last_index, shards[position].last)
            continue
        if len(overlapping) > 1:
            repeated |= _repeated_within(shards, overlapping)
        if position is not None:
            overlapping, last_index = [position], shards[position].last
    return repeated


def _repeated_within(shards: list[Shard], overlapping: list[int]) -> dict[int, np.ndarray]:
    """Finds repeated samples among shards whose ranges of indices overlap; see ``repeated_rows``."""
    columns = [read_indices(shards[s].path)[0] for s in overlapping]
    shard_of_row = np.repeat(np.arange(len(overlapping)), [len(column) for column in columns])
    indices = np.concatenate(columns)
    order = np.argsort(indices, kind="stable")
    repeats = order[1:][indices[order][1:] == indices[order][:-1]]
    repeated: dict[int, np.ndarray] = {}
    for position in np.unique(shard_of_row[repeats]):
        repeated_indices = indices[repeats[shard_of_row[repeats] == position]]
        other_shards = [shards[s] for p, s in enumerate(overlapping) if p != position]
        _check_same(shards[overlapping[position]], other_shards, repeated_indices)
        repeated[overlapping[position]] = repeated_indices
    return repeated


def _check_same(shard: Shard, other_shards: list[Shard], indices: np.ndarray) -> None:
    """Checks that samples of a shard are the same as those with the same indices in other shards.

    Embeddings may differ by one percent of the largest value: another processor rounds differently.

    Raises:
        LookalikeError: If two different samples have the same index.
    """
    rows = _rows_with(shard, indices)
    for other_shard in other_shards:
        other_rows = _rows_with(other_shard, indices)
        if not len(other_rows):
            continue
        positions = np.searchsorted(rows.indices, other_rows.indices)
        scale = float(np.abs(other_rows.embeddings).max()) + 1e-12
        differs = np.abs(rows.embeddings[positions] - other_rows.embeddings).max(1) > 1e-2 * scale
        conflicting = other_rows.indices[differs | (rows.labels[positions] != other_rows.labels)]
        if len(conflicting):
            raise LookalikeError(
                f"the index {conflicting[0]} stands for two different samples; "
                "number the rows of column 'index' without repeats"
            )


def _rows_with(shard: Shard, indices: np.ndarray) -> Rows:
    """Returns the rows of a shard that have some indices, sorted by index."""
    rows = read_rows(shard.path)
    return sorted_by_index([rows.take(np.flatnonzero(np.isin(rows.indices, indices)))]) if len(rows) else rows


def count_classes(shards: list[Shard], repeated: dict[int, np.ndarray]) -> dict[int, int]:
    """Returns the number of samples of each class, counting repeated samples once."""
    counts: dict[int, int] = {}
    for position, shard in enumerate(shards):
        for label, _, count in shard.classes.tolist():
            counts[label] = counts.get(label, 0) + count
        if position in repeated:
            indices, labels = read_indices(shard.path)
            for label in labels[np.isin(indices, repeated[position])].tolist():
                counts[label] -= 1
    return counts


class IndexSet:
    """A set of indices, stored as runs of consecutive ones: it may have very many indices in a few runs.

    Args:
        indices: The indices [m].
    """

    def __init__(self, indices: np.ndarray) -> None:
        distinct = np.unique(indices)
        self.count = len(distinct)
        self._starts, self._stops = runs_of(distinct)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Returns which of some indices [n] are in the set; bool [n]."""
        if not len(self._starts):
            return np.zeros(len(indices), dtype=bool)
        run = np.searchsorted(self._starts, indices, side="right") - 1
        return np.asarray((run >= 0) & (indices < self._stops[run]))


def stored_indices(shards: list[Shard]) -> IndexSet:
    """Returns the indices of all samples in shards, including those that could not be read."""
    index_arrays = [
        indices
        for shard in shards
        for indices in (read_indices(shard.path)[0], np.array([*shard.skipped], dtype=np.int64))
    ]
    return IndexSet(np.concatenate([np.arange(0), *index_arrays]))


def runs_of(indices: np.ndarray) -> tuple[Any, Any]:
    """Returns the starts [r] and the stops [r] of the runs of consecutive indices in sorted distinct indices."""
    if not len(indices):
        return np.arange(0), np.arange(0)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(indices)]])
    return indices[starts], indices[stops - 1] + 1
