"""The kinds of data that a cluster converts: each is split into jobs for actors, and read again for its images."""

import hashlib
import io
import shutil
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from typing_extensions import override

from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_json
from lookalike._core.working_folder import writing_to
from lookalike.conversion.on_ray.cluster import as_task, portions, result_of
from lookalike.conversion.on_ray.readers import ByIndex, DatasetReader, FileReader, ImageRows, Reader, RowReader, plain
from lookalike.conversion.on_ray.row_groups import (
    COLUMNS,
    Group,
    find_rows,
    join_rows,
    list_groups,
    read_group,
    take_rows,
)
from lookalike.conversion.on_ray.shards import IndexSet, Shard, shard_name, stored_indices
from lookalike.data import Batches, DataBundle, Preprocessing, load_folder
from lookalike.data.identity import content_keys
from lookalike.model.images import preprocessing_of

_ROWS = "rows"
_STORED_GROUP_ROWS = 512  # of a row group in the files that a Ray dataset is written to


class Source(ABC):
    """Data as the user gave them.

    Attributes:
        class_names: Class names, if the data have any.
        preprocessing: Preprocessing of the images, if it is known.
    """

    class_names: list[str] | None = None
    preprocessing: Preprocessing | None = None

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a fingerprint that changes when the data change."""

    def transform_fingerprint(self) -> str:
        """Returns a fingerprint of the images' preprocessing; see ``Batches.transform_fingerprint``."""
        return self.first_rows().transform_fingerprint()

    @abstractmethod
    def first_rows(self) -> Batches:
        """Returns a few rows, to run through the classifier when it is cut."""

    @abstractmethod
    def sharded(self, folder: Path) -> "ShardedSource":
        """Splits the data into jobs, writing them to the working folder first if needed."""


class ShardedSource(Source):
    """Data that are split into jobs.

    A job is described by a short spec; the whole job is built only when an actor is free for it.

    Attributes:
        total: Number of rows.
        may_repeat: Whether two shards could contain the same row.
    """

    total: int
    may_repeat = False

    @override
    def sharded(self, folder: Path) -> "ShardedSource":
        return self

    @abstractmethod
    def remaining(self, shards: list[Shard]) -> tuple[Reader, list[Any]]:
        """Returns a reader, and the specs of the jobs whose rows are not in shards yet."""

    @abstractmethod
    def make_job(self, spec: Any) -> Any:
        """Returns the job that a spec describes, as the reader takes it."""

    @abstractmethod
    def fetch(self, indices: np.ndarray) -> Batches:
        """Returns data from which the samples with these indices can be read."""


class MapStyle(ShardedSource):
    """A map-style data set of (x, y), or the training part of a ``DataBundle``."""

    def __init__(self, dataset: Any, shard_rows: int) -> None:
        self.batches = Batches(dataset)
        self.preprocessing = preprocessing_of(self.batches)
        self.class_names = self.batches.class_names
        self.total = len(self.batches)
        self._reader: Reader = DatasetReader(self.batches.dataset)
        self._shard_rows = shard_rows

    @override
    def fingerprint(self) -> str:
        return self.batches.fingerprint()

    @override
    def transform_fingerprint(self) -> str:
        return self.batches.transform_fingerprint()

    @override
    def first_rows(self) -> Batches:
        return Batches(self.batches.dataset, batch_size=2, on_error="skip")

    @override
    def fetch(self, indices: np.ndarray) -> Batches:
        return self.batches

    def remaining(self, shards: list[Shard]) -> tuple[Reader, list[range]]:
        """Returns a reader, and the indices of the samples of each missing shard."""
        present, size = {shard.path.name for shard in shards}, self._shard_rows
        spans = [range(start, min(start + size, self.total)) for start in range(0, self.total, size)]
        return self._reader, [span for span in spans if shard_name(np.arange(span.start, span.stop)) not in present]

    def make_job(self, spec: range) -> dict[str, np.ndarray]:
        """Returns the columns of some samples."""
        return {"index": np.arange(spec.start, spec.stop)}


class Folder(MapStyle):
    """The training part of a folder with one sub-folder per class."""

    def __init__(self, root: Path, preprocessing: Preprocessing, shard_rows: int) -> None:
        bundle = load_folder(root, preprocessing)
        self.files: Any = bundle.train
        super().__init__(bundle, shard_rows)
        self._reader = FileReader(preprocessing)

    @override
    def make_job(self, spec: range) -> dict[str, np.ndarray]:
        paths = np.array([str(self.files.files[index].resolve()) for index in spec])
        return {**super().make_job(spec), "path": paths, "label": self.files.labels[spec.start : spec.stop]}


class Parquet(ShardedSource):
    """A Parquet file, or a folder of such, with the columns ``image`` and ``label``, and perhaps ``index``."""

    may_repeat = True

    def __init__(
        self, root: Path, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
    ) -> None:
        import pyarrow.parquet as pq

        self.root = root.resolve()
        self.preprocessing = preprocessing
        self.class_names = class_names
        self._files = parquet_files(self.root)
        self._groups = list_groups(self._files)
        self.total = sum(group.rows for group in self._groups)
        if not self.total:
            raise LookalikeError(f"the Parquet data in {str(root)!r} have no rows")
        self._columns = pq.read_schema(self._files[0]).names
        _check_columns(self._columns)
        self._shard_rows = shard_rows

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the files' names, contents and rows.

        For a file above a megabyte, the size, the beginning and 16 blocks including the footer are hashed.
        """
        keys = content_keys(self._files).tolist()
        listing = [[file.name, key] for file, key in zip(self._files, keys, strict=True)]
        return fingerprint_json(["parquet", listing, [group[1:] for group in self._groups]])

    @override
    def first_rows(self) -> Batches:
        head = take_rows(next(read_group(self._groups[0])), slice(2))
        return Batches(self._samples(head), batch_size=2, on_error="skip")

    def remaining(self, shards: list[Shard]) -> tuple[Reader, list[list[Group]]]:
        """Returns a reader of the rows that are not in shards yet, and lists of row groups of about one shard each."""
        stored = stored_indices(shards)
        reader = RowReader(self.preprocessing, self.class_names, self._shard_rows, stored)
        specs: list[list[Group]] = []
        if stored.count == self.total:
            return reader, specs
        rows_to_fill = 0
        for group in self._groups:
            if self._is_stored(group, stored):
                continue
            if rows_to_fill < group.rows:
                specs.append([])
                rows_to_fill = self._shard_rows
            specs[-1].append(group)
            rows_to_fill -= group.rows
        return reader, specs

    @override
    def make_job(self, spec: list[Group]) -> list[Group]:
        return spec

    def fetch(self, indices: np.ndarray) -> Batches:
        """Returns data from which the samples with these indices can be read; tasks search the files for them."""
        import ray

        groups = self._groups
        if "index" not in self._columns:
            starts = np.array([group.start for group in groups])
            groups = [groups[g] for g in np.unique(np.searchsorted(starts, indices, side="right") - 1)]
        task, shared_indices = as_task(find_rows), ray.put(indices)
        references = [task.remote(portion, shared_indices) for portion in portions(groups)]
        rows = join_rows([result_of(reference) for reference in references])
        return Batches(ByIndex(self._samples(rows), rows["index"]))

    def _samples(self, rows: dict[str, np.ndarray]) -> ImageRows:
        return ImageRows(rows, self.preprocessing, self.class_names)

    def _is_stored(self, group: Group, stored: IndexSet) -> bool:
        """Returns whether all rows of a row group are in shards already."""
        if "index" in self._columns:
            return False  # the indices of its rows are known only once it is read
        return bool(stored(np.arange(group.start, group.start + group.rows)).all())


class Table(Source):
    """A Ray dataset with the columns ``image`` and ``label``, and perhaps ``index``.

    Ray first writes its rows to Parquet files in the working folder. This numbers the rows, and they can be read again
    when an actor is lost or the conversion resumes.
    """

    def __init__(
        self, dataset: Any, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
    ) -> None:
        self.preprocessing = preprocessing
        self.class_names = class_names
        self._dataset = dataset
        self._shard_rows = shard_rows
        schema = dataset.schema()
        self._types = {} if schema is None else dict(zip(schema.names, map(str, schema.types), strict=True))
        _check_columns(list(self._types))

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the columns and their types, and of the first two rows' images and labels.

        A Ray dataset shows nothing else before it is read completely.
        """
        images = [hashlib.sha256(_as_bytes(image) or b"").hexdigest() for image in self._head["image"]]
        return fingerprint_json(["ray", self._types, [str(label) for label in self._head["label"]], images])

    @override
    def first_rows(self) -> Batches:
        return Batches(ImageRows(self._head, self.preprocessing, self.class_names), batch_size=2, on_error="skip")

    def sharded(self, folder: Path) -> Parquet:
        """Writes the rows to the working folder, if they are not there yet."""
        rows = folder / _ROWS
        if not rows.exists():
            unfinished = folder / f"{_ROWS}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            packed = self._dataset.select_columns([name for name in COLUMNS if name in self._types]).map_batches(
                _pack, batch_format="numpy"
            )
            packed.context.enable_progress_bars = False
            packed.context.execution_options.preserve_order = True
            with writing_to(folder, "nothing was done yet"):
                packed.write_parquet(str(unfinished), row_group_size=_STORED_GROUP_ROWS, write_page_checksum=True)
                unfinished.rename(rows)
        return Parquet(rows, self.preprocessing, self.class_names, self._shard_rows)

    @cached_property
    def _head(self) -> dict[str, np.ndarray]:
        """The first two rows."""
        batch = self._dataset.take_batch(2, batch_format="numpy")
        return {**batch, "index": np.arange(len(batch["label"]))}


def _pack(rows: dict[str, np.ndarray]) -> Any:
    """Turns rows into a table in which each image is the bytes of a file: its own, or a .npy file."""
    import pyarrow as pa

    columns = {name: pa.array(column.tolist()) for name, column in rows.items() if name != "image"}
    return pa.table({"image": pa.array([_as_bytes(image) for image in rows["image"]], pa.large_binary()), **columns})


def _as_bytes(image: Any) -> bytes | None:
    """Returns an image as the bytes of a file: unchanged if it is encoded, else as .npy."""
    image = plain(image)
    if image is None or isinstance(image, bytes):
        return image
    content = io.BytesIO()
    np.save(content, np.asarray(image), allow_pickle=False)
    return content.getvalue()


def _check_columns(names: list[str]) -> None:
    """Checks that there are the columns ``image`` and ``label``."""
    missing = [name for name in ("image", "label") if name not in names]
    if missing:
        raise LookalikeError(
            f"the data have no column {missing[0]!r}, but {', '.join(names) or 'none at all'}; "
            "rename what holds the images to 'image' and their classes to 'label'"
        )


def open_source(
    data: Any, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
) -> Source:
    """Returns the source for the kind of data given.

    Raises:
        LookalikeError: If a cluster cannot read such data, or an image folder comes without a preprocessing.
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
    samples = data.train if isinstance(data, DataBundle) else data
    if isinstance(samples, Dataset) and hasattr(samples, "__len__"):
        return MapStyle(data, shard_rows)
    raise LookalikeError(
        f"a cluster cannot read samples from a {type(data).__name__}; give a folder with a sub-folder per class, a "
        "Parquet file or a folder of such, a ray.data.Dataset, or a map-style torch Dataset of (x, y)"
    )


def parquet_files(root: Path) -> list[Path]:
    """Returns a Parquet file, or the Parquet files in a folder, in the order of their names."""
    if root.is_file():
        return [root]
    return sorted(path for path in root.glob("*.parquet") if not path.name.startswith((".", "_")))
