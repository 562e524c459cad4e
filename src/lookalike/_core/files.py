"""Files that are there as a whole or not at all; memory maps that give back what was read."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lookalike._core.names import has_surrogates
from lookalike._core.replacing import replacing_file


def write_whole(path: Path, text: str, *, replace: bool = True) -> None:
    """Writes a text file; whoever reads it meanwhile, or after an interruption, finds the old text or the new one.

    It never fails at a name in the text: what is not valid Unicode is written out.

    Args:
        path: The file.
        text: Its content.
        replace: Replace the file if there is one.

    Raises:
        LookalikeError: If the disk is full or fails, or there is a file that is not to be replaced.
    """
    with replacing_file(path, replace=replace) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def path_as_text(path: Path) -> Iterator[str]:
    """Yields a path to a file for libraries that take valid Unicode alone; of other names, its descriptor's."""
    if not has_surrogates(str(path)):
        yield str(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


_SCATTERED_ROWS = 128  # read at a time


def read_rows(array: np.ndarray, rows: np.ndarray, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    """Returns some rows of an array, copied, in their order and in a type of its own or another.

    Of a memory map, the system may hold two megabytes around each row that is read: few are read before it lets go.
    """
    found = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype if dtype is None else dtype)
    for start in range(0, len(rows), _SCATTERED_ROWS):
        part = rows[start : start + _SCATTERED_ROWS]
        run = np.array_equal(part, np.arange(part[0], part[0] + len(part)))
        found[start : start + len(part)] = array[part[0] : part[0] + len(part)] if run else array[part]
        let_go(array)
    return found


def at_least_single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns the type to compute with: float32 for numbers that are kept in less, else their own."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def let_go(array: np.ndarray) -> None:
    """Lets the operating system have back what was read of a memory map; nothing is lost. Other arrays stay."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
