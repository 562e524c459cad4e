"""The kinds of data that a cluster converts, each as jobs that become shards, and as samples to look at again."""

import hashlib
import io
import shutil
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

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
from lookalike.conversion.on_ray.shards import Known, Shard, known_indices, shard_name
from lookalike.data import Batches, DataBundle, Preprocessing, load_folder
from lookalike.data.identity import content_keys
from lookalike.model.images import preprocessing_of

_ROWS = "rows"
_STORED_GROUP_ROWS = 512


class Source(ABC):
    """Data of one kind, as they are given.

    Attributes:
        class_names: As the data tell them, or None.
        preprocessing: What the images go through, where that is known.
    """

    class_names: list[str] | None = None
    preprocessing: Preprocessing | None = None

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes when the data do."""

    def transform_fingerprint(self) -> str:
        """Returns a SHA-256 of what the images go through; see ``Batches.transform_fingerprint``."""
        return self.first().transform_fingerprint()

    @abstractmethod
    def first(self) -> Batches:
        """Returns a few rows, to cut the classifier with."""

    @abstractmethod
    def sharded(self, folder: Path) -> "Sharded":
        """Returns the data as jobs; what has to be written for that goes to a working folder, once."""


class Sharded(Source):
    """Data of which it is known what is to be read for which shards.

    Attributes:
        total: How many rows there are.
        may_repeat: Whether two shards could tell of the same row.
    """

    total: int
    may_repeat = False

    def sharded(self, folder: Path) -> "Sharded":  # noqa: ARG002, D102
        return self

    @abstractmethod
    def left(self, shards: list[Shard]) -> tuple[Reader, list[Any]]:
        """Returns what is not in the shards yet: who reads it, and the jobs in brief."""

    @abstractmethod
    def job(self, brief: Any) -> Any:
        """Returns a job as the reader takes it."""

    @abstractmethod
    def fetch(self, indices: np.ndarray) -> Batches:
        """Returns data that can be asked for these samples by index."""


class MapStyle(Sharded):
    """A map-style data set of (x, y), or the training part of a ``DataBundle``."""

    def __init__(self, dataset: Any, shard_rows: int) -> None:
        self.batches = Batches(dataset)
        self.preprocessing = preprocessing_of(self.batches)
        self.class_names = self.batches.class_names
        self.total = len(self.batches)
        self._reader: Reader = DatasetReader(self.batches.dataset)
        self._shard_rows = shard_rows

    def fingerprint(self) -> str:  # noqa: D102
        return self.batches.fingerprint()

    def transform_fingerprint(self) -> str:  # noqa: D102
        return self.batches.transform_fingerprint()

    def first(self) -> Batches:  # noqa: D102
        return Batches(self.batches.dataset, batch_size=2, on_error="skip")

    def fetch(self, indices: np.ndarray) -> Batches:  # noqa: ARG002, D102
        return self.batches

    def left(self, shards: list[Shard]) -> tuple[Reader, list[range]]:
        """Returns a reader, and the numbers of the samples of each shard that is missing."""
        present, size = {shard.path.name for shard in shards}, self._shard_rows
        spans = [range(start, min(start + size, self.total)) for start in range(0, self.total, size)]
        return self._reader, [span for span in spans if shard_name(np.arange(span.start, span.stop)) not in present]

    def job(self, brief: range) -> dict[str, np.ndarray]:
        """Returns some samples' columns."""
        return {"index": np.arange(brief.start, brief.stop)}


class Folder(MapStyle):
    """The training part of a folder with one sub-folder per class."""

    def __init__(self, root: Path, preprocessing: Preprocessing, shard_rows: int) -> None:
        bundle = load_folder(root, preprocessing)
        self.files: Any = bundle.train
        super().__init__(bundle, shard_rows)
        self._reader = FileReader(preprocessing)

    def job(self, brief: range) -> dict[str, np.ndarray]:  # noqa: D102
        paths = np.array([str(self.files.files[index].resolve()) for index in brief])
        return {**super().job(brief), "path": paths, "label": self.files.labels[brief.start : brief.stop]}


class Parquet(Sharded):
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

        Of a file above a megabyte its size, its beginning and 16 blocks are read, the footer among them.
        """
        keys = content_keys(self._files).tolist()
        listing = [[file.name, key] for file, key in zip(self._files, keys, strict=True)]
        return fingerprint_json(["parquet", listing, [group[1:] for group in self._groups]])

    def first(self) -> Batches:  # noqa: D102
        head = take_rows(next(read_group(self._groups[0])), slice(2))
        return Batches(self._samples(head), batch_size=2, on_error="skip")

    def left(self, shards: list[Shard]) -> tuple[Reader, list[list[Group]]]:
        """Returns a reader of the rows that are in no shard yet, and the row groups of about a shard each."""
        known = known_indices(shards)
        reader = RowReader(self.preprocessing, self.class_names, self._shard_rows, known)
        briefs: list[list[Group]] = []
        if known.count == self.total:
            return reader, briefs
        room = 0
        for group in self._groups:
            if self._is_known(group, known):
                continue
            if room < group.rows:
                briefs.append([])
                room = self._shard_rows
            briefs[-1].append(group)
            room -= group.rows
        return reader, briefs

    def job(self, brief: list[Group]) -> list[Group]:  # noqa: D102
        return brief

    def fetch(self, indices: np.ndarray) -> Batches:
        """Returns data that can be asked for these samples by index; tasks look for them in the files."""
        import ray

        groups = self._groups
        if "index" not in self._columns:
            starts = np.array([group.start for group in groups])
            groups = [groups[g] for g in np.unique(np.searchsorted(starts, indices, side="right") - 1)]
        task, wanted = as_task(find_rows), ray.put(indices)
        found = [task.remote(portion, wanted) for portion in portions(groups)]
        rows = join_rows([result_of(reference) for reference in found])
        return Batches(ByIndex(self._samples(rows), rows["index"]))

    def _samples(self, rows: dict[str, np.ndarray]) -> ImageRows:
        return ImageRows(rows, self.preprocessing, self.class_names)

    def _is_known(self, group: Group, known: Known) -> bool:
        if "index" in self._columns:
            return False  # its rows' numbers are known only when they are read
        return bool(known(np.arange(group.start, group.start + group.rows)).all())


class Table(Source):
    """A Ray dataset with the columns ``image`` and ``label``, and perhaps ``index``.

    Ray writes its rows to Parquet first: they then have numbers, and an actor that is lost while it embeds them leaves
    nothing behind that only Ray's own memory could tell.
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

        A Ray dataset tells no more of itself before it is read.
        """
        images = [hashlib.sha256(_as_bytes(image) or b"").hexdigest() for image in self._head["image"]]
        return fingerprint_json(["ray", self._types, [str(label) for label in self._head["label"]], images])

    def first(self) -> Batches:  # noqa: D102
        return Batches(ImageRows(self._head, self.preprocessing, self.class_names), batch_size=2, on_error="skip")

    def sharded(self, folder: Path) -> Parquet:
        """Writes the rows to a working folder, if they are not there yet."""
        rows = folder / _ROWS
        if not rows.exists():
            part = folder / f"{_ROWS}.part"
            shutil.rmtree(part, ignore_errors=True)
            packed = self._dataset.select_columns([name for name in COLUMNS if name in self._types]).map_batches(
                _pack, batch_format="numpy"
            )
            packed.context.enable_progress_bars = False
            packed.context.execution_options.preserve_order = True
            with writing_to(folder, "nothing was done yet"):
                packed.write_parquet(str(part), row_group_size=_STORED_GROUP_ROWS, write_page_checksum=True)
                part.rename(rows)
        return Parquet(rows, self.preprocessing, self.class_names, self._shard_rows)

    @cached_property
    def _head(self) -> dict[str, np.ndarray]:
        batch = self._dataset.take_batch(2, batch_format="numpy")
        return {**batch, "index": np.arange(len(batch["label"]))}


def _pack(rows: dict[str, np.ndarray]) -> Any:
    """Makes a table of rows, with images as the bytes of files: those that they have, or .npy."""
    import pyarrow as pa

    columns = {name: pa.array(column.tolist()) for name, column in rows.items() if name != "image"}
    return pa.table({"image": pa.array([_as_bytes(image) for image in rows["image"]], pa.large_binary()), **columns})


def _as_bytes(image: Any) -> bytes | None:
    image = plain(image)
    if image is None or isinstance(image, bytes):
        return image
    content = io.BytesIO()
    np.save(content, np.asarray(image), allow_pickle=False)
    return content.getvalue()


def _check_columns(names: list[str]) -> None:
    missing = [name for name in ("image", "label") if name not in names]
    if missing:
        raise LookalikeError(
            f"the data have no column {missing[0]!r}, but {', '.join(names) or 'none at all'}; "
            "rename what holds the images to 'image' and their classes to 'label'"
        )


def open_source(
    data: Any, preprocessing: Preprocessing | None, class_names: list[str] | None, shard_rows: int
) -> Source:
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
    samples = data.train if isinstance(data, DataBundle) else data
    if isinstance(samples, Dataset) and hasattr(samples, "__len__"):
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
