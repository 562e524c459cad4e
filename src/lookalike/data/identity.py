"""Which image is which, by its bytes: whether a file was among a model's training images."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

_WHOLE = 1 << 20  # bytes; of a larger file its size and some blocks stand for it: compressed images differ everywhere
_BLOCKS = 16
_BLOCK = 1 << 16  # bytes
_THREADS = 8  # hashing is quicker than any disk; several files are waited for at once


def content_keys(files: Sequence[Path]) -> np.ndarray:
    """Returns a number for each file that depends on its bytes alone, not on its name or place.

    Args:
        files: N files.

    Returns:
        int64 [N]. A file that cannot be read has a number that no other file has.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(_content_key, files, chunksize=64), dtype=np.int64, count=len(files))


def file_stats(files: Sequence[Path]) -> np.ndarray:
    """Returns size and time of change of each file [N, 2], int64; −1 for those that cannot be looked at."""
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
            start = stream.read(_WHOLE)
            digest.update(start)
            if len(start) == _WHOLE:
                size = file.stat().st_size
                digest.update(str(size).encode())
                for block in range(1, _BLOCKS + 1):
                    stream.seek((size - _BLOCK) * block // _BLOCKS)
                    digest.update(stream.read(_BLOCK))
    except OSError:
        digest.update(b"unreadable:" + str(file.absolute()).encode(errors="surrogateescape"))
    return int.from_bytes(digest.digest(), "little", signed=True)
