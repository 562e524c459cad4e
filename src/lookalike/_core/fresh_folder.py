"""Folders that appear, or replace others of their kind, only when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike._core.replacing import remove_leftovers, replacing_folder, roll_back

CONFIG = "config.json"


@contextmanager
def fresh_folder(target: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside the target that takes the target's place when the block ends well.

    If the block is left by any exception, Ctrl-C included, what was written is removed and the target is as before.

    Args:
        target: Where to.
        marker: A file that every such folder holds: only an empty folder or one with this file in it is replaced.
        overwrite: Whether to replace at all.

    Raises:
        LookalikeError: If the target may not be replaced, or its place cannot be written to.
    """
    check_replaceable(target, marker=marker, overwrite=overwrite)
    with replacing_folder(Path(target).resolve(), replace=overwrite) as aside:
        yield aside
        check_replaceable(target, marker=marker, overwrite=overwrite)  # someone may have written to it meanwhile


def check_replaceable(target: str | Path, *, marker: str = CONFIG, overwrite: bool = False) -> None:
    """Checks that a folder may be written, before any work is done; removes what killed runs left beside it.

    Raises:
        LookalikeError: If it exists and ``overwrite`` is not set, or it is none that lookalike wrote.
    """
    place = Path(target).resolve()
    roll_back(place)
    remove_leftovers(place)
    if not place.exists():
        return
    if not overwrite:
        raise LookalikeError(
            f"{str(target)!r} exists already; choose another place, or overwrite it (--overwrite, overwrite=True)"
        )
    if not place.is_dir():
        raise LookalikeError(f"{str(target)!r} is a file, not a folder")
    if Path.cwd().resolve().is_relative_to(place):
        raise LookalikeError(f"{str(target)!r} is the folder you are in; choose another place")
    if any(place.iterdir()) and not (place / marker).is_file():
        raise LookalikeError(
            f"{str(target)!r} is not overwritten: it holds files, and is no folder of this kind (it has no {marker!r})"
        )
