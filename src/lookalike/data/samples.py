"""Samples as data sets give them: which part is the input, which the label, and how they become a batch."""

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
_SHOWN = 60  # characters of another library's message


def split_item(item: Any, index: int) -> tuple[Any, Any]:
    """Returns (x, y) of a sample or of a batch.

    Args:
        item: A pair, or a mapping with usual keys.
        index: The sample's number, for the error.

    Raises:
        LookalikeError: If it is neither, or has no label.
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
        given = "no label (None)" if y is None else f"the label {y!r:.60}, a {type(y).__name__}"
        raise LookalikeError(f"sample {index} has {given}; labels are the numbers of classes, from 0")
    return x, y


def collate_samples(items: list[Any], first: int, collate: Callable[[list[Any]], Any] | None = None) -> tuple[Any, Any]:
    """Puts samples together to a batch.

    Args:
        items: As the data set gives them.
        first: The number of the first one, for errors.
        collate: A loader's own way, which takes the samples as they are; None is torch's.

    Returns:
        Inputs and labels.

    Raises:
        LookalikeError: If they differ in shape, keys or kind.
    """
    if collate is not None:
        return split_item(_collated(collate, items, first), first)
    pairs = [split_item(item, first + offset) for offset, item in enumerate(items)]
    shapes = sorted({str(tuple(np.shape(x))) for x, _ in pairs if isinstance(x, Tensor | np.ndarray)})
    if len(shapes) > 1:
        raise LookalikeError(
            f"samples differ in shape ({', '.join(shapes[:3])}) and cannot form a batch; "
            "resize and crop them to one size in the data set's transform (--resize, --crop)"
        )
    inputs, labels = _collated(default_collate, pairs, first)
    return inputs, labels


def _collated(collate: Callable[[list[Any]], Any], items: list[Any], first: int) -> Any:
    try:
        return collate(items)
    except (LookalikeError, BrokenImageError):
        raise
    except (RuntimeError, TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        own = "" if collate is default_collate else "the loader's collate_fn fails: "
        reason = (str(error).splitlines() or [""])[0][:_SHOWN]
        raise LookalikeError(
            f"samples {first} to {first + len(items) - 1} cannot form a batch: {own}{type(error).__name__}: {reason}; "
            "they need the same keys, kinds and shapes"
        ) from error


def check_rows(inputs: Any, labels: np.ndarray, first: int) -> None:
    """Checks that a batch has a label for each row of its inputs.

    Raises:
        LookalikeError: If not.
    """
    rows = {len(leaf) if leaf.ndim else 0 for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor | np.ndarray)}
    if rows and len(labels) not in rows:
        raise LookalikeError(
            f"the batch at sample {first} has {', '.join(map(str, sorted(rows)))} inputs and {len(labels)} labels"
        )


def as_tensor(values: Any) -> Tensor:
    """Returns an array as a tensor.

    Raises:
        LookalikeError: If its values are no numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.ascontiguousarray(values))
    except TypeError as error:
        raise LookalikeError(f"x has values of type {np.asarray(values).dtype}, which are no numbers") from error


def take_rows(inputs: Any, rows: slice) -> Any:
    """Returns some rows of each tensor or array of the inputs, as tensors."""
    return tree_map(lambda leaf: as_tensor(leaf)[rows] if isinstance(leaf, Tensor | np.ndarray) else leaf, inputs)


def label_array(labels: Any) -> np.ndarray:
    """Returns labels of any kind as an array."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.float() if labels.dtype == torch.bfloat16 else labels  # NumPy has no bfloat16
    return np.asarray(labels)


def as_labels(labels: Any) -> np.ndarray:
    """Returns labels [N] as int64: whole numbers of any type, alone, in a column or one-hot.

    Raises:
        LookalikeError: If they are anything else, or negative.
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
        if values.size and np.abs(values).max() >= 2**53:
            raise LookalikeError(f"there is a label {values.max():g}, which is no number of a class")
        values = values.astype(np.int64)
    if values.ndim == 2 and values.dtype.kind in "iub" and values.shape[1] > 1 and _is_one_hot(values):
        values = values.argmax(1)
    if values.ndim != 1 or values.dtype.kind not in "iub":
        raise LookalikeError(
            f"labels must be whole numbers, one per sample; these are {values.dtype} of shape {values.shape}"
        )
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise LookalikeError(f"there is a label {values.max()}, which is no number of a class")
    values = values.astype(np.int64)
    if len(values) and values.min() < 0:
        raise LookalikeError(f"labels must not be negative; there is a {values.min()}")
    return values


def _is_one_hot(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())
