"""Reads samples, names them in errors, splits them into input and label, and collates them into batches."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Subset, default_collate

from lookalike._core.errors import BrokenImageError, LookalikeError, warn_of
from lookalike._core.names import visible
from lookalike.data.images import one_line

_INPUT_KEYS = ("pixel_values", "image", "input", "inputs", "x")
LABEL_KEYS = ("labels", "label", "target", "targets", "y")
_MESSAGE_LENGTH = 60  # characters kept of another library's message


def split_item(item: Any, index: int) -> tuple[Any, Any]:
    """Returns (x, y) of a sample or of a batch.

    Args:
        item: A pair, or a mapping with one of the usual keys for each.
        index: The sample's number, for the message.

    Raises:
        LookalikeError: If ``item`` is neither, or has no label.
    """
    if isinstance(item, Mapping):
        keys = [next((key for key in names if key in item), None) for names in (_INPUT_KEYS, LABEL_KEYS)]
        if None in keys:
            raise LookalikeError(
                f"sample {index} has the keys {', '.join(map(str, item))}; "
                f"it needs one of {', '.join(_INPUT_KEYS)} and one of {', '.join(LABEL_KEYS)}"
            )
        x, y = item[keys[0]], item[keys[1]]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        x, y = item[0], item[1]
    else:
        raise LookalikeError(f"sample {index} is a {type(item).__name__}, not a pair (x, y)")
    if not isinstance(x, Tensor | np.ndarray | tuple | list | Mapping):
        raise LookalikeError(
            f"sample {index} has a {type(x).__name__} for x; give the data set a transform that makes tensors"
        )
    if y is None or isinstance(y, str | bytes | Mapping):
        label = "no label (None)" if y is None else f"the label {y!r:.60}, a {type(y).__name__}"
        raise LookalikeError(f"sample {index} has {label}; labels are the numbers of classes, from 0")
    return x, y


def collate_samples(items: list[Any], first: int, collate: Callable[[list[Any]], Any] | None = None) -> tuple[Any, Any]:
    """Collates samples into a batch.

    Args:
        items: The samples, as the data set returns them.
        first: Number of the first sample, for messages.
        collate: A loader's own ``collate_fn``, which gets the samples unchanged; None is torch's default.

    Returns:
        Inputs and labels.

    Raises:
        LookalikeError: If the samples differ in shape, keys or type.
    """
    if collate is not None:  # which decides what is the input, and what the label
        return split_item(_call_collate(collate, items, first), first)
    if first == 0 and items:
        _warn_of_more(items[0])
    pairs = [split_item(item, first + offset) for offset, item in enumerate(items)]
    shapes = sorted({str(tuple(np.shape(x))) for x, _ in pairs if isinstance(x, Tensor | np.ndarray)})
    if len(shapes) > 1:
        raise LookalikeError(
            f"samples differ in shape ({', '.join(shapes[:3])}) and cannot form a batch; "
            "resize and crop them to one size in the data set's transform (--resize, --crop)"
        )
    inputs, labels = _call_collate(default_collate, pairs, first)
    return inputs, labels


def _warn_of_more(item: Any) -> None:
    """Warns if a sample has more than an input and a label: which of its parts is taken could be another than meant."""
    if isinstance(item, tuple | list) and len(item) > 2:
        warn_of(f"samples have {len(item)} parts; the first is taken as the input and the second as the label")
    elif isinstance(item, Mapping):
        used = next((key for key in _INPUT_KEYS if key in item), None)
        others = [
            key
            for key, value in item.items()
            if key != used and key not in LABEL_KEYS and isinstance(value, Tensor) and value.ndim
        ]
        if others:
            warn_of(
                f"of a sample's entries the network gets {used!r} alone, not {', '.join(map(repr, others))}; for a "
                "network of several inputs give pairs of a mapping and a label"
            )


def _call_collate(collate: Callable[[list[Any]], Any], items: list[Any], first: int) -> Any:
    try:
        return collate(items)
    except (LookalikeError, BrokenImageError):
        raise
    except (RuntimeError, TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        origin = "" if collate is default_collate else "the loader's collate_fn fails: "
        reason = (str(error).splitlines() or [""])[0][:_MESSAGE_LENGTH]
        raise LookalikeError(
            f"samples {first} to {first + len(items) - 1} cannot form a batch: {origin}{type(error).__name__}: "
            f"{reason}; they need the same keys, kinds and shapes"
        ) from error


def check_rows(inputs: Any, labels: np.ndarray, first: int) -> None:
    """Checks that a batch has one label for each row of its inputs.

    Raises:
        LookalikeError: If the numbers differ; the message gives both.
    """
    rows = {len(leaf) if leaf.ndim else 0 for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor | np.ndarray)}
    if rows and len(labels) not in rows:
        raise LookalikeError(
            f"the batch at sample {first} has {', '.join(map(str, sorted(rows)))} inputs and {len(labels)} labels"
        )


def as_tensor(values: Any) -> Tensor:
    """Converts an array to a tensor; a tensor is returned unchanged.

    Raises:
        LookalikeError: If the values are no numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.ascontiguousarray(values)
        return torch.from_numpy(
            array.astype(array.dtype.newbyteorder("="), copy=False)
        )  # torch takes no big-endian ones
    except TypeError as error:
        raise LookalikeError(f"x has values of type {np.asarray(values).dtype}, which are not numbers") from error


def take_rows(inputs: Any, rows: slice) -> Any:
    """Returns some rows of each tensor or array of the inputs, as tensors."""
    return tree_map(lambda leaf: as_tensor(leaf)[rows] if isinstance(leaf, Tensor | np.ndarray) else leaf, inputs)


def label_array(labels: Any) -> np.ndarray:
    """Converts labels of any type to an array."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.float() if labels.dtype == torch.bfloat16 else labels  # NumPy has no bfloat16
    return np.asarray(labels)


def as_labels(labels: Any) -> np.ndarray:
    """Returns labels [N] as int64, from whole numbers of any type: [N], a column [N, 1], or one-hot [N, K].

    Raises:
        LookalikeError: If the labels are anything else, or negative.
    """
    try:
        values = label_array(labels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise LookalikeError("labels must be whole numbers, one per sample; these differ in shape or kind") from error
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype == object and values.ndim == 1 and any(value is None for value in values):
        raise LookalikeError("some labels are None; labels are the numbers of classes, from 0")
    if values.dtype.kind == "f" and values.ndim in (1, 2) and bool((values == np.round(values)).all()):
        if values.size and np.abs(values).max() >= 2**53:  # larger floats do not represent every whole number
            raise LookalikeError(f"label {values.max():g} is too large for the number of a class")
        values = values.astype(np.int64)
    if values.ndim == 2 and values.dtype.kind in "iub" and values.shape[1] > 1 and _is_one_hot(values):
        values = values.argmax(1)
    if values.ndim != 1 or values.dtype.kind not in "iub":
        raise LookalikeError(
            f"labels must be whole numbers, one per sample; these are {values.dtype} of shape {values.shape}"
        )
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise LookalikeError(f"label {values.max()} is too large for the number of a class")
    values = values.astype(np.int64)
    if len(values) and values.min() < 0:
        raise LookalikeError(f"labels must not be negative; there is a {values.min()}")
    return values


def _is_one_hot(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())


def read_sample(dataset: Any, index: int) -> Any:
    """Returns a sample.

    Raises:
        LookalikeError: If the sample cannot be read. Any other error is a mistake in the data set's code.
    """
    return as_read(lambda: dataset[index], lambda: describe_sample(dataset, index))


def as_read(read: Callable[[], Any], describe: Callable[[], str]) -> Any:
    """Returns what ``read`` returns; see ``read_sample``."""
    try:
        return read()
    except Exception as error:
        read_error = as_read_error(error, describe)
        if read_error is None or read_error is error:
            raise
        raise read_error from error


def next_items(items: Iterator[list[Any]], start: int) -> list[Any] | None:
    """Returns the next samples of a stream, or None at its end.

    Raises:
        BrokenImageError: If an image cannot be read; a stream cannot continue after that.
    """
    try:
        return next(items, None)
    except Exception as error:
        read_error = as_read_error(error, lambda: f"of the stream, sample {start} or later")
        if read_error is None or read_error is error:
            raise
        raise read_error from error


def as_read_error(error: Exception, describe: Callable[[], str]) -> LookalikeError | None:
    """Converts an error from reading a sample to the package's own; None if it is a mistake in the data set's code.

    Args:
        error: The error that was raised.
        describe: Returns the sample's name for the message.
    """
    if isinstance(error, BrokenImageError):
        return error if error.path else BrokenImageError(describe(), error.reason)
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, OSError | SyntaxError | MemoryError) or _was_raised_by_pillow(error):
        return BrokenImageError(describe(), one_line(error))
    return None


def _was_raised_by_pillow(error: Exception) -> bool:
    """Says whether Pillow's code raised an error: on a damaged file its decoders raise errors of any type."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).split(".")[0] == "PIL"


def whole_data_set(data: Any, rows: np.ndarray | None = None) -> tuple[Any, np.ndarray | None]:
    """Returns the data set of which nested ``Subset``s are a part, and their rows in it.

    Args:
        data: A data set, perhaps a ``Subset`` of one.
        rows: Rows of ``data`` that count, int64; None counts all.

    Returns:
        The whole data set, and the rows of it that count; None if all do, in their order.
    """
    while isinstance(data, Subset):
        indices = np.asarray(data.indices, dtype=np.int64)
        data, rows = data.dataset, indices if rows is None else indices[rows]
    return data, rows


def describe_sample(dataset: Any, index: int) -> str:
    """Returns the name of a sample's file if the data set has it, else the sample's number."""
    name = name_of_sample(dataset, index)
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    return name or f"sample {index}"


def name_of_sample(dataset: Any, index: int) -> str | None:
    """Returns the name of a sample's file; None if the data set does not have it."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, int(dataset.indices[index])
    describe, samples = getattr(dataset, "describe", None), getattr(dataset, "samples", None)
    if callable(describe):
        return visible(str(describe(index)))
    if isinstance(samples, list) and isinstance(samples[index], tuple) and isinstance(samples[index][0], str):
        return visible(str(samples[index][0]))  # torchvision's folders
    return None
