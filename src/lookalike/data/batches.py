"""Reads any kind of data in batches; each batch knows the numbers of its samples."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lookalike._core import checks
from lookalike._core.errors import BrokenImageError, LookalikeError, warn_of
from lookalike._core.identity import current_scheme, identify_array, identify_json, identify_tensors
from lookalike.data.bundle import DataBundle, Split
from lookalike.data.class_names import class_names_of
from lookalike.data.fingerprints import fingerprint_data, fingerprint_first, fingerprint_transform
from lookalike.data.fitted import FittedSamples, are_bytes, stack_bytes
from lookalike.data.given import as_arrays, check_begins_anew, is_map_style
from lookalike.data.nvjpeg import OnDevice, decoding_on
from lookalike.data.parallel import Item, in_processes, in_threads, n_processes_for
from lookalike.data.prebatched import peek, unbatched
from lookalike.data.sampled_rows import rows_drawn_by
from lookalike.data.samples import (
    as_labels,
    as_read,
    as_tensor,
    check_rows,
    collate_samples,
    describe_sample,
    name_of_sample,
    next_items,
    read_sample,
    split_item,
    take_rows,
    whole_data_set,
)

_DEFAULT_BATCH = 256

Inputs = Any  # a tensor [n, ...], or a tuple or mapping of such


@dataclass(frozen=True)
class Batch:
    """A batch of n samples.

    Attributes:
        inputs: The network's input: a tensor [n, ...], or a tuple or mapping of tensors.
        labels: [n], int64.
        indices: The samples' numbers in the data [n].
        read: Number of samples read so far in this pass, unreadable ones included. ``Batches.starting_at`` resumes
            from it.
        finish: Turns ``inputs``, images as bytes [n, C, H, W], into the network's input; None if they are ready.
    """

    inputs: Inputs
    labels: np.ndarray
    indices: np.ndarray
    read: int = 0
    finish: Callable[[Tensor], Tensor] | None = None

    def finished(self) -> "Batch":
        """Returns the batch with its images normalised."""
        return self if self.finish is None else replace(self, inputs=self.finish(self.inputs), finish=None)

    def pin_memory(self) -> "Batch":
        """Returns the batch with its inputs in pinned memory, for faster copies to a GPU; ``DataLoader`` calls this."""
        return replace(
            self,
            inputs=tree_map(
                lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) and not leaf.is_cuda else leaf, self.inputs
            ),
        )


class Batches:
    """Reads data of any supported kind in batches, in a fixed order.

    Args:
        data: A map-style or iterable ``Dataset`` of (x, y) or of mappings with ``pixel_values`` and ``label``; a
            ``DataLoader``, of which the data set, the collation, the workers and a subset sampler are used, but not
            shuffling or weighting; a ``DataLoader`` with ``batch_size=None`` or an iterable data set that yields
            whole batches; (x, y) tensors or arrays; or a ``DataBundle``, of which the training part is read.
        batch_size: Largest number of rows in a batch; None takes the loader's own, or 256.
        num_workers: Number of worker processes; None takes the loader's own, or 0. Image files of this package are
            read in as many threads instead; None takes one per core, at most 8. Only for a GPU, processes read many
            files.
        on_error: What to do with an image file that cannot be read: ``"stop"`` raises an error, ``"skip"`` continues
            and lists the file in ``skipped``.
        decode_on: A CUDA device on which plain JPEG files are decoded; see ``lookalike.data.nvjpeg``. None decodes all
            files on the CPU.

    Attributes:
        skipped: Error messages of the samples that could not be read in the current pass, by index.
        class_names: The data set's class names by label, or None if it has none.
        split: How the ``DataBundle`` was split into training and test part; None for other data.

    Raises:
        LookalikeError: If the data are of none of these kinds.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        *,
        decode_on: str | torch.device | None = None,
    ) -> None:
        checks.one_of("on_error", on_error, ("stop", "skip"))
        batch_size = checks.optional(checks.whole_number, "batch_size", batch_size, 1)
        num_workers = checks.optional(checks.whole_number, "num_workers", num_workers, 0)
        self.split: Split | None = None
        given = data
        if isinstance(data, DataBundle):
            self.split, data = data.split, data.train
        self.skipped: dict[int, str] = {}
        self._first_fingerprints: dict[str, list[str] | None] = {}
        self.on_error = on_error
        self._collate: Callable[[list[Any]], Any] = default_collate
        self._rows: np.ndarray | None = None
        self._yields_batches = False  # True for a stream of whole batches, whose length would count batches
        self.class_names: list[str] | None = None
        names_of_source: list[str] | None = None
        if isinstance(data, DataLoader):
            batch_size = data.batch_size if batch_size is None else batch_size
            num_workers = data.num_workers if num_workers is None else num_workers
            if data.batch_sampler is None:  # batch_size=None: the data set yields whole batches
                names_of_source = class_names_of(data.dataset)  # which the wrappers would not pass on
                data, self._rows = unbatched(data)
            else:
                self._collate = data.collate_fn
                self._rows = rows_drawn_by(data)
                data = data.dataset
        self.batch_size = _DEFAULT_BATCH if batch_size is None else batch_size
        # A loader's 0 is its default, and says nothing about threads.
        self._asked_workers = num_workers if num_workers or not isinstance(given, DataLoader) else None
        self.num_workers = num_workers or 0
        self._arrays = as_arrays(data)
        if self._arrays is not None:
            self.class_names = self._arrays[2]
        elif not isinstance(data, IterableDataset) and not is_map_style(data):
            raise LookalikeError(
                f"cannot read samples from a {type(data).__name__}; give a Dataset or DataLoader of (x, y), "
                "a pair (x, y) of tensors or arrays, or of a folder lookalike.data.load_folder(folder, preprocessing)"
            )
        else:
            self.class_names = class_names_of(data) if names_of_source is None else names_of_source
        if isinstance(data, IterableDataset):
            check_begins_anew(data)
        self.dataset = data
        self._on_device: OnDevice | None = None
        if decode_on is not None:
            self._on_device = decoding_on(decode_on, self._fitted)

    def __len__(self) -> int:
        """The number of samples; raises TypeError for an iterable data set without a length."""
        if self._rows is not None:
            return len(self._rows)
        if self._arrays is not None:
            return len(self._arrays[1])
        return len(self.dataset)

    @property
    def total(self) -> int | None:
        """The number of samples, or None when it is not known."""
        try:
            return None if self._yields_batches else len(self)
        except TypeError:
            return None

    @property
    def labels_if_known(self) -> np.ndarray | None:
        """The labels of all samples [N], where they are at hand without reading the samples; else None."""
        if self._arrays is not None:
            return as_labels(self._arrays[1])
        labels = getattr(self.dataset, "labels", None)
        return labels if isinstance(labels, np.ndarray) and labels.ndim == 1 else None

    @property
    def can_fetch(self) -> bool:
        """Whether single samples can be read again."""
        return not isinstance(self.dataset, IterableDataset)

    def __iter__(self) -> Iterator[Batch]:
        return self.starting_at(0)

    def starting_at(self, start: int) -> Iterator[Batch]:
        """Yields the batches from sample ``start`` on; ``start`` is the ``read`` of an earlier pass's last batch."""
        return (batch.finished() for batch in self.unfinished_from(start))

    def unfinished_from(self, start: int, *, for_gpu: bool = False) -> Iterator[Batch]:
        """Yields the batches from sample ``start`` on; images come as bytes where the data allow it.

        ``Batch.finish`` normalises such images, after they were moved to the network's device: bytes take a quarter of
        the memory and of the time on the way.

        Args:
            start: Number of the first sample.
            for_gpu: A GPU computes with them, so that the processor's cores are free: many files are read in worker
                processes, and images as bytes are put into pinned memory.
        """
        self.skipped.clear()
        if self._arrays is not None:
            return self._read_arrays(*self._arrays[:2], start)
        if isinstance(self.dataset, IterableDataset):
            return self._read_stream(self.dataset, start)
        rows = np.arange(len(self.dataset)) if self._rows is None else self._rows
        if self._fitted is not None:
            return self._read_fitted(self._fitted, rows, start, for_gpu=for_gpu)
        return self._read_map_style(rows, start)

    @property
    def _fitted(self) -> FittedSamples | None:
        """The samples as bytes; None if the data set or its collation is not this package's own."""
        return None if self.has_own_collation else FittedSamples.of(self.dataset)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Inputs:
        """Returns the collated inputs of the samples with these indices, in the order of ``indices``.

        Raises:
            LookalikeError: If there are none, or single samples cannot be read.
        """
        if not len(indices):
            raise LookalikeError("no samples to read")
        if self._arrays is not None:
            return as_tensor(self._arrays[0][np.asarray(indices)])
        if not self.can_fetch:
            raise LookalikeError("an iterable data set cannot return single samples")
        fitted = FittedSamples.of(self.dataset)  # other data sets may not be read in threads
        n_threads = 0 if fitted is None else fitted.n_threads
        read = functools.partial(read_sample, self.dataset)
        samples = [sample for samples in in_threads(read, [np.asarray(indices)], n_threads) for sample in samples]
        return self._collate_checked(samples, int(indices[0]))[0]

    def describe(self, index: int) -> str:
        """Returns a sample's file name if it has one, else its number."""
        return describe_sample(self.dataset, int(index))

    def name_of(self, index: int) -> str | None:
        """Returns a sample's file name, or None if the data set has no names."""
        return name_of_sample(self.dataset, int(index))

    @property
    def rows(self) -> np.ndarray | None:
        """Indices of the samples that are read, in order; None for all samples of the data set."""
        return self._rows

    @property
    def is_array(self) -> bool:
        """Whether the data are a pair of tensors or arrays."""
        return self._arrays is not None

    @property
    def has_own_collation(self) -> bool:
        """Whether the data are a loader with its own ``collate_fn``, which may also transform the samples."""
        return self._collate is not default_collate

    def fetch_sample(self, index: int) -> tuple[Inputs, int]:
        """Returns one sample's inputs, collated, and its label.

        Raises:
            LookalikeError: If it cannot be read.
        """
        inputs, labels = self._collate_checked([read_sample(self.dataset, index)], index)
        return inputs, int(labels[0])

    @property
    def may_be_read_in_threads(self) -> bool:
        """Whether several threads may read the data at once: arrays in memory, and files that this package reads."""
        return self._arrays is not None or self._fitted is not None

    def is_random(self) -> bool:
        """Whether reading the same sample twice gives different inputs, as with random augmentation."""
        if self.may_be_read_in_threads or not self.can_fetch or not len(self):
            return False
        return self.first_fingerprints is None

    def warn_if_random(self) -> None:
        """Warns that embeddings of the data would be as random as their augmentation."""
        if self.is_random():
            warn_of(
                "reading the same sample twice gives different inputs: the data are augmented at random, and the "
                "embeddings with them; use the transform without augmentation"
            )

    @property
    def first_fingerprints(self) -> list[str] | None:
        """Fingerprints of the first four samples; None if reading a sample twice gives different inputs."""
        scheme = current_scheme()
        if scheme not in self._first_fingerprints:
            self._first_fingerprints[scheme] = fingerprint_first(self)
        return self._first_fingerprints[scheme]

    def transform_fingerprint(self) -> str:
        """Returns a fingerprint of the samples' transform, the same in every process.

        For a ``Preprocessing`` it is computed from the settings. For any other transform it is computed from the first
        four transformed samples, because a function's name or address does not say what the function does.
        """
        return ("nvjpeg:" if self._on_device is not None else "") + fingerprint_transform(self)

    def fingerprint(self) -> str:
        """Returns a fingerprint that changes when the data do.

        A data set's own ``fingerprint()`` is used if it has one. Arrays, ``TensorDataset`` and the files of
        torchvision's folders are read completely. For other data sets the hash covers the length and up to 16 evenly
        spread samples; for a stream, only its type and length.
        """
        if self._arrays is not None:
            x, y = self._arrays[:2]
            return identify_json(["arrays", [identify_tensors({"x": as_tensor(x)}), identify_array(y)]])
        return fingerprint_data(self)

    def content_keys(self) -> np.ndarray | None:
        """Returns a hash of each sample's file content, sorted [N], int64; None if the data are not files."""
        dataset, rows = whole_data_set(self.dataset, self._rows)
        if rows is not None and hasattr(dataset, "select"):
            dataset = dataset.select(rows)
        keys = getattr(dataset, "content_keys", None)
        return np.sort(keys()) if callable(keys) else None

    def _read_arrays(self, x: Any, y: np.ndarray, first: int) -> Iterator[Batch]:
        for start in range(first, len(y), self.batch_size):
            rows = slice(start, start + self.batch_size)
            labels = y[rows]
            end = start + len(labels)
            yield Batch(as_tensor(x[rows]), labels, np.arange(start, end), end)

    def _read_stream(self, dataset: Any, first: int) -> Iterator[Batch]:
        start = 0
        dataset, yields_batches = peek(dataset)
        if yields_batches:
            yield from self._read_stream_of_batches(dataset, first)
            return
        options: dict[str, Any] = {"num_workers": 0, "collate_fn": list, "generator": torch.Generator()}
        loader = iter(DataLoader(dataset, self.batch_size, **options))
        while (items := next_items(loader, start)) is not None:
            end = start + len(items)
            if end > first:  # a stream cannot jump to sample `first`: earlier samples are read and dropped
                new_items = items[max(0, first - start) :]
                inputs, labels = self._collate_checked(new_items, end - len(new_items))
                yield Batch(inputs, labels, np.arange(end - len(new_items), end), end)
            start = end

    def _read_stream_of_batches(self, batches: IterableDataset[Any], first: int) -> Iterator[Batch]:
        self._yields_batches = True
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

    def _read_map_style(self, rows: np.ndarray, first: int) -> Iterator[Batch]:
        loader = DataLoader(
            _SamplesOrErrors(self.dataset, rows[first:]),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=self._collate_readable,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # seeds the workers, so that torch's global random state does not change
        )
        for n_batches, (batch, skipped, error) in enumerate(loader, 1):
            if error is not None:
                raise error
            self.skipped.update(skipped)
            # Each batch of the loader covers `batch_size` rows, also if some of them were skipped.
            if batch is not None:
                yield replace(batch, read=min(len(rows), first + n_batches * self.batch_size))

    def _read_fitted(self, samples: FittedSamples, rows: np.ndarray, first: int, *, for_gpu: bool) -> Iterator[Batch]:
        """Reads images as bytes, in threads or worker processes."""

        def read(index: int) -> Item:
            try:
                return index, as_read(lambda: samples.read(index), lambda: self.describe(index)), None
            except LookalikeError as error:
                return index, None, error

        n_threads = samples.n_threads if self._asked_workers is None else self._asked_workers
        are_files, n_left = samples.file is not None, len(rows) - first
        n_processes = n_processes_for(n_left, self._asked_workers) if for_gpu and are_files else 0
        chunks = [rows[start : start + self.batch_size] for start in range(first, len(rows), self.batch_size)]
        n_read = first
        if self._on_device is not None:
            chunks_of_items = self._on_device.items(read, chunks, n_threads)
        else:
            reader = functools.partial(in_processes if n_processes else in_threads, read, chunks)
            chunks_of_items = reader(n_processes or n_threads)
        for items in chunks_of_items:
            n_read += len(items)
            batch, skipped, error = self._collate_readable(items, pinned=for_gpu)
            if error is not None:
                raise error
            self.skipped.update(skipped)
            if batch is not None:
                yield replace(batch, read=n_read, finish=samples.finish)

    def _collate_readable(
        self, items: list[Any], pinned: bool = False
    ) -> tuple[Batch | None, dict[int, str], LookalikeError | None]:
        """Makes a batch of the samples that could be read; it may run in a worker process.

        It returns the package's errors and does not raise them: torch would raise an error from a worker again as
        another error, whose text is the worker's traceback.

        Args:
            items: (index, sample, error) per sample, from ``_SamplesOrErrors``.
            pinned: Put images as bytes into pinned memory.

        Returns:
            The batch, None if no sample could be read; the messages of the skipped samples by index; and the error
            that ends the pass, or None.
        """
        errors = {index: error for index, _, error in items if error is not None}
        fatal = next((error for error in errors.values() if not self._can_skip(error)), None)
        if fatal is not None:
            return None, {}, fatal
        skipped = {index: str(error) for index, error in errors.items()}
        samples = {index: sample for index, sample, error in items if error is None}
        if not samples:
            return None, skipped, None
        try:
            inputs, labels = self._collate_checked(list(samples.values()), next(iter(samples)), pinned)
        except LookalikeError as error:
            return None, {}, error
        return Batch(inputs, labels, np.asarray(list(samples))), skipped, None

    def _can_skip(self, error: LookalikeError) -> bool:
        return self.on_error == "skip" and isinstance(error, BrokenImageError)

    def _collate_checked(self, items: list[Any], first: int, pinned: bool = False) -> tuple[Inputs, np.ndarray]:
        """Collates samples, and checks that there is one label per row; ``first`` is the first sample's number."""
        if self._collate is default_collate and are_bytes(items):
            inputs, labels = stack_bytes(items, pinned=pinned)
        else:
            own = None if self._collate is default_collate else self._collate
            inputs, labels = collate_samples(items, first, own)
        values = as_labels(labels)
        check_rows(inputs, values, first)
        return inputs, values


class _SamplesOrErrors(Dataset[Any]):
    """Returns (index, sample, None), or (index, None, error) for a sample that cannot be read."""

    def __init__(self, dataset: Any, rows: np.ndarray) -> None:
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, Any, LookalikeError | None]:
        index = int(self.rows[position])
        try:
            return index, read_sample(self.dataset, index), None
        except LookalikeError as error:
            return index, None, error
