"""Whatever people have images in, as inputs of a network: files, folders, PIL images, arrays, data sets, loaders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lookalike._core.errors import LookalikeError
from lookalike.data.batches import Batches
from lookalike.data.bundle import DataBundle
from lookalike.data.folders import list_images
from lookalike.data.preprocessing import Preprocessing

_PIXEL_CHANNELS = (1, 3, 4)  # of an image as an array [H, W, C]


@dataclass(frozen=True)
class InputBatch:
    """Inputs of a network, with what is known of them.

    Attributes:
        inputs: A tensor [n, ...], or a mapping or tuple of such.
        names: The names of the files [n], or None.
        labels: Their classes [n], in the data's numbering, or None.
        class_names: The data's names of its classes, or None.
    """

    inputs: Any
    names: list[str] | None = None
    labels: list[int] | None = None
    class_names: list[str] | None = None


def read_inputs(
    data: Any, preprocessing: Preprocessing | None, row_shape: Sequence[int] | None, batch_size: int
) -> Iterator[InputBatch]:
    """Yields inputs of a network, whatever form they come in. Ready inputs are yielded as they are, in one batch.

    Args:
        data: Inputs of the network [N, ...], a tensor, an array of floats, or a mapping or tuple of such; a single
            row without the axis of rows; the path of an image or of a folder of images, a PIL image, pixels uint8
            [H, W], [H, W, C] or [N, H, W, C], or a list of these; a ``Dataset`` or ``DataLoader`` of (x, y).
        preprocessing: What images go through; None where that is not known.
        row_shape: Shape of one row of the network's inputs; None where it takes several.
        batch_size: The most images in a batch, where they are read.

    Raises:
        LookalikeError: If images come in a form that is not known, or their preprocessing is not.
    """
    if isinstance(data, DataBundle):
        raise LookalikeError("a DataBundle has two parts; give its .test or .train")
    if isinstance(data, Batches | DataLoader | Dataset):
        batches = data if isinstance(data, Batches) else Batches(data, batch_size)
        for batch in batches:
            yield InputBatch(batch.inputs, None, [int(label) for label in batch.labels], batches.class_names)
        return
    raw = _raw_images(data, row_shape)
    if raw is None:
        yield InputBatch(_with_row_axis(data, row_shape))
        return
    if preprocessing is None:
        raise LookalikeError(
            "the model does not know what its images go through, so it takes ready inputs only; convert with "
            "preprocessing=... (a torchvision transform, or a lookalike.data.Preprocessing), or give tensors"
        )
    yield from _raw_batches(raw, preprocessing, batch_size)


def _raw_images(data: Any, row_shape: Sequence[int] | None) -> list[Any] | None:
    """Returns images one by one, as paths, PIL images or pixels; None if the data are ready inputs."""
    if isinstance(data, str | Path):
        return list(list_images([data])[0])
    if isinstance(data, Image.Image):
        return [data]
    if isinstance(data, np.ndarray) and _are_pixels(data, row_shape):
        return [data] if data.ndim == 2 or (data.ndim == 3 and data.shape[-1] in _PIXEL_CHANNELS) else list(data)
    if isinstance(data, list) and data:
        images = [_raw_images(item, row_shape) for item in data]
        if all(item is not None for item in images):
            return [image for item in images for image in item or ()]
        if any(item is not None for item in images):
            raise LookalikeError("a list of images must hold one kind: paths, PIL images, or pixels")
    return None


def _are_pixels(array: np.ndarray, row_shape: Sequence[int] | None) -> bool:
    """Says whether an array holds pixels, and no inputs of a network that takes whole numbers."""
    if array.dtype != np.uint8 or array.ndim < 2:
        return False
    if row_shape is not None and tuple(row_shape) in (array.shape, array.shape[1:]):
        return False
    return array.ndim == 2 or array.shape[-1] in _PIXEL_CHANNELS or array.ndim == 3


def _with_row_axis(data: Any, row_shape: Sequence[int] | None) -> Any:
    """Returns ready inputs as tensors, with the axis of rows."""
    if isinstance(data, list):
        data = _stacked(data)
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(np.ascontiguousarray(data))
    if not isinstance(data, Tensor | Mapping | tuple):
        raise LookalikeError(
            f"cannot read inputs from a {type(data).__name__}; give tensors or arrays [N, ...], image files or a "
            "folder, PIL images, pixels uint8 [H, W, C], or a Dataset or DataLoader of (x, y)"
        )
    if isinstance(data, Tensor) and row_shape is not None and data.ndim == len(row_shape):
        return data[None]
    return data


def _stacked(rows: list[Any]) -> Tensor:
    """Returns rows of inputs in one tensor."""
    if not rows:
        raise LookalikeError("there are no inputs: the list is empty")
    try:
        return torch.stack([torch.as_tensor(row) for row in rows])
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(sorted({type(row).__name__ for row in rows}))
        raise LookalikeError(f"a list of {kinds} is no list of images or of inputs of one shape") from error


def _raw_batches(images: list[Any], preprocessing: Preprocessing, batch_size: int) -> Iterator[InputBatch]:
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        rows = [(str(image) if isinstance(image, Path) else None, _prepared(image, preprocessing)) for image in chosen]
        # without a fixed size images come in several: each run of one shape is a batch
        for _, run in groupby(rows, key=lambda row: row[1].shape):
            alike = list(run)
            names = [name for name, _ in alike if name is not None]
            yield InputBatch(torch.stack([row for _, row in alike]), names if len(names) == len(alike) else None)


def _prepared(image: Any, preprocessing: Preprocessing) -> Tensor:
    """Returns an image as the network takes it [C, H, W]."""
    return preprocessing.read(image) if isinstance(image, Path) else preprocessing(image)
