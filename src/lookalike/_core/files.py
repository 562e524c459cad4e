"""Text files that are written completely or not at all, and reading from memory maps in bounded memory."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike._core.names import has_surrogates
from lookalike._core.replacing import replacing_file, try_writing

PAGE_BEGINS = "<!doctype html"  # as every page begins that the package writes


def write_whole(path: Path, text: str, *, replace: bool = True) -> None:
    """Writes a text file. At any time, also after an interruption, the file has the old text or the new one.

    Text that is not valid Unicode, such as a file's name, is written with escapes.

    Args:
        path: File to write.
        text: Content of the file.
        replace: Replace the file if it exists.

    Raises:
        LookalikeError: If the disk is full or fails, or the file exists and ``replace`` is False.
    """
    with replacing_file(path, replace=replace) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(path: Path, overwrite: bool, *, begins: str = "") -> None:
    """Checks that a file may be written, before any work is done.

    Args:
        path: The file.
        overwrite: Whether it may replace one that exists.
        begins: How a file of this kind begins. One that begins in another way is something else, such as weights, and
            is not replaced.

    Raises:
        LookalikeError: If the path is a folder, the file exists or is of another kind, or its folder is missing or
            takes no file.
    """
    if path.is_dir():
        raise LookalikeError(f"{str(path)!r} is a folder; give the name of a file, e.g. report.html")
    if path.exists() and not overwrite:
        raise LookalikeError(f"{str(path)!r} exists already; choose another place, or overwrite it (--overwrite)")
    if not path.resolve().parent.is_dir():
        raise LookalikeError(f"the folder {str(path.resolve().parent)!r} does not exist")
    if begins and path.is_file() and not _begins_with(path, begins):
        raise LookalikeError(
            f"{str(path)!r} is not overwritten: it does not begin with {begins!r}, so it is no file of this kind"
        )
    try_writing(path)


def _begins_with(path: Path, begins: str) -> bool:
    """Says whether a file begins with a text, in capitals or not, or is blank; True if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError:
        return True
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    return not text or text.startswith(begins.lower())


@contextmanager
def path_as_text(path: Path) -> Iterator[str]:
    """Yields a path for libraries that take valid Unicode only. A file with another name gets its descriptor's path."""
    if not has_surrogates(str(path)):
        yield str(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


# Rows read from a memory map before its pages are dropped: the system may read two megabytes around each of them.
_SCATTERED_ROWS = 128


def read_rows(array: np.ndarray, rows: np.ndarray, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    """Returns a copy of some rows of an array, in the given order and type, or in the array's own type.

    Rows of a memory map are read a few at a time, so that its pages do not fill the memory.
    """
    values = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype if dtype is None else dtype)
    for start in range(0, len(rows), _SCATTERED_ROWS):
        batch_rows = rows[start : start + _SCATTERED_ROWS]
        # A slice of consecutive rows is one read; indices would be a read per row.
        are_consecutive = np.array_equal(batch_rows, np.arange(batch_rows[0], batch_rows[0] + len(batch_rows)))
        values[start : start + len(batch_rows)] = (
            array[batch_rows[0] : batch_rows[0] + len(batch_rows)] if are_consecutive else array[batch_rows]
        )
        drop_pages(array)
    return values


def at_least_single(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Returns the type to compute in: float32 for numbers stored in half precision, otherwise their own type."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def drop_pages(array: np.ndarray) -> None:
    """Drops a memory map's pages from RAM; does nothing to ordinary arrays. The data stay in the file."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
