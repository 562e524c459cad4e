"""Reads one sample of a data set, and names it in errors."""

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Subset

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.names import visible
from lookalike.data.images import one_line


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
