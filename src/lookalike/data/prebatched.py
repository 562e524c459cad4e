"""Data that come in whole batches: loaders with ``batch_size=None``, WebDataset's batched streams."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data._utils.collate import default_convert

from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import undoing
from lookalike.data.sampled_rows import draws_by_rule, rows_with_weight, save_random_states
from lookalike.data.samples import split_item

_COLOURS = 3


def unbatched(loader: DataLoader[Any]) -> tuple[Any, np.ndarray | None]:
    """Converts a loader with ``batch_size=None`` to a data set of single samples, or to a stream of batches.

    Returns:
        The data set or stream, and the indices of the samples that the loader draws; None for all samples.
    """
    dataset: Any = loader.dataset
    convert = None if loader.collate_fn is default_convert else loader.collate_fn
    if isinstance(dataset, IterableDataset):
        return (_Stream(dataset, convert) if convert else dataset), None
    # Four cases: a stream (above); a sampler of lists of indices, for which `dataset[[3, 7]]` is a batch; a sampler of
    # single indices, for which `dataset[3]` is a batch; and single samples that are merely not collated.
    drawn, rows = _draw(loader)
    if drawn and not isinstance(drawn[0], int | np.integer):  # the sampler yields lists of indices, one per batch
        return _SingleSamples(dataset, convert or _identity), np.unique(
            np.concatenate([np.asarray(list(indices)) for indices in drawn])
        )
    source = _Converted(dataset, convert) if convert else dataset
    first = int(drawn[0]) if drawn else 0
    if len(source) and _is_batch(source[first]):
        return _Stream(_BatchesInOrder(source, rows), None), None
    return source, rows


def peek(dataset: Any) -> tuple[IterableDataset[Any], bool]:
    """Looks at the first item of a stream.

    Returns:
        A stream with all items, which can be read once, and whether its items are whole batches.
    """
    items = iter(dataset)
    try:
        first = next(items)
    except StopIteration:
        return _Stream([], None), False
    except Exception as error:
        return _Stream(_RaisingStream(error), None), False  # the error is raised when the stream is read
    return _Stream(chain([first], items), None), _is_batch(first)


def _is_batch(item: Any) -> bool:
    """Says whether an item is a batch: it has as many labels as its inputs have rows.

    A single image [C, H, W] with a one-hot label of C classes is no batch, though its lengths agree. Whole numbers 0
    and 1 could be the labels of C grey images [H, W] too, which are rarely stored so; with three, it is a colour image.
    """
    try:
        x, y = split_item(item, 0)
    except LookalikeError:
        return False
    first = _first_array(x)
    if first is None or first.ndim == 0 or not isinstance(y, Tensor | np.ndarray | list | tuple):
        return False
    labels = np.asarray(y) if not isinstance(y, Tensor) else y
    if labels.ndim == 0 or len(labels) != len(first):
        return False
    one_hot = labels.ndim == 1 and bool(((labels == 0) | (labels == 1)).all()) and float(labels.sum()) == 1
    is_label = one_hot and first.ndim == 3 and (_is_floating(labels) or len(labels) == _COLOURS)
    return first.ndim >= 4 or not is_label


def _is_floating(labels: Any) -> bool:
    return labels.is_floating_point() if isinstance(labels, Tensor) else labels.dtype.kind == "f"


def _first_array(x: Any) -> Any:
    leaves: list[Any] = []
    tree_map(leaves.append, x)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor | np.ndarray)), None)


def _draw(loader: DataLoader[Any]) -> tuple[list[Any], np.ndarray | None]:
    """Draws all indices from a loader's sampler, and restores the random states that this moves.

    Returns:
        What the sampler yields (of a sequential or random sampler only the first index), and the sorted indices of
        the samples; None for all samples, or if the sampler yields lists of indices.
    """
    sampler: Any = loader.sampler
    if draws_by_rule(sampler):
        rows = rows_with_weight(sampler, len(loader.dataset))  # type: ignore[arg-type]
        return list(range(min(1, len(loader.dataset)))) if rows is None else rows[:1].tolist(), rows  # type: ignore[arg-type]
    drawn = undoing(save_random_states(sampler), lambda: list(sampler))
    are_indices = all(isinstance(index, int | np.integer) for index in drawn)
    return drawn, np.unique(np.asarray(drawn, dtype=np.int64)) if are_indices else None


def _identity(samples: Any) -> Any:
    return samples


class _Converted(Dataset[Any]):
    """A data set whose samples are converted by a loader's own function."""

    def __init__(self, dataset: Any, convert: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.convert = convert
        self.classes = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.convert(self.dataset[index])


class _SingleSamples(_Converted):
    """Reads single samples from a data set that is indexed with a list and returns a batch."""

    def __getitem__(self, index: int) -> Any:
        x, y = split_item(self.convert(self.dataset[[index]]), index)
        return tree_map(lambda leaf: leaf[0] if isinstance(leaf, Tensor | np.ndarray) else leaf, x), y[0]


class _RaisingStream:
    """A stream that raises an error when it is read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Iterator[Any]:
        raise self.error


class _BatchesInOrder:
    """Yields a data set's batches in the order of ``rows``."""

    def __init__(self, dataset: Any, rows: np.ndarray | None) -> None:
        self.dataset = dataset
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        rows = range(len(self.dataset)) if self.rows is None else self.rows
        return (self.dataset[int(row)] for row in rows)


class _Stream(IterableDataset[Any]):
    """A stream whose items are converted by a loader's own function, if it has one."""

    def __init__(self, items: Any, convert: Callable[[Any], Any] | None) -> None:
        self.items = items
        self.convert = convert
        self.classes = getattr(items, "classes", None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items) if self.convert is None else map(self.convert, self.items)
