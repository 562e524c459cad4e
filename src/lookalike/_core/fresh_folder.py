"""Folders that appear, or replace an earlier one, only when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike._core.replacing import remove_leftovers, replacing_folder, roll_back, try_writing

CONFIG = "config.json"


@contextmanager
def fresh_folder(target: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty temporary folder beside the target, which becomes the target when the block ends normally.

    If the block ends with an exception, also Ctrl-C, the temporary folder is removed and the target is unchanged.

    Args:
        target: Folder to write.
        marker: Name of a file in every such folder. Only an empty folder or one with this file is replaced.
        overwrite: Replace the target if it exists.

    Raises:
        LookalikeError: If the target may not be replaced, or cannot be written.
    """
    check_replaceable(target, marker=marker, overwrite=overwrite)
    with replacing_folder(Path(target).resolve(), replace=overwrite) as temporary:
        yield temporary
        # again, as another process may have written to the target meanwhile
        check_replaceable(target, marker=marker, overwrite=overwrite)


def check_replaceable(target: str | Path, *, marker: str = CONFIG, overwrite: bool = False) -> None:
    """Checks that a folder may be written, before any work is done. Removes leftovers of killed runs beside it.

    Raises:
        LookalikeError: If the folder exists and ``overwrite`` is False, it was not written by lookalike, or nothing
            can be written there.
    """
    folder = Path(target).resolve()
    roll_back(folder)
    remove_leftovers(folder)
    if folder.exists():
        _check_own(folder, target, marker, overwrite)
    try_writing(folder, named=target)


def _check_own(folder: Path, target: str | Path, marker: str, overwrite: bool) -> None:
    """Checks that a folder that exists may be replaced."""
    if not overwrite:
        raise LookalikeError(
            f"{str(target)!r} exists already; choose another place, or overwrite it (--overwrite, overwrite=True)"
        )
    if not folder.is_dir():
        raise LookalikeError(f"{str(target)!r} is a file, not a folder")
    if Path.cwd().resolve().is_relative_to(folder):
        raise LookalikeError(f"{str(target)!r} is the folder you are in; choose another place")
    if any(folder.iterdir()) and not (folder / marker).is_file():
        raise LookalikeError(
            f"{str(target)!r} is not overwritten: it has files, but no {marker!r}, so it is not a folder of this kind"
        )
