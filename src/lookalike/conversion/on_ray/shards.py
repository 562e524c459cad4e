"""Embeddings on storage that all nodes share: Parquet files, each written whole, of rows sorted by class."""

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
_GROUP_ROWS = 512  # a class with fewer rows in a shard shares its row group with the next one
_READERS = 16


@dataclass(frozen=True)
class Shard:
    """What a shard's footer tells.

    Attributes:
        path: The file.
        rows: How many it has.
        classes: Its classes, each with its first row and its number of rows [c, 3].
        first: The smallest index of the samples that it stands for, broken ones included.
        last: The largest.
        skipped: Messages about images that could not be read, by index.
    """

    path: Path
    rows: int
    classes: np.ndarray
    first: int
    last: int
    skipped: dict[int, str]

    @property
    def asked(self) -> int:
        """For how many samples it stands."""
        return self.rows + len(self.skipped)


@dataclass(frozen=True)
class Rows:
    """Some rows of shards.

    Attributes:
        indices: Which samples they are [n].
        labels: Their classes [n].
        embeddings: [n, D], float32.
    """

    indices: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: np.ndarray) -> "Rows":
        """Returns some of them."""
        return Rows(self.indices[rows], self.labels[rows], self.embeddings[rows])


def shard_name(indices: np.ndarray) -> str:
    """Returns the name of the shard of some samples: the same samples have the same name, whoever embeds them."""
    ordered = np.sort(np.asarray(indices, dtype=np.int64))
    return f"{ordered[0]:012d}-{ordered[-1]:012d}-{fingerprint_array(ordered)[:8]}.parquet"


def write_shard(
    path: Path,
    asked: np.ndarray,
    rows: Rows,
    predictions: np.ndarray | None,
    skipped: Mapping[int, str],
) -> None:
    """Writes a shard, which appears when it is complete.

    Args:
        path: Where to.
        asked: The indices of all samples that it stands for, broken ones included.
        rows: What became of the others.
        predictions: The black box's own predicted classes [n], if it has any.
        skipped: Messages about the broken ones, by index.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.lexsort((rows.indices, rows.labels))
    rows = rows.take(order)
    labels, starts, counts = np.unique(rows.labels, return_index=True, return_counts=True)
    meta = {
        "classes": np.stack([labels, starts, counts], axis=1).tolist(),
        "asked": [int(asked.min()), int(asked.max())],
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
        # before the shard is in its place: no kill leaves a shard without its checksum
        write_sealed(_checksum_file(path), fingerprint_file(aside).encode())


def damaged_shards(paths: Sequence[str]) -> list[str]:
    """Reads shards once and returns those that do not fit their checksums."""
    return [path for path in paths if not _is_intact(Path(path))]


def _is_intact(path: Path) -> bool:
    try:
        return unsealed(_checksum_file(path)) == fingerprint_file(path).encode()
    except (OSError, LookalikeError):
        return False


def _checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def open_shard(path: Path) -> Shard:
    """Reads a shard's footer.

    Raises:
        LookalikeError: If the file is no shard.
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
    """Returns the names of the shards in a folder that are complete."""
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
    """Reads a run of a shard's rows, and no row group that holds none of them."""
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


def in_order(parts: Iterable[Rows]) -> Rows:
    """Joins rows in the order of their indices; of rows with one index the first one counts."""
    parts = [part for part in parts if len(part)]
    indices = np.concatenate([part.indices for part in parts])
    _, first = np.unique(indices, return_index=True)
    if len(parts) == 1:
        return parts[0].take(first)
    labels = np.concatenate([part.labels for part in parts])[first]
    # one class may fill most of the memory: each part goes straight to its place, and is let go
    place = np.full(len(indices), -1, dtype=np.int64)
    place[first] = np.arange(len(first))
    embeddings = np.empty((len(first), parts[0].embeddings.shape[1]), dtype=np.float32)
    start = 0
    while parts:
        part = parts.pop(0)
        to = place[start : start + len(part)]
        embeddings[to[to >= 0]] = part.embeddings[to >= 0]
        start += len(part)
    return Rows(indices[first], labels, embeddings)


def repeated_rows(shards: list[Shard]) -> dict[int, np.ndarray]:
    """Finds samples that lie in more than one shard, as two drivers at work in one folder would leave them.

    Args:
        shards: All of them.

    Returns:
        By the position of a shard, the indices of its rows that an earlier shard has too.

    Raises:
        LookalikeError: If one index stands for two different samples.
    """
    order = sorted(range(len(shards)), key=lambda s: (shards[s].first, shards[s].last))
    found: dict[int, np.ndarray] = {}
    group: list[int] = []
    reach = -1
    for s in [*order, None]:
        if s is not None and group and shards[s].first <= reach:
            group.append(s)
            reach = max(reach, shards[s].last)
            continue
        if len(group) > 1:
            found |= _repeated_within(shards, group)
        if s is not None:
            group, reach = [s], shards[s].last
    return found


def _repeated_within(shards: list[Shard], group: list[int]) -> dict[int, np.ndarray]:
    """Does so for shards whose ranges of indices overlap."""
    columns = [read_indices(shards[s].path)[0] for s in group]
    owners = np.repeat(np.arange(len(group)), [len(column) for column in columns])
    indices = np.concatenate(columns)
    order = np.argsort(indices, kind="stable")
    later = order[1:][indices[order][1:] == indices[order][:-1]]
    found: dict[int, np.ndarray] = {}
    for position in np.unique(owners[later]):
        again = indices[later[owners[later] == position]]
        _check_same(shards, [group[p] for p in range(len(group)) if p != position], group[position], again)
        found[group[position]] = again
    return found


def _check_same(shards: list[Shard], others: list[int], repeated: int, indices: np.ndarray) -> None:
    mine = read_rows(shards[repeated].path)
    mine = in_order([mine.take(np.flatnonzero(np.isin(mine.indices, indices)))])
    for other in others:
        theirs = read_rows(shards[other].path)
        theirs = in_order([theirs.take(np.flatnonzero(np.isin(theirs.indices, indices)))]) if len(theirs) else theirs
        if not len(theirs):
            continue
        here = np.searchsorted(mine.indices, theirs.indices)
        scale = float(np.abs(theirs.embeddings).max()) + 1e-12
        apart = np.abs(mine.embeddings[here] - theirs.embeddings).max(1) > 1e-2 * scale
        bad = theirs.indices[apart | (mine.labels[here] != theirs.labels)]
        if len(bad):
            raise LookalikeError(
                f"the index {bad[0]} stands for two different samples; "
                "number the rows of column 'index' without repeats"
            )


def summed_classes(shards: list[Shard], repeated: dict[int, np.ndarray]) -> dict[int, int]:
    """Returns how many samples each class has."""
    counts: dict[int, int] = {}
    for position, shard in enumerate(shards):
        for label, _, count in shard.classes.tolist():
            counts[label] = counts.get(label, 0) + count
        if position in repeated:
            indices, labels = read_indices(shard.path)
            for label in labels[np.isin(indices, repeated[position])].tolist():
                counts[label] -= 1
    return counts


class Known:
    """Says which of some indices [n] are known [n], of which there may be very many in few runs.

    Args:
        indices: The known ones [m].
    """

    def __init__(self, indices: np.ndarray) -> None:
        distinct = np.unique(indices)
        self.count = len(distinct)
        self._starts, self._stops = runs_of(distinct)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Returns [n], bool."""
        if not len(self._starts):
            return np.zeros(len(indices), dtype=bool)
        run = np.searchsorted(self._starts, indices, side="right") - 1
        return np.asarray((run >= 0) & (indices < self._stops[run]))


def known_indices(shards: list[Shard]) -> Known:
    """Returns the indices that shards stand for, those of broken images included."""
    parts = [
        part for shard in shards for part in (read_indices(shard.path)[0], np.array([*shard.skipped], dtype=np.int64))
    ]
    return Known(np.concatenate([np.arange(0), *parts]))


def runs_of(indices: np.ndarray) -> tuple[Any, Any]:
    """Returns sorted distinct indices as runs: where each starts and where it stops, [r] and [r]."""
    if not len(indices):
        return np.arange(0), np.arange(0)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [len(indices)]])
    return indices[starts], indices[stops - 1] + 1
