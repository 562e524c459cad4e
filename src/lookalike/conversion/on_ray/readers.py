"""Readers turn a job's rows into samples (x, y), on the actor that embeds them."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from typing_extensions import override

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.conversion.on_ray.row_groups import Group, join_rows, read_group, take_rows
from lookalike.conversion.on_ray.shards import IndexSet
from lookalike.data import ImageFiles, Preprocessing

_NPY = b"\x93NUMPY"  # what a .npy file begins with


class Reader(ABC):
    """Turns rows into a data set of (x, y). It is sent to every actor."""

    def read(self, job: Any) -> Iterator[dict[str, np.ndarray]]:
        """Yields the rows of each shard of a job, as columns. By default, a job is the rows of one shard."""
        yield job

    @abstractmethod
    def open(self, rows: dict[str, np.ndarray]) -> Any:
        """Returns a map-style data set of the rows, in their order."""


@dataclass(frozen=True)
class FileReader(Reader):
    """Reads image files as ``ImageFiles`` does; rows have ``path`` and ``label``."""

    preprocessing: Preprocessing

    @override
    def open(self, rows: dict[str, np.ndarray]) -> ImageFiles:
        labels = rows["label"]
        # placeholders: only the driver knows the names of the classes
        class_names = [str(k) for k in range(int(labels.max(initial=-1)) + 1)]
        return ImageFiles(Path(), [Path(path) for path in rows["path"]], labels, class_names, self.preprocessing)


@dataclass(frozen=True)
class DatasetReader(Reader):
    """Reads samples of a map-style data set; rows have ``index``."""

    dataset: Any

    @override
    def open(self, rows: dict[str, np.ndarray]) -> Subset[Any]:
        return Subset(self.dataset, rows["index"].tolist())


@dataclass(frozen=True)
class RowReader(Reader):
    """Reads images that are in the rows themselves; rows have ``index``, ``image`` and ``label``.

    Attributes:
        preprocessing: Preprocessing of the images.
        class_names: Class names, if labels are texts.
        shard_rows: Largest number of rows of a shard.
        stored: Indices of rows that are in shards already and are left out.
    """

    preprocessing: Preprocessing | None
    class_names: Sequence[str] | None
    shard_rows: int
    stored: IndexSet

    def read(self, job: Sequence[Group]) -> Iterator[dict[str, np.ndarray]]:
        """Yields the rows of some row groups that are not in shards yet, one shard at a time."""
        waiting = join_rows([])
        for rows in chain.from_iterable(map(read_group, job)):
            waiting = join_rows([waiting, take_rows(rows, ~self.stored(rows["index"]))])
            while len(waiting["index"]) >= self.shard_rows:
                yield take_rows(waiting, slice(self.shard_rows))
                waiting = take_rows(waiting, slice(self.shard_rows, None))
        if len(waiting["index"]):
            yield waiting

    @override
    def open(self, rows: dict[str, np.ndarray]) -> "ImageRows":
        return ImageRows(rows, self.preprocessing, self.class_names)


class ImageRows(Dataset[Any]):
    """A data set of images in columns.

    An image is an encoded file, uint8 pixels [H, W] or [H, W, C], or the network's input as floats. Arrays may also be
    given as the bytes of a .npy file.
    """

    def __init__(
        self,
        rows: dict[str, np.ndarray],
        preprocessing: Preprocessing | None,
        class_names: Sequence[str] | None,
    ) -> None:
        self.rows = rows
        self.transform = preprocessing
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.rows["label"])

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        image, label = self.rows["image"][position], self.rows["label"][position]
        image = plain(image)
        if isinstance(image, bytes) and image.startswith(_NPY):
            image = np.load(io.BytesIO(image), allow_pickle=False)
        if isinstance(image, bytes | bytearray | memoryview):
            return self._decode(bytes(image), position), self._number(label, position)
        if image is None:
            raise BrokenImageError(self.describe(position), "it is empty")
        array = np.asarray(image)
        if np.issubdtype(array.dtype, np.integer) and self.transform is not None:
            return self.transform(array), self._number(label, position)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(np.array(array)), self._number(label, position)

    def describe(self, position: int) -> str:
        """Names a row."""
        return f"sample {int(self.rows['index'][position])}"

    def _decode(self, content: bytes, position: int) -> torch.Tensor:
        """Decodes and preprocesses an encoded image."""
        if self.transform is None:
            raise LookalikeError("the images need preparing: say what the network takes with preprocessing=")
        try:
            return self.transform.read(io.BytesIO(content))
        except BrokenImageError as error:
            raise BrokenImageError(self.describe(position), error.reason) from error

    def _number(self, label: Any, position: int) -> int:
        """Returns the class number of a label, which may be a class name."""
        if not isinstance(label, str):
            return int(label)
        if not self.class_names:
            raise LookalikeError(
                f"the labels are texts, such as {label!r}: say which classes there are with class_names="
            )
        if label not in self.class_names:
            raise LookalikeError(f"{self.describe(position)} has the label {label!r}, which is none of class_names")
        return self.class_names.index(label)


def plain(image: Any) -> Any:
    """Returns an image's encoded bytes, or its array of numbers, or None."""
    if isinstance(image, dict):  # as Hugging Face writes images
        image = image.get("bytes")
    return np.asarray(image.tolist()) if isinstance(image, np.ndarray) and image.dtype == object else image


class ByIndex(Dataset[Any]):
    """Some samples of a data set, accessed by their indices in the whole data set."""

    def __init__(self, rows: Any, indices: np.ndarray) -> None:
        self._rows = rows
        self._positions = {int(index): position for position, index in enumerate(indices)}

    def __len__(self) -> int:
        return max(self._positions, default=-1) + 1

    def __getitem__(self, index: int) -> Any:
        return self._rows[self._positions[int(index)]]
