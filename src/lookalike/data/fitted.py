"""Images on their way to a network as bytes, read in threads; ``Preprocessing.finish`` turns them into its input.

file ──decode, resize, crop──▶ bytes [C, H, W]      in threads
──stack──▶ bytes [n, C, H, W]                  a quarter of the memory of float32
──▶ the network's device ──finish──▶ float32   normalised there
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from lookalike._core.cores import n_cores
from lookalike.data.preprocessing import Preprocessing

_MAX_THREADS = 16  # Python's part of reading a file, which only one thread at a time can do, fills about that many

Result = TypeVar("Result")


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
            min(n_cores(), _MAX_THREADS) if are_files else 0,
            (lambda index: (dataset.files[index], int(dataset.labels[index]))) if are_files else None,
            dataset.transform,
        )


def in_threads(read: Callable[[int], Result], chunks: Sequence[np.ndarray], n_threads: int) -> Iterator[list[Result]]:
    """Yields the results of ``read`` for each chunk of numbers, in order; the next chunk is read meanwhile.

    Args:
        read: Called with each number.
        chunks: Arrays of numbers.
        n_threads: Number of threads; with 0 or 1 the calling thread reads.
    """
    if n_threads <= 1:
        for chunk in chunks:
            yield [read(int(number)) for number in chunk]
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="lookalike-read")
    try:
        ahead: list[Future[Result]] = []
        for chunk in [*chunks, np.arange(0)]:
            following = [pool.submit(read, int(number)) for number in chunk]
            if ahead:
                yield [future.result() for future in ahead]
            ahead = following
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def are_bytes(items: Sequence[Any]) -> bool:
    """Says whether samples are images as bytes, all of one shape."""
    shapes = {tuple(x.shape) for x, *_ in items if isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 3}
    return len(shapes) == 1 and all(isinstance(x, Tensor) and x.dtype == torch.uint8 for x, *_ in items)


def stack_bytes(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stacks images [C, H, W] in any layout to [n, C, H, W] in the usual one; returns them with the labels [n]."""
    first = items[0][0]
    images = torch.empty(len(items), *first.shape, dtype=torch.uint8, device=first.device)
    for row, (image, _) in zip(images, items, strict=True):
        row.copy_(image)
    return images, torch.tensor([label for _, label in items])
