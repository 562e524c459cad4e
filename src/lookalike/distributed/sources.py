"""The kinds of data that a cluster converts, each as rows for Ray Data and a way to read them again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from lookalike.data import Batches, DataBundle, Preprocessing, load_folder
from lookalike.distributed.readers import ByIndex, DatasetReader, FileReader, Reader, RowReader
from lookalike.distributed.shards import runs_of, shard_name
from lookalike.errors import LookalikeError
from lookalike.prototype_images import preprocessing_of
from lookalike.provenance import fingerprint_json

_READ_ROWS = 256  # rows of a Parquet file that are in memory at once
_COLUMNS = ["index", "image", "label"]


class Source(ABC):
    """Data of one kind.

    Attributes:
        reader: Opens its rows.
        class_names: As the data tell them, or None.
        preprocessing: What its images go through, where that is known.
        total: How many rows there are, or None when that is not known.
    """

    reader: Reader
    class_names: list[str] | None = None
    preprocessing: Preprocessing | None = None
    total: int | None = None

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes when the data do."""

    @abstractmethod
    def first(self) -> Batches:
        """Returns a few rows, to cut the classifier with."""

    @abstractmethod
    def fetch(self, indices: np.ndarray) -> Batches:
        """Returns data that can be asked for these samples by index."""


class Planned(Source):
    """Samples that have numbers, so that it is known beforehand which of them make up which shard."""

    def __init__(self, dataset: Any, shard_rows: int) -> None:
        self.batches = Batches(dataset)
        self.preprocessing = preprocessing_of(self.batches)
        self.class_names = self.batches.class_names
        self.total = len(self.batches)
        self._shard_rows = shard_rows

    def fingerprint(self) -> str:  # noqa: D102
        return self.batches.fingerprint()

    def first(self) -> Batches:  # noqa: D102
        return Batches(self.batches.dataset, batch_size=2, on_error="skip")

    def fetch(self, indices: np.ndarray) -> Batches:  # noqa: ARG002, D102
        return self.batches

    def left(self, present: set[str]) -> list[range]:
        """Returns the numbers of the samples of each shard that is not present."""
        total, size = self.total or 0, self._shard_rows
        spans = [range(start, min(start + size, total)) for start in range(0, total, size)]
        return [span for span in spans if shard_name(np.arange(span.start, span.stop)) not in present]

    def rows(self, span: range) -> dict[str, np.ndarray]:
        """Returns some samples' columns, as the reader takes them."""
        return {"index": np.arange(span.start, span.stop)}


class Folder(Planned):
    """The training part of a folder with one sub-folder per class."""

    def __init__(self, root: Path, preprocessing: Preprocessing, shard_rows: int) -> None:
        bundle = load_folder(root, preprocessing)
        self.files: Any = bundle.train
        super().__init__(bundle.train, shard_rows)
        self.reader = FileReader(preprocessing)

    def rows(self, span: range) -> dict[str, np.ndarray]:  # noqa: D102
        paths = np.array([str(self.files.files[index].resolve()) for index in span])
        return {**super().rows(span), "path": paths, "label": self.files.labels[span.start : span.stop]}


class MapStyle(Planned):
    """A map-style data set of (x, y)."""

    def __init__(self, dataset: Any, shard_rows: int) -> None:
        super().__init__(dataset, shard_rows)
        self.reader = DatasetReader(self.batches.dataset)


class Columns(Source):
    """Rows with the columns ``image`` and ``label``, and perhaps ``index``, which Ray reads in tasks of its own.

    Attributes:
        shard_rows: About how many of them make a shard.
    """

    def __init__(self, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int) -> None:
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.reader = RowReader(preprocessing, tuple(class_names) if class_names else None)
        self.shard_rows = shard_rows
        missing = [name for name in ("image", "label") if name not in self._types()]
        if missing:
            raise LookalikeError(
                f"the data have no column {missing[0]!r}, but {', '.join(self._types()) or 'none at all'}; "
                "rename what holds the images to 'image' and their classes to 'label'"
            )

    @abstractmethod
    def _types(self) -> dict[str, str]:
        """Returns the columns' names and types."""

    @abstractmethod
    def _head(self) -> dict[str, np.ndarray]:
        """Returns the first rows."""

    @abstractmethod
    def _numbered(self) -> Any:
        """Returns all rows, with an index each."""

    def first(self) -> Batches:  # noqa: D102
        return Batches(self.reader.open(self._head()), batch_size=2, on_error="skip")

    def left(self, known: "Known") -> Any | None:
        """Returns the rows whose index is not known, as a Ray dataset, or None if there are none left."""
        return self._numbered().map_batches(Without(known), batch_format="pyarrow")

    def fetch(self, indices: np.ndarray) -> Batches:  # noqa: D102
        kept = self._numbered().map_batches(Only(np.sort(indices)), batch_format="pyarrow")
        parts = [part for part in kept.iter_batches(batch_size=None, batch_format="numpy") if len(part["index"])]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in ("index", "image", "label")}
        return Batches(ByIndex(self.reader.open(rows), rows["index"]))


class Table(Columns):
    """A Ray dataset."""

    def __init__(
        self, dataset: Any, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
    ) -> None:
        self.dataset = dataset
        self._with_index: Any = None
        super().__init__(preprocessing, class_names, shard_rows)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the columns and their types, and of the first rows' labels.

        A Ray dataset tells no more of itself before it is read.
        """
        return fingerprint_json(["ray", self._types(), [str(label) for label in self._head()["label"]]])

    def _types(self) -> dict[str, str]:
        schema = self.dataset.schema()
        return {} if schema is None else dict(zip(schema.names, map(str, schema.types), strict=True))

    def _head(self) -> dict[str, np.ndarray]:
        batch = self.dataset.take_batch(2, batch_format="numpy")
        return {**batch, "index": np.arange(len(batch["label"]))}

    def _numbered(self) -> Any:
        if self._with_index is None:
            self._with_index = self.dataset if "index" in self._types() else _number_rows(self.dataset)
        return self._with_index


class Parquet(Columns):
    """A Parquet file, or a folder of such, read row group by row group; rows are numbered in the order of the files."""

    def __init__(
        self, root: Path, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
    ) -> None:
        import pyarrow.parquet as pq

        self.root = root.resolve()
        self._files = parquet_files(self.root)
        self._groups: list[tuple[str, int, int, int]] = []
        self.total = 0
        for file in self._files:
            footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                if rows:
                    self._groups.append((str(file), group, self.total, rows))
                self.total += rows
        if not self.total:
            raise LookalikeError(f"the Parquet data in {str(root)!r} have no rows")
        super().__init__(preprocessing, class_names, shard_rows)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the files' names, sizes and rows (contents are not read)."""
        listing = [[file.name, file.stat().st_size] for file in self._files]
        return fingerprint_json(["parquet", listing, [group[1:] for group in self._groups]])

    def left(self, known: "Known") -> Any | None:  # noqa: D102
        if known.count == self.total:
            return None
        groups = self._groups
        if "index" not in self._types():
            groups = [group for group in groups if not known(np.arange(group[2], group[2] + group[3])).all()]
        return self._read(groups).map_batches(Without(known), batch_format="pyarrow")

    def _types(self) -> dict[str, str]:
        import pyarrow.parquet as pq

        schema = pq.read_schema(self._files[0])
        return dict(zip(schema.names, map(str, schema.types), strict=True))

    def _head(self) -> dict[str, np.ndarray]:
        file, group, start, _ = self._groups[0]
        table = next(iter(_read_group(file, group, start))).slice(0, 2)
        return {name: _as_array(table[name]) for name in ("image", "label", "index")}

    def _numbered(self) -> Any:
        return self._read(self._groups)

    def _read(self, groups: list[tuple[str, int, int, int]]) -> Any:
        import ray

        items = [{"file": file, "group": group, "start": start} for file, group, start, _ in groups]
        listed = ray.data.from_items(items, override_num_blocks=len(items))
        return listed.map_batches(_read_groups, batch_size=1, batch_format="numpy")


class Known:
    """Says which of some indices [n] are known [n], of which there may be very many in few runs."""

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


class Without:
    """Leaves out the rows of a table whose index is known."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def __call__(self, table: Any) -> Any:
        """Returns the other rows."""
        import pyarrow as pa

        return table.select(_COLUMNS).filter(pa.array(~self._known(table["index"].to_numpy())))


class Only:
    """Keeps the rows of a table that have one of some sorted indices."""

    def __init__(self, indices: np.ndarray) -> None:
        self._indices = indices

    def __call__(self, table: Any) -> Any:
        """Returns these rows."""
        import pyarrow as pa

        return table.select(_COLUMNS).filter(pa.array(np.isin(table["index"].to_numpy(), self._indices)))


def open_source(
    data: Any, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
) -> Planned | Columns:
    """Recognises what kind of data there are.

    Raises:
        LookalikeError: If they are of none, or an image folder comes without a preprocessing.
    """
    import ray

    if isinstance(data, ray.data.Dataset):
        return Table(data, preprocessing, class_names, shard_rows)
    if isinstance(data, str | Path):
        root = Path(data)
        if root.is_file() or (root.is_dir() and parquet_files(root)):
            return Parquet(root, preprocessing, class_names, shard_rows)
        if preprocessing is None:
            raise LookalikeError(
                f"to read the images of {str(data)!r}, say what the network takes with preprocessing= "
                "(lookalike.data.Preprocessing)"
            )
        return Folder(root, preprocessing, shard_rows)
    if isinstance(data, DataBundle):
        data = data.train
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return MapStyle(data, shard_rows)
    raise LookalikeError(
        f"a cluster cannot read samples from a {type(data).__name__}; give a folder with a sub-folder per class, a "
        "Parquet file or a folder of such, a ray.data.Dataset, or a map-style torch Dataset of (x, y)"
    )


def parquet_files(root: Path) -> list[Path]:
    """Returns a Parquet file, or those that lie in a folder, in the order of their names."""
    if root.is_file():
        return [root]
    return sorted(path for path in root.glob("*.parquet") if not path.name.startswith((".", "_")))


def _number_rows(dataset: Any) -> Any:
    """Returns a Ray dataset with an index per row, in its own order; its blocks are kept in the object store for it."""
    import ray

    options = dataset.context.execution_options
    unordered = not options.preserve_order
    options.preserve_order = True
    try:
        blocks = dataset.to_arrow_refs()
    finally:
        options.preserve_order = not unordered
    count = ray.remote(_count)
    lengths = ray.get([count.remote(block) for block in blocks])
    starts = np.cumsum([0, *lengths])
    append = ray.remote(_append_index)
    return ray.data.from_arrow_refs(
        [append.remote(block, int(start)) for block, start in zip(blocks, starts[:-1], strict=True)]
    )


def _count(table: Any) -> int:
    return len(table)


def _append_index(table: Any, start: int) -> Any:
    import pyarrow as pa

    return table.append_column("index", pa.array(np.arange(start, start + len(table))))


def _read_groups(batch: dict[str, np.ndarray]) -> Iterator[Any]:
    for file, group, start in zip(batch["file"], batch["group"], batch["start"], strict=True):
        yield from _read_group(str(file), int(group), int(start))


def _read_group(file: str, group: int, start: int) -> Iterator[Any]:
    """Reads a row group in parts, with an index per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        names = [name for name in _COLUMNS if name in opened.schema_arrow.names]
        for batch in opened.iter_batches(_READ_ROWS, row_groups=[group], columns=names, use_threads=False):
            table = pa.Table.from_batches([batch])
            if "index" not in names:
                table = table.append_column("index", pa.array(np.arange(start, start + len(table))))
            start += len(table)
            yield table.select(_COLUMNS)


def _as_array(column: Any) -> np.ndarray:
    values = column.to_pylist()
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        array[position] = np.asarray(value) if isinstance(value, list) else value
    return array
