"""Files that are there as a whole or not at all; memory maps that give back what was read."""

import mmap
import os
import secrets
from pathlib import Path

import numpy as np


def write_whole(path: Path, text: str) -> None:
    """Writes a text file; whoever reads it meanwhile, or after an interruption, finds the old text or the new one."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)  # noqa: PTH105 - one call, one rename
    finally:
        aside.unlink(missing_ok=True)


def let_go(array: np.ndarray) -> None:
    """Lets the operating system have back what was read of a memory map; nothing is lost. Other arrays stay."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
