"""Splits samples into input and label, and collates them into batches."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import default_collate

from lookalike._core.errors import BrokenImageError, LookalikeError

_INPUT_KEYS = ("pixel_values", "image", "input", "inputs", "x")
_LABEL_KEYS = ("labels", "label", "target", "targets", "y")
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
        keys = [next((key for key in names if key in item), None) for names in (_INPUT_KEYS, _LABEL_KEYS)]
        if None in keys:
            raise LookalikeError(
                f"sample {index} has the keys {', '.join(map(str, item))}; "
                f"it needs one of {', '.join(_INPUT_KEYS)} and one of {', '.join(_LABEL_KEYS)}"
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
    if collate is not None:
        return split_item(_call_collate(collate, items, first), first)
    pairs = [split_item(item, first + offset) for offset, item in enumerate(items)]
    shapes = sorted({str(tuple(np.shape(x))) for x, _ in pairs if isinstance(x, Tensor | np.ndarray)})
    if len(shapes) > 1:
        raise LookalikeError(
            f"samples differ in shape ({', '.join(shapes[:3])}) and cannot form a batch; "
            "resize and crop them to one size in the data set's transform (--resize, --crop)"
        )
    inputs, labels = _call_collate(default_collate, pairs, first)
    return inputs, labels


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
        return torch.from_numpy(np.ascontiguousarray(values))
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
