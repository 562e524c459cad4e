"""The one way from any kind of data to batches that remember which sample is which."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from lookalike._core import checks
from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.names import visible
from lookalike._core.provenance import fingerprint_array, fingerprint_json, fingerprint_tensors
from lookalike._core.untouched import random_states, undoing
from lookalike.data.bundle import DataBundle, Split
from lookalike.data.class_names import class_names_of
from lookalike.data.fingerprints import fingerprint_data, fingerprint_first, fingerprint_transform
from lookalike.data.images import one_line
from lookalike.data.ready import peek, unbatched
from lookalike.data.samples import as_labels, as_tensor, check_rows, collate_samples, label_array, split_item, take_rows

_DEFAULT_BATCH = 256

Inputs = Any  # a tensor [n, ...], or a tuple or mapping of such


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        inputs: What the network takes: a tensor [n, ...], or a tuple or mapping of tensors.
        labels: [n], int64.
        indices: Which samples of the data these are [n].
        read: How many samples have been read with them, those that could not be among them.
    """

    inputs: Inputs
    labels: np.ndarray
    indices: np.ndarray
    read: int = 0

    def pin_memory(self) -> "Batch":
        """Returns the same with inputs that a GPU can fetch by itself; a loader calls it."""
        return replace(
            self, inputs=tree_map(lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) else leaf, self.inputs)
        )


class Batches:
    """Reads data in a fixed order, whatever kind it is.

    Args:
        data: A map-style or iterable ``Dataset`` of (x, y) or of mappings with ``pixel_values`` and ``label``; a
            ``DataLoader`` (its data set, collation and workers are used, and a subset sampler, but no shuffling or
            weighting); one with ``batch_size=None``, or an iterable data set, that yields whole batches; (x, y)
            tensors or arrays; or a ``DataBundle`` (its training part).
        batch_size: The most rows in a batch; None takes the loader's own, or 256.
        num_workers: Worker processes; None takes the loader's own, or none.
        on_error: What to do about an image file that cannot be read: ``"stop"`` raises, ``"skip"`` goes on and
            lists it in ``skipped``.

    Attributes:
        skipped: Messages about the samples that could not be read, by index.
        class_names: As the data set tells them, or None.
        split: How the data came to be the training part of a ``DataBundle``; None for other data.

    Raises:
        LookalikeError: If the data are of no kind that it knows.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        checks.one_of("on_error", on_error, ("stop", "skip"))
        checks.optional(checks.whole_number, "batch_size", batch_size, 1)
        checks.optional(checks.whole_number, "num_workers", num_workers, 0)
        self.split: Split | None = None
        if isinstance(data, DataBundle):
            self.split, data = data.split, data.train
        self.skipped: dict[int, str] = {}
        self.on_error = on_error
        self._collate: Callable[[list[Any]], Any] = default_collate
        self._rows: np.ndarray | None = None
        self._has_batches = False  # of a stream: its length would count them
        self.class_names: list[str] | None = None
        if isinstance(data, DataLoader):
            batch_size = data.batch_size if batch_size is None else batch_size
            num_workers = data.num_workers if num_workers is None else num_workers
            if data.batch_sampler is None:  # batch_size=None: its data set makes the batches
                data, self._rows = unbatched(data)
            else:
                self._collate = data.collate_fn
                self._rows = _rows_of(data)
                data = data.dataset
        self.batch_size = _DEFAULT_BATCH if batch_size is None else batch_size
        self.num_workers = num_workers or 0
        self._arrays = _as_arrays(data)
        if self._arrays is not None:
            self.class_names = self._arrays[2]
        elif not isinstance(data, IterableDataset) and not _is_map_style(data):
            raise LookalikeError(
                f"cannot read samples from a {type(data).__name__}; give a Dataset or DataLoader of (x, y), "
                "or a pair (x, y) of tensors or arrays"
            )
        else:
            self.class_names = class_names_of(data)
        self.dataset = data

    def __len__(self) -> int:
        """The number of samples; raises TypeError for an iterable data set that does not know."""
        if self._rows is not None:
            return len(self._rows)
        if self._arrays is not None:
            return len(self._arrays[1])
        return len(self.dataset)

    @property
    def total(self) -> int | None:
        """The number of samples, or None when it is not known."""
        try:
            return None if self._has_batches else len(self)
        except TypeError:
            return None

    @property
    def can_fetch(self) -> bool:
        """Whether single samples can be read again."""
        return not isinstance(self.dataset, IterableDataset)

    def __iter__(self) -> Iterator[Batch]:
        return self.starting_at(0)

    def starting_at(self, start: int) -> Iterator[Batch]:
        """Reads on from where an earlier pass has come to: from a batch's ``read``."""
        self.skipped.clear()
        if self._arrays is not None:
            return self._slices(*self._arrays[:2], start)
        if isinstance(self.dataset, IterableDataset):
            return self._stream(self.dataset, start)
        return self._load(np.arange(len(self.dataset)) if self._rows is None else self._rows, start)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Inputs:
        """Returns the inputs of some samples, collated, in the order asked for."""
        if self._arrays is not None:
            return as_tensor(self._arrays[0][np.asarray(indices)])
        if not self.can_fetch:
            raise LookalikeError("an iterable data set cannot be asked for single samples")
        samples = [_read(self.dataset, int(index)) for index in indices]
        return self._stack(samples, int(indices[0]))[0]

    def describe(self, index: int) -> str:
        """Names a sample: its file where there is one, else its number."""
        return _describe(self.dataset, int(index))

    @property
    def rows(self) -> np.ndarray | None:
        """Which samples of the data set are read, in order; None for all of them."""
        return self._rows

    @property
    def is_array(self) -> bool:
        """Whether the data are a pair of tensors or arrays."""
        return self._arrays is not None

    @property
    def has_own_collation(self) -> bool:
        """Whether a loader's own function puts samples together, which may do anything to them."""
        return self._collate is not default_collate

    def fetch_sample(self, index: int) -> tuple[Inputs, int]:
        """Returns one sample's inputs, collated, and its label.

        Raises:
            LookalikeError: If it cannot be read.
        """
        inputs, labels = self._stack([_read(self.dataset, index)], index)
        return inputs, int(labels[0])

    def is_random(self) -> bool:
        """Whether reading the same sample twice gives different inputs, as augmentation does."""
        if self._arrays is not None or not self.can_fetch or not len(self):
            return False
        return self.first_fingerprints is None

    @cached_property
    def first_fingerprints(self) -> list[str] | None:
        """Fingerprints of the first four samples; None if reading one again gives other inputs."""
        return fingerprint_first(self)

    def transform_fingerprint(self) -> str:
        """Returns a SHA-256 of what the samples go through, the same in every process.

        A ``Preprocessing`` is told by its settings, any other transform by what it turns the first four samples
        into: of functions and other objects neither name nor address says what they do.
        """
        return fingerprint_transform(self)

    def fingerprint(self) -> str:
        """Returns a SHA-256 that changes when the data do.

        A data set's own ``fingerprint()`` is used where it has one; arrays, ``TensorDataset`` and the files of
        torchvision's folders are read whole; of other data sets the length and up to 16 samples, evenly spread, stand
        for all; of a stream no more than its type and length.
        """
        if self._arrays is not None:
            x, y = self._arrays[:2]
            parts = [fingerprint_tensors({"x": as_tensor(x)}), fingerprint_array(y)]
            return fingerprint_json(["arrays", parts])
        return fingerprint_data(self)

    def content_keys(self) -> np.ndarray | None:
        """Returns a number for each sample's file, by its bytes, sorted [N], int64; None where there are no files."""
        dataset, rows = self.dataset, self._rows
        while isinstance(dataset, Subset):
            indices = np.asarray(dataset.indices, dtype=np.int64)
            dataset, rows = dataset.dataset, indices if rows is None else indices[rows]
        if rows is not None and hasattr(dataset, "select"):
            dataset = dataset.select(rows)
        keys = getattr(dataset, "content_keys", None)
        return np.sort(keys()) if callable(keys) else None

    def _slices(self, x: Any, y: np.ndarray, first: int) -> Iterator[Batch]:
        for start in range(first, len(y), self.batch_size):
            rows = slice(start, start + self.batch_size)
            labels = y[rows]
            end = start + len(labels)
            yield Batch(as_tensor(x[rows]), labels, np.arange(start, end), end)

    def _stream(self, dataset: Any, first: int) -> Iterator[Batch]:
        start = 0
        dataset, has_batches = peek(dataset)
        if has_batches:
            yield from self._as_they_come(dataset, first)
            return
        options: dict[str, Any] = {"num_workers": 0, "collate_fn": list, "generator": torch.Generator()}
        loader = iter(DataLoader(dataset, self.batch_size, **options))
        while (items := _next_items(loader, start)) is not None:
            end = start + len(items)
            if end > first:  # what was done before cannot be left out of a stream, only let pass
                wanted = items[max(0, first - start) :]
                inputs, labels = self._stack(wanted, end - len(wanted))
                yield Batch(inputs, labels, np.arange(end - len(wanted), end), end)
            start = end

    def _as_they_come(self, batches: IterableDataset[Any], first: int) -> Iterator[Batch]:
        """Reads a stream of whole batches."""
        self._has_batches = True
        start = 0
        for batch in batches:
            inputs, labels = split_item(batch, start)
            labels = as_labels(labels)
            check_rows(inputs, labels, start)
            end = start + len(labels)
            if end > first:
                rows = slice(max(0, first - start), None)
                yield Batch(take_rows(inputs, rows), labels[rows], np.arange(start + rows.start, end), end)
            start = end

    def _load(self, rows: np.ndarray, first: int) -> Iterator[Batch]:
        guarded = _Guarded(self.dataset, rows[first:])
        loader = DataLoader(
            guarded,
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=self._gather,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # workers are seeded by it, and not by the global one
        )
        for number, (batch, broken, error) in enumerate(loader, 1):
            if error is not None:
                raise error
            self.skipped.update(broken)
            if batch is not None:
                yield replace(batch, read=min(len(rows), first + number * self.batch_size))

    def _gather(self, items: list[Any]) -> tuple[Batch | None, dict[int, str], LookalikeError | None]:
        """Makes a batch of samples, in a worker where there are any.

        The package's errors are returned, not raised: torch would raise them again as another error, whose text is
        the worker's traceback.
        """
        broken = {index: error for index, _, error in items if error is not None}
        fatal = next((error for error in broken.values() if not self._can_skip(error)), None)
        if fatal is not None:
            return None, {}, fatal
        skipped = {index: str(error) for index, error in broken.items()}
        kept = [(index, item) for index, item, error in items if error is None]
        if not kept:
            return None, skipped, None
        try:
            inputs, labels = self._stack([item for _, item in kept], kept[0][0])
        except LookalikeError as error:
            return None, {}, error
        return Batch(inputs, labels, np.asarray([index for index, _ in kept])), skipped, None

    def _can_skip(self, error: LookalikeError) -> bool:
        return self.on_error == "skip" and isinstance(error, BrokenImageError)

    def _stack(self, items: list[Any], first: int) -> tuple[Inputs, np.ndarray]:
        inputs, labels = collate_samples(items, first, None if self._collate is default_collate else self._collate)
        values = as_labels(labels)
        check_rows(inputs, values, first)
        return inputs, values


class _Guarded(Dataset[Any]):
    """Returns (index, sample, None), or (index, None, error) for a sample that cannot be read."""

    def __init__(self, dataset: Any, rows: np.ndarray) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, Any, LookalikeError | None]:
        index = int(self.rows[position])
        try:
            return index, _read(self.dataset, index), None
        except LookalikeError as error:
            return index, None, error


def _read(dataset: Any, index: int) -> Any:
    """Returns a sample.

    Raises:
        LookalikeError: If it cannot be read; other errors are mistakes in the data set's code.
    """
    try:
        return dataset[index]
    except Exception as error:
        known = as_read_error(error, lambda: _describe(dataset, index))
        if known is None or known is error:
            raise
        raise known from error


def _next_items(items: Iterator[list[Any]], start: int) -> list[Any] | None:
    """Returns the next samples of a stream, None at its end.

    Raises:
        BrokenImageError: If an image cannot be read; a stream cannot go on after it.
    """
    try:
        return next(items, None)
    except Exception as error:
        known = as_read_error(error, lambda: f"of the stream, sample {start} or later")
        if known is None or known is error:
            raise
        raise known from error


def as_read_error(error: Exception, describe: Callable[[], str]) -> LookalikeError | None:
    """Returns what reading a sample raised as an error of the package; None for a mistake in the data set's code.

    Args:
        error: What was raised.
        describe: Names the sample.
    """
    if isinstance(error, BrokenImageError):
        return error if error.path else BrokenImageError(describe(), error.reason)
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, OSError | SyntaxError | MemoryError) or _from_pillow(error):
        return BrokenImageError(describe(), one_line(error))
    return None


def _from_pillow(error: Exception) -> bool:
    """Says whether Pillow raised an error: its decoders raise any kind on damaged files, in other data sets too."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == "PIL"


def _describe(dataset: Any, index: int) -> str:
    """Names a sample by its file, where the data set tells it."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    describe, samples = getattr(dataset, "describe", None), getattr(dataset, "samples", None)
    if callable(describe):
        return visible(str(describe(index)))
    if isinstance(samples, list) and isinstance(samples[index], tuple) and isinstance(samples[index][0], str):
        return visible(str(samples[index][0]))  # torchvision's folders
    return f"sample {index}"


def _rows_of(loader: DataLoader[Any]) -> np.ndarray | None:
    """Returns which samples a loader draws, in the data set's order; None for all of them."""
    if isinstance(loader.dataset, IterableDataset):
        return None
    batches: Any = loader.batch_sampler
    sampler: Any = batches.sampler if type(batches) is BatchSampler else None
    if batches is None or isinstance(sampler, SequentialSampler | RandomSampler | WeightedRandomSampler):
        return None  # all of them: neither an order nor chance decides what a prototype stands for
    drawn = undoing(_states_of(sampler, batches), lambda: list(sampler) if sampler is not None else _flatten(batches))
    return np.unique(np.asarray(drawn, dtype=np.int64))


def _states_of(*samplers: Any) -> Callable[[], None]:
    """Records the random states that samplers draw from, their own among them; returns what puts them back."""
    restore_global = random_states()
    owners = [*samplers, *(getattr(sampler, "sampler", None) for sampler in samplers)]
    generators = [g for g in (getattr(owner, "generator", None) for owner in owners) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]

    def restore() -> None:
        restore_global()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return restore


def _flatten(sampler: BatchSampler | Any) -> list[int]:
    return [index for batch in sampler for index in batch]


def _is_map_style(data: Any) -> bool:
    return (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, Mapping | str | Tensor | np.ndarray)
    )


def _as_arrays(data: Any) -> tuple[Any, np.ndarray, list[str] | None] | None:
    """Recognises a pair (x, y) of tensors or arrays."""
    if not (isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0])):
        return None
    x, y = data
    if isinstance(data, tuple) and not isinstance(y, Tensor) and (isinstance(y, list) or hasattr(y, "__array__")):
        y = np.asarray(y)
    if not _is_array(y):
        return None
    if len(x) != len(y):
        raise LookalikeError(f"x has {len(x)} rows and y has {len(y)}")
    values = label_array(y)
    if values.dtype.kind in "US" or (values.dtype == object and all(isinstance(value, str) for value in values)):
        values = values.astype(str)
        names, values = np.unique(values, return_inverse=True)
        return x, values.astype(np.int64), [str(name) for name in names]
    return x, as_labels(values), None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0
