"""Files and folders that replace others as a whole, whatever interrupts the replacement.

What is being written has a hidden name beside its target, ``.NAME.HEX.part``, and a lock that the system takes off
when the writing process ends, however it ends. So a later call can tell what a killed run left behind from what
another process is writing now, and remove it.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike._core.errors import LookalikeError, WriteError

if sys.platform == "win32":  # no locks on folders there: leftovers are told by their age
    fcntl = None
else:
    import fcntl

_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>part|old)")
_OLD_SECONDS = 24 * 3600  # where there are no locks (some network storage): nothing is written for so long
_AT_CWD = -100
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NO_REPLACE, _EXCHANGE = 1, 2  # flags of Linux's renameat2


@contextmanager
def replacing_file(path: Path, *, replace: bool = True, sweep: bool = True) -> Iterator[Path]:
    """Yields an empty file beside ``path`` that takes its place when the block ends well.

    If the block is left by an exception, the file is removed and ``path`` is as before.

    Args:
        path: The file to write.
        replace: Replace the file if there is one.
        sweep: Remove what killed runs left of this file; costs a listing of its folder.

    Raises:
        LookalikeError: If the disk is full or fails, or there is a file at the end that is not to be replaced.
    """
    with naming_failed_writes(path):
        if sweep:
            remove_leftovers(path)
        aside, lock = _locked_new(path, folder=False)
        try:
            yield aside
            if replace:
                os.replace(aside, path)  # noqa: PTH105 - one call, one rename
            else:
                _take_free_place(aside, path)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
            os.close(lock)


@contextmanager
def naming_failed_writes(target: Path) -> Iterator[None]:
    """Turns a full or failing disk into one line that names the file or folder.

    Other errors pass: what runs in the block may read files too.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_DISKS:
            raise
        raise WriteError(
            f"cannot write {str(target)!r}: {error.strerror}; nothing that was there before has changed"
        ) from error


@contextmanager
def replacing_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yields an empty folder beside ``target`` that takes its place when the block ends well.

    If the block is left by an exception, the folder is removed and ``target`` is as before.

    Args:
        target: The folder to write.
        replace: Replace the target if there is one.

    Raises:
        LookalikeError: If its place cannot be written to, or there is a target at the end that is not to be replaced.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside, lock = _locked_new(target, folder=True)
    except OSError as error:
        raise LookalikeError(f"cannot write to {str(target.parent)!r}: {error.strerror}") from error
    try:
        with naming_failed_writes(target):
            yield aside
            take_place(aside, target, replace=replace)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def take_place(aside: Path, target: Path, *, replace: bool = True) -> None:
    """Puts a folder in a target's place in one step, and removes the one that was there.

    Where the system cannot exchange two folders in one step, the old one is renamed first; a kill between the two
    renames leaves it under a hidden name, from which ``roll_back`` restores it.

    Raises:
        LookalikeError: If there is a target that is not to be replaced.
    """
    if not replace:
        _take_free_place(aside, target)
        return
    if not target.exists():
        os.rename(aside, target)  # noqa: PTH104 - one call, one rename
        return
    if _rename_with(aside, target, _EXCHANGE):
        remove_folder(aside, named=target)
        return
    old = _hidden(target, "old")
    lock = _lock(target)  # it must not pass for a leftover while the target is missing
    try:
        os.rename(target, old)  # noqa: PTH104
        try:
            os.rename(aside, target)  # noqa: PTH104
        except OSError:
            os.rename(old, target)  # noqa: PTH104
            raise
    finally:
        if lock is not None:
            os.close(lock)
    shutil.rmtree(old, ignore_errors=True)


def _take_free_place(aside: Path, target: Path) -> None:
    """Renames a file or folder to a name that is free."""
    if _rename_with(aside, target, _NO_REPLACE):
        return
    if os.path.lexists(target):
        raise LookalikeError(f"{str(target)!r} exists already, and was not there before; it is not replaced")
    os.rename(aside, target)  # noqa: PTH104 - one call, one rename


def remove_folder(folder: Path, *, named: Path | None = None) -> None:
    """Removes a folder, if it exists; nobody sees half of it.

    Args:
        folder: The folder.
        named: The target whose leftover it is if the removal is interrupted; None for the folder itself.
    """
    if folder.exists():
        old = _hidden(named or folder, "old")
        os.rename(folder, old)  # noqa: PTH104 - one call, one rename
        shutil.rmtree(old, ignore_errors=True)


def roll_back(target: Path) -> None:
    """Restores a folder that a killed replacement renamed and did not replace."""
    target = _resolved(target)
    if target.exists() or not target.parent.is_dir():
        return
    olds = [path for path in leftovers(target.parent, target.name) if path.name.endswith(".old") and path.is_dir()]
    if olds:
        newest = max(olds, key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError):  # another process was quicker, or the place is read-only
            os.rename(newest, target)  # noqa: PTH104


def remove_leftovers(target: Path) -> None:
    """Removes what killed runs left beside a target; what another process is writing stays."""
    target = _resolved(target)
    _remove(leftovers(target.parent, target.name))


def remove_leftovers_in(folder: Path) -> None:
    """Removes what killed runs left in a folder, of whatever target; what another process is writing stays."""
    _remove(leftovers(folder))


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Returns what killed runs left in a folder.

    Args:
        folder: The folder.
        name: The name of the file or folder that they wrote; None for any.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    matches = ((entry, _HIDDEN.fullmatch(entry.name)) for entry in entries)
    ours = [Path(entry.path) for entry, match in matches if match and (name is None or match["name"] == name)]
    return [path for path in ours if _is_abandoned(path)]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _resolved(target: Path) -> Path:
    """Follows a link to the folder that it stands for, as its leftovers are beside that one."""
    return target.resolve() if target.is_symlink() else target.absolute()


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")


def _locked_new(target: Path, *, folder: bool) -> tuple[Path, int]:
    """Creates a hidden file or folder beside a target and locks it; returns it and the lock's descriptor."""
    while True:
        aside = _hidden(target, "part")
        if folder:
            aside.mkdir()
        else:
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            lock = _lock(aside)
        except FileNotFoundError:
            continue  # taken for a leftover before it was locked
        if lock is None:
            return aside, os.open(os.devnull, os.O_RDONLY)
        if aside.exists():
            return aside, lock
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Locks a file or folder until the returned descriptor is closed; None where the system cannot."""
    if fcntl is None:
        return None
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        os.close(lock)
        return None
    return lock


def _is_abandoned(path: Path) -> bool:
    """Says whether no process is writing a hidden file or folder."""
    try:
        if fcntl is None:
            return time.time() - path.lstat().st_mtime > _OLD_SECONDS
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > _OLD_SECONDS
    finally:
        os.close(descriptor)
    return True


def _rename_with(source: Path, target: Path, flag: int) -> bool:
    """Renames with a flag of Linux's ``renameat2``; False where the system or the storage does not know it."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_AT_CWD, os.fsencode(source), _AT_CWD, os.fsencode(target), ctypes.c_uint(flag)) == 0)
