"""Images on their way to a network as bytes, read in threads; ``Preprocessing.finish`` turns them into its input.

file ──decode, resize, crop──▶ bytes [C, H, W]      in threads
──stack──▶ bytes [n, C, H, W]                  a quarter of the memory of float32
──▶ the network's device ──finish──▶ float32   normalised there
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from lookalike._core.cores import n_cores
from lookalike.data.parallel import MAX_THREADS
from lookalike.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class FittedSamples:
    """The samples of a data set as bytes.

    Attributes:
        fitted: Returns a sample's image as bytes and its label.
        finish: Turns a batch of such images into the network's input.
        n_threads: Number of threads that reading is worth.
        file: Returns the file of a sample and its label; None if the samples are no files.
        preprocessing: How the images are prepared.
    """

    fitted: Callable[[int], tuple[Tensor, int]]
    finish: Callable[[Tensor], Tensor]
    n_threads: int
    file: Callable[[int], tuple[Path, int]] | None
    preprocessing: Preprocessing

    def read(self, index: int) -> tuple[Tensor, int]:
        """Returns a sample's image in planes, [C, H, W] contiguous, and its label."""
        image, label = self.fitted(index)
        return in_planes(image), label

    @classmethod
    def of(cls, dataset: Any) -> "FittedSamples | None":
        """Returns the samples of a data set that has ``fitted``, or of a subset of one; None for all others."""
        if type(dataset) is Subset:
            inner, indices = cls.of(dataset.dataset), dataset.indices
            if inner is None:
                return None
            file = inner.file
            return replace(
                inner,
                fitted=lambda index: inner.fitted(int(indices[index])),
                file=None if file is None else lambda index: file(int(indices[index])),
            )
        # A subclass with its own `__getitem__` may do something else with its images.
        owner = next((base for base in type(dataset).__mro__ if "__getitem__" in vars(base)), object)
        if "fitted" not in vars(owner) or type(dataset.transform) is not Preprocessing:
            return None
        are_files = hasattr(dataset, "files")  # reading pixels from memory is all Python, in which threads gain nothing
        return cls(
            dataset.fitted,
            dataset.transform.finish,
            min(n_cores(), MAX_THREADS) if are_files else 0,
            (lambda index: (dataset.files[index], int(dataset.labels[index]))) if are_files else None,
            dataset.transform,
        )


def are_bytes(items: Sequence[Any]) -> bool:
    """Says whether samples are images as bytes, all of one shape, each with a number as its label."""
    return all(_is_image_as_bytes(item) for item in items) and len({tuple(x.shape) for x, _ in items}) == 1


def _is_image_as_bytes(item: Any) -> bool:
    if not isinstance(item, tuple) or len(item) != 2:
        return False
    x, y = item
    return isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 3 and isinstance(y, int | np.integer)


def stack_bytes(items: Sequence[tuple[Tensor, int]], *, pinned: bool = False) -> tuple[Tensor, Tensor]:
    """Stacks images [C, H, W] to [n, C, H, W], in pinned memory if asked; returns them with the labels [n]."""
    images, labels = [image for image, _ in items], torch.tensor([label for _, label in items])
    if images[0].device.type != "cpu":
        return torch.stack(images), labels
    stacked = torch.empty(len(items), *images[0].shape, dtype=torch.uint8, pin_memory=pinned)
    np.stack([image.numpy() for image in images], out=stacked.numpy())  # in this thread alone, see `in_planes`
    return stacked, labels


def in_planes(image: Tensor) -> Tensor:
    """Returns an image [C, H, W] with one plane of memory per channel; decoders put the channels of a pixel together.

    NumPy copies it in the thread that calls. Torch would take one thread per core for it beside those that read, and
    end when the last of them had its turn: on busy cores that takes a hundred times as long.
    """
    if image.is_contiguous():
        return image
    planes = torch.empty(image.shape, dtype=image.dtype)
    for plane, channel in zip(planes.numpy(), image.numpy(), strict=True):  # twice as fast as all at once
        plane[...] = channel
    return planes
