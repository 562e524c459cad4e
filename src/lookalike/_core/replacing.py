"""Files and folders that replace earlier ones as a whole, even if the process is killed.

    .model.1f0c22aa.part    being written, under a lock
    model                   the target; the new folder gets its name in one step
    .model.9b1e07d4.old     the earlier target, while it is removed

A file or folder is written beside its target, under a hidden name and under a lock that the system removes when the
process ends, even if it is killed. Later calls remove hidden files without a lock, which killed runs have left; those
with a lock are being written by another process.
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
from lookalike._core.system_lock import HAS_LOCKS, lock_file

_HIDDEN_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>part|old)")
_ABANDONED_SECONDS = 24 * 3600  # tells leftovers where there are no locks: longer than any file or folder is written
_AT_CWD = -100  # Linux's AT_FDCWD
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NO_REPLACE, _EXCHANGE = 1, 2  # flags of Linux's renameat2


@contextmanager
def replacing_file(path: Path, *, replace: bool = True, sweep: bool = True) -> Iterator[Path]:
    """Yields an empty temporary file beside ``path``, which becomes ``path`` when the block ends normally.

    If the block ends with an exception, the temporary file is removed and ``path`` is unchanged.

    Args:
        path: File to write.
        replace: Replace the file if it exists.
        sweep: Remove leftovers of killed runs that wrote this file; this lists its folder.

    Raises:
        LookalikeError: If the disk is full or fails, or if at the end the file exists and ``replace`` is False.
    """
    with naming_failed_writes(path):
        if sweep:
            remove_leftovers(path)
        try:
            temporary, lock = _create_locked(path, folder=False)
        except OSError as error:  # its own message has the hidden name
            raise WriteError(f"cannot write {str(path)!r}: {error.strerror}") from error
        try:
            yield temporary
            if replace:
                os.replace(temporary, path)  # one call, one rename
            else:
                _rename_if_free(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
            os.close(lock)


@contextmanager
def naming_failed_writes(target: Path) -> Iterator[None]:
    """Turns the error of a full or failing disk into one line with the file or folder.

    Other errors pass unchanged: the block may also read files.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise WriteError(
            f"cannot write {str(target)!r}: {error.strerror}; nothing that was there before has changed"
        ) from error


@contextmanager
def replacing_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yields an empty temporary folder beside ``target``, which becomes ``target`` when the block ends normally.

    If the block ends with an exception, the temporary folder is removed and ``target`` is unchanged.

    Args:
        target: Folder to write.
        replace: Replace the target if it exists.

    Raises:
        LookalikeError: If the target cannot be written, or if at the end it exists and ``replace`` is False.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _create_locked(target, folder=True)
    except OSError as error:
        raise WriteError(f"cannot write {str(target)!r}: {error.strerror}") from error
    try:
        with naming_failed_writes(target):
            yield temporary
            replace_folder(temporary, target, replace=replace)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def try_writing(place: Path, *, named: str | Path | None = None) -> None:
    """Checks that a file or folder can be written at a place, by a hidden file beside it, which is removed again.

    Existence and permissions do not say it: the storage may be read-only, full, or take no files at all. Where
    folders are missing on the way, the nearest one that exists is tried.

    Args:
        place: File or folder to write.
        named: Its path as the caller gave it, for the message; None takes ``place``.

    Raises:
        WriteError: If no file can be written there.
    """
    target, place = named or place, place.absolute()
    while not os.path.lexists(place.parent) and place.parent != place:
        place = place.parent
    probe = _hidden_path(place, "part")
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        probe.unlink(missing_ok=True)  # another process may have taken it for a leftover
    except OSError as error:
        raise WriteError(
            f"cannot write {str(target)!r}: no file can be made in {str(place.parent)!r} ({error.strerror}); choose "
            "another place"
        ) from error


def replace_folder(temporary: Path, target: Path, *, replace: bool = True) -> None:
    """Renames a folder to a target's name in one step, and removes the earlier target.

    If the system cannot exchange two folders in one step, the earlier target is renamed first. A kill between the two
    renames leaves it under a hidden name; ``roll_back`` restores it.

    Raises:
        LookalikeError: If the target exists and ``replace`` is False.
    """
    if not replace:
        _rename_if_free(temporary, target)
        return
    if not target.exists():
        os.rename(temporary, target)  # one call, one rename
        return
    if _rename_with_flag(temporary, target, _EXCHANGE):
        remove_folder(temporary, named=target)
        return
    old = _hidden_path(target, "old")
    lock = _lock_path(target)  # without it, another process could remove the old folder while the target is missing
    try:
        os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(old, target)
            raise
    finally:
        if lock is not None:
            os.close(lock)
    shutil.rmtree(old, ignore_errors=True)


def _rename_if_free(temporary: Path, target: Path) -> None:
    """Renames a file or folder, if nothing has the new name."""
    if _rename_with_flag(temporary, target, _NO_REPLACE):
        return
    if os.path.lexists(target):
        raise LookalikeError(f"{str(target)!r} exists already, but was not there before; it is not replaced")
    os.rename(temporary, target)  # one call, one rename


def remove_folder(folder: Path, *, named: Path | None = None) -> None:
    """Removes a folder, if it exists. It is renamed first, so that no process finds half of it.

    Args:
        folder: Folder to remove.
        named: Target whose name the leftover of an interrupted removal gets; None takes the folder itself.
    """
    if folder.exists():
        old = _hidden_path(named or folder, "old")
        os.rename(folder, old)  # one call, one rename
        shutil.rmtree(old, ignore_errors=True)


def roll_back(target: Path) -> None:
    """Restores a target that was renamed by a replacement, which was killed before it renamed the new folder."""
    target = _follow_link(target)
    if target.exists() or not target.parent.is_dir():
        return
    renamed_targets = [
        path for path in leftovers(target.parent, target.name) if path.name.endswith(".old") and path.is_dir()
    ]
    if renamed_targets:
        newest = max(renamed_targets, key=lambda path: path.stat().st_mtime)
        with contextlib.suppress(OSError):  # another process has done it, or the storage is read-only
            os.rename(newest, target)


def remove_leftovers(target: Path) -> None:
    """Removes leftovers of killed runs beside a target; files that another process is writing stay."""
    target = _follow_link(target)
    _remove_all(leftovers(target.parent, target.name))


def remove_leftovers_in(folder: Path) -> None:
    """Removes leftovers of killed runs in a folder, of any target; files that another process is writing stay."""
    _remove_all(leftovers(folder))


def leftovers(folder: Path, name: str | None = None) -> list[Path]:
    """Returns the hidden files and folders that killed runs left in a folder.

    Args:
        folder: Folder to look in.
        name: Name of the target that they were written for; None for any.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    matches = ((entry, _HIDDEN_NAME.fullmatch(entry.name)) for entry in entries)
    paths = [Path(entry.path) for entry, match in matches if match and (name is None or match["name"] == name)]
    return [path for path in paths if _is_abandoned(path)]


def _remove_all(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _follow_link(target: Path) -> Path:
    """Returns the folder that a link points to: leftovers are beside it and not beside the link."""
    return target.resolve() if target.is_symlink() else target.absolute()


def _hidden_path(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")


def _create_locked(target: Path, *, folder: bool) -> tuple[Path, int]:
    """Creates a hidden file or folder beside a target and locks it. Returns its path and the lock's descriptor."""
    while True:
        temporary = _hidden_path(target, "part")
        if folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            lock = _lock_path(temporary)
        except FileNotFoundError:
            continue  # another process took it for a leftover before it was locked
        if lock is None:
            return temporary, os.open(os.devnull, os.O_RDONLY)
        # Between creation and lock, another process may have removed it as a leftover: then it must be made again.
        if temporary.exists():
            return temporary, lock
        os.close(lock)


def _lock_path(path: Path) -> int | None:
    """Locks a file or folder until the returned descriptor is closed. Returns None if the system has no locks."""
    if not HAS_LOCKS:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    if lock_file(descriptor, wait=True) is None:
        os.close(descriptor)
        return None
    return descriptor


def _is_abandoned(path: Path) -> bool:
    """Returns whether a hidden file or folder is a leftover: no process holds its lock."""
    try:
        if not HAS_LOCKS:
            return time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        was_free = lock_file(descriptor)
        if was_free is None:
            return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_SECONDS
    finally:
        os.close(descriptor)
    return was_free


def _rename_with_flag(source: Path, target: Path, flag: int) -> bool:
    """Renames with a flag of Linux's ``renameat2``. Returns False if the system or the storage does not support it."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_AT_CWD, os.fsencode(source), _AT_CWD, os.fsencode(target), ctypes.c_uint(flag)) == 0)
