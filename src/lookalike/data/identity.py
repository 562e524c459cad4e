"""Hashes of image files, to find a model's training images again under any name."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from lookalike._core.errors import LookalikeError

# Files up to this size are hashed completely. Of a larger file the size, the start and 16 blocks are hashed: that is
# enough, as two compressed images differ almost everywhere.
_HASHED_COMPLETELY = 1 << 20  # bytes
_BLOCKS = 16
_BLOCK = 1 << 16  # bytes
_THREADS = 8  # hashing is faster than a disk: several reads wait at the same time


def content_keys(files: Sequence[Path]) -> np.ndarray:
    """Returns a hash of each file's bytes, which does not depend on the file's name or folder.

    Args:
        files: N files.

    Returns:
        int64 [N]. A file that cannot be read gets a hash of its path, so that it equals no other file.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(_content_key, files, chunksize=64), dtype=np.int64, count=len(files))


def names_within(root: Path, files: Sequence[Path]) -> list[str]:
    """Returns the path of each file from a folder on, with slashes; ``Path.relative_to`` takes ten times as long."""
    start = str(root / "_")[:-1]  # with a slash at its end, but for the present folder
    return [
        text[len(start) :].replace(os.sep, "/") if text.startswith(start) else _name_within(root, file)
        for file, text in zip(files, map(str, files), strict=True)
    ]


def _name_within(root: Path, file: Path) -> str:
    if not file.is_relative_to(root):
        raise LookalikeError(f"the file {str(file)!r} does not lie in {str(root)!r}; give a folder above all files")
    return file.relative_to(root).as_posix()


def file_stats(files: Sequence[Path]) -> np.ndarray:
    """Returns (size, modification time in ns) of each file [N, 2], int64; −1 for files that cannot be accessed."""
    stats = np.full((len(files), 2), -1, dtype=np.int64)
    for row, file in enumerate(files):
        with suppress(OSError):
            status = file.stat()
            stats[row] = status.st_size, status.st_mtime_ns
    return stats


def _content_key(file: Path) -> int:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with file.open("rb") as stream:
            start = stream.read(_HASHED_COMPLETELY)
            digest.update(start)
            # A full first read means a large file: its size and evenly spread blocks up to its end are hashed too.
            if len(start) == _HASHED_COMPLETELY:
                size = file.stat().st_size
                digest.update(str(size).encode())
                for block in range(1, _BLOCKS + 1):
                    stream.seek((size - _BLOCK) * block // _BLOCKS)
                    digest.update(stream.read(_BLOCK))
    except OSError:
        digest.update(b"unreadable:" + str(file.absolute()).encode(errors="surrogateescape"))
    return int.from_bytes(digest.digest(), "little", signed=True)
