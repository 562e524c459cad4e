"""Turns images in any form into network inputs: files, folders, PIL images, arrays, data sets and loaders."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from lookalike._core.errors import LookalikeError, warn_of
from lookalike.data.batches import Batches
from lookalike.data.bundle import DataBundle
from lookalike.data.folders import list_images
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.sampled_rows import rows_in_order
from lookalike.data.samples import as_tensor
from lookalike.data.transparency import TransparentImages, warn_of_transparency

_PIXEL_CHANNELS = (1, 3, 4)  # C of an image as an array [H, W, C]


@dataclass(frozen=True)
class InputBatch:
    """A batch of n network inputs, with file names and labels if they are known.

    Attributes:
        inputs: A tensor [n, ...], or a mapping or tuple of tensors.
        names: File names [n], None for an image without; or None if no image has one.
        labels: Labels [n], in the numbering of the data, or None.
        class_names: Class names of the data, by label, or None.
    """

    inputs: Any
    names: list[str | None] | None = None
    labels: list[int] | None = None
    class_names: list[str] | None = None


def read_inputs(
    data: Any, preprocessing: Preprocessing | None, row_shape: Sequence[int] | None, batch_size: int
) -> Iterator[InputBatch]:
    """Yields network inputs from data in any supported form. Prepared inputs are yielded unchanged, in one batch.

    Args:
        data: Prepared inputs [N, ...]: a tensor, an array of floats, or a mapping or tuple of these; a single input
            without the first axis. Or images: a path of a file or folder, a PIL image, pixels uint8 or uint16 [H, W],
            [H, W, C] or [N, H, W, C], or a list of these. Or a ``Dataset`` or ``DataLoader`` of (x, y).
        preprocessing: Preprocessing for images; None if it is unknown.
        row_shape: Shape of one network input; None if the network takes several inputs.
        batch_size: Largest number of images in a batch.

    Raises:
        LookalikeError: If the form of the data is unknown, or images are given without a preprocessing.
    """
    if isinstance(data, DataBundle):
        raise LookalikeError("a DataBundle has two parts; give its .test or .train")
    if isinstance(data, DataLoader) and (rows := rows_in_order(data)) is not None:  # an answer for each, in this order
        data = DataLoader(
            Subset(data.dataset, rows), data.batch_size or batch_size, collate_fn=data.collate_fn,
            num_workers=data.num_workers, worker_init_fn=data.worker_init_fn,
            multiprocessing_context=data.multiprocessing_context,
        )  # fmt: skip
    if isinstance(data, Batches | DataLoader | Dataset):
        batches = data if isinstance(data, Batches) else Batches(data, batch_size)
        warn_of_transparency(batches.dataset, "")
        for batch in batches:
            yield InputBatch(batch.inputs, None, [int(label) for label in batch.labels], batches.class_names)
        return
    images = _list_images(data, row_shape)
    if images is None:
        yield InputBatch(_with_row_axis(data, row_shape))
        return
    if preprocessing is None:
        raise LookalikeError(
            "the model does not know what its images go through, so it takes ready inputs only; convert with "
            "preprocessing=... (a torchvision transform, or a lookalike.data.Preprocessing), or give tensors"
        )
    yield from _prepare_in_batches(images, preprocessing, batch_size)


def _list_images(data: Any, row_shape: Sequence[int] | None) -> list[Any] | None:
    """Lists single images, as paths, PIL images or pixels; returns None if the data are prepared inputs."""
    if isinstance(data, str | Path):
        return list(list_images([data])[0])
    if isinstance(data, Image.Image):
        return [data]
    if isinstance(data, tuple) and data and all(isinstance(item, str | Path | Image.Image) for item in data):
        data = list(data)
    if isinstance(data, np.ndarray) and data.dtype.kind == "U":
        data = data.ravel().tolist()
    if isinstance(data, np.ndarray) and _are_pixels(data, row_shape):
        if data.ndim == 3 and data.shape[-1] not in _PIXEL_CHANNELS and len(data) in (3, 4):
            raise LookalikeError(
                f"pixels of shape {list(data.shape)} have their channels first, or are {len(data)} grey images: give "
                "colours last, x.transpose(1, 2, 0), or grey images as [N, H, W, 1]"
            )
        if data.ndim == 3 and data.shape[-1] == 2:
            raise LookalikeError(
                f"pixels of shape {list(data.shape)} have two channels, grey and its transparency: give the picture "
                "itself (a PIL image or its file), or its grey values, x[..., 0]"
            )
        return [data] if data.ndim == 2 or (data.ndim == 3 and data.shape[-1] in _PIXEL_CHANNELS) else list(data)
    if isinstance(data, list) and data:
        images_per_item = [_list_images(item, row_shape) for item in data]
        if all(images is not None for images in images_per_item):
            return [image for images in images_per_item for image in images or ()]
        if any(images is not None for images in images_per_item):
            raise LookalikeError(
                "a list mixes images with ready inputs; give images (paths, PIL images, pixels) or tensors"
            )
    return None


def _are_pixels(array: np.ndarray, row_shape: Sequence[int] | None) -> bool:
    """Says whether an array holds pixels, and not the inputs of a network that takes whole numbers."""
    if array.dtype not in (np.uint8, np.uint16) or array.ndim < 2:
        return False
    if row_shape is not None and tuple(row_shape) in (array.shape, array.shape[1:]):
        return False
    return array.ndim == 2 or array.shape[-1] in _PIXEL_CHANNELS or array.ndim == 3


def _with_row_axis(data: Any, row_shape: Sequence[int] | None) -> Any:
    """Returns prepared inputs as tensors; a single input gets a first axis of length 1."""
    if isinstance(data, list):
        data = _stack(data)
    if isinstance(data, np.ndarray):
        data = as_tensor(data)
    if not isinstance(data, Tensor | Mapping | tuple):
        raise LookalikeError(
            f"cannot read inputs from a {type(data).__name__}; give tensors or arrays [N, ...], image files or a "
            "folder, PIL images, pixels uint8 [H, W, C], or a Dataset or DataLoader of (x, y)"
        )
    if isinstance(data, Tensor) and row_shape is not None:
        _check_channels_come_first(data, row_shape)
    if isinstance(data, Tensor) and row_shape is not None and data.ndim == len(row_shape):
        return data[None]
    return data


def _check_channels_come_first(inputs: Tensor, row_shape: Sequence[int]) -> None:
    """Refuses numbers [H, W, C] or [N, H, W, C] for a network that takes [C, H, W]."""
    if len(row_shape) != 3 or inputs.ndim not in (3, 4):
        return
    channels, (first, _, last) = row_shape[0], inputs.shape[-3:]
    if last == channels and first != channels:
        raise LookalikeError(
            f"inputs of shape {list(inputs.shape)} have their channels last, and the network takes "
            f"{list(row_shape)}: give pixels as bytes (uint8), or prepared inputs as x.transpose(0, 3, 1, 2)"
        )


def _stack(rows: list[Any]) -> Tensor:
    """Stacks single inputs to one tensor."""
    if not rows:
        raise LookalikeError("there are no inputs: the list is empty")
    try:
        return torch.stack([torch.as_tensor(row) for row in rows])
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(sorted({type(row).__name__ for row in rows}))
        raise LookalikeError(f"a list of {kinds} is no list of images or of inputs of one shape") from error


def _prepare_in_batches(images: list[Any], preprocessing: Preprocessing, batch_size: int) -> Iterator[InputBatch]:
    seen = TransparentImages()
    for start in range(0, len(images), batch_size):
        named_inputs = [
            (str(image) if isinstance(image, Path) else None, _prepare(image, preprocessing, seen))
            for image in images[start : start + batch_size]
        ]
        # A preprocessing without a fixed size gives inputs of several shapes: each run of one shape is a batch.
        for _, run in groupby(named_inputs, key=lambda pair: pair[1].shape):
            same_shape = list(run)
            names = [name for name, _ in same_shape]
            inputs = torch.stack([x for _, x in same_shape])
            yield InputBatch(inputs, names if any(name is not None for name in names) else None)
    sentence = seen.sentence(of_total=len(images))
    if sentence is not None:
        warn_of(sentence)


def _prepare(image: Any, preprocessing: Preprocessing, seen: TransparentImages) -> Tensor:
    """Returns the network's input [C, H, W] for one image, and counts it if its transparency is dropped."""
    if preprocessing.transparency != "dropped":
        return preprocessing.read(image) if isinstance(image, Path) else preprocessing(image)
    if isinstance(image, Path):
        n_seen, prepared = seen.n_read, preprocessing.read(image, lambda picture: seen.look_at(picture, str(image)))
        seen.n_read = n_seen + 1
        return prepared
    seen.look_at(image)
    return preprocessing(image)
