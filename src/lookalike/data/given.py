"""Recognises the form in which data are given: arrays, samples by number, or a stream that begins anew."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lookalike._core.errors import LookalikeError
from lookalike.data.samples import as_labels, as_tensor, label_array


def check_begins_anew(stream: IterableDataset[Any]) -> None:
    """Checks that a stream can be read more than once, as it is: to cut the network, to embed, to measure.

    Raises:
        LookalikeError: If its passes share one iterator, so that one goes on where the last one stopped, or one that is
            begun while another is read sets that back.
    """
    held = [value for value in vars(stream).values() if isinstance(value, Iterator)]
    iterator = iter(stream) if held or isinstance(stream, Iterator) else None
    if iterator is not None and any(iterator is value for value in (stream, *held)):
        raise LookalikeError(
            f"the stream {type(stream).__name__} has one iterator for all passes, which its __iter__ returns each "
            "time, and it is read several times: let __iter__ begin anew, as a function with yield does"
        )


def is_map_style(data: Any) -> bool:
    """Says whether samples can be asked for by number."""
    return (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, Mapping | str | Tensor | np.ndarray)
        and not hasattr(data, "iloc")  # a table of pandas: data[0] is a column
    )


def as_arrays(data: Any) -> tuple[Any, np.ndarray, list[str] | None] | None:
    """Recognises a pair (x, y) of tensors or arrays.

    Returns:
        The images, their class numbers [N], and the class names if y has these; None if the data are no such pair.

    Raises:
        LookalikeError: If x and y differ in length, x is a list of arrays of several shapes, or y has no classes.
    """
    if not (isinstance(data, tuple | list) and len(data) == 2):
        return None
    x, y = data
    if isinstance(data, tuple) and isinstance(x, list) and len(x) > 1 and all(_is_array(one) for one in x):
        x = _stacked(x)
    if not _is_array(x):
        return None
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


def _stacked(images: list[Any]) -> Tensor:
    """Stacks a list of images as one tensor [N, …]."""
    tensors = [as_tensor(image) for image in images]
    shapes = sorted({str(tuple(tensor.shape)) for tensor in tensors})
    if len(shapes) > 1:
        raise LookalikeError(f"x is a list of arrays that differ in shape ({', '.join(shapes[:3])}); give one size")
    return torch.stack(tensors)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0
