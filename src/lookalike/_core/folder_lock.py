"""The lock of a working folder: only one process at a time works in it, others are refused or wait.

The lock is the system's (``flock``), so that it ends with the process, even if that is killed. Windows and some network
file systems have no such locks: there a warning asks the user to start one process at a time.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.records import one_line, shown
from lookalike._core.system_lock import lock_file

LOCK = ".lock"
_POLL_SECONDS = 0.2  # between two attempts to take a lock
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_HELD_LOCKS: dict[Path, tuple[int, IO[bytes]]] = {}  # thread and open file of each lock that this process holds


def lock_in(folder: Path) -> Path:
    """Returns the lock file for a folder that is not moved while a process works in it: the file is inside."""
    return folder / LOCK


def lock_beside(target: Path) -> Path:
    """Returns the lock file for a file or folder that is replaced as a whole: the file is beside it."""
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}{LOCK}")


@contextmanager
def alone(lock: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds a lock while the block runs, which excludes other processes and threads; the same thread may nest blocks.

    In a read-only folder there is no lock: every later attempt to write there fails with an error of its own.

    Args:
        lock: Result of ``lock_in`` or ``lock_beside``; its folder is created.
        wait: Called with one line if another process has the lock, which is then waited for; None raises an error.

    Raises:
        LookalikeError: If another process, or another thread, has the lock and ``wait`` is None.

    Warns:
        LookalikeWarning: If the storage has no locks.
    """
    lock = Path(os.path.realpath(lock))
    if _HELD_LOCKS.get(lock, (None,))[0] == threading.get_ident():
        yield
        return
    file = _try_to_lock(lock)
    if file is None and wait is not None:
        wait(f"waiting: {_holder_text(lock)}")
    while file is None:
        if wait is None:
            raise LookalikeError(f"{_holder_text(lock)}: wait until it ends, or choose another place")
        time.sleep(_POLL_SECONDS)
        file = _try_to_lock(lock)
    try:
        _HELD_LOCKS[lock] = threading.get_ident(), file
        yield
    finally:
        _HELD_LOCKS.pop(lock, None)
        if not file.closed and file.writable():  # a forked child has closed its copy
            with suppress(OSError):
                lock.unlink()  # while the lock is held: waiting processes check that its file still exists
        file.close()


def _try_to_lock(lock: Path) -> IO[bytes] | None:
    """Tries to take a lock. Returns the open lock file, or None if another process has it."""
    while True:
        file = _open_lock_file(lock)
        locked = file.name == os.devnull or lock_file(file)
        if locked is None:
            warn_of(f"{str(lock.parent)!r} is on storage without locks: let only one process at a time work in it")
            return file
        if not locked:
            file.close()
            return None
        if file.name == os.devnull:
            return file
        # The file that was opened may have been removed, and made again by a third process, before it was locked.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                _write_holder(file)
                return file
        file.close()


def _open_lock_file(lock: Path) -> IO[bytes]:
    """Opens a lock file, and creates it if it is missing. In a read-only folder, opens the null device."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise LookalikeError(
                f"cannot write to {str(lock.parent)!r}: {one_line(error.strerror or error)}"
            ) from error
    try:
        return lock.open("rb", buffering=0)  # another user's lock file can be locked, too
    except OSError:
        return Path(os.devnull).open("rb", buffering=0)


def _write_holder(file: IO[bytes]) -> None:
    """Writes the lock's process and host into its file, for other processes' messages; a full disk is ignored."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(holder).encode())


def _holder_text(lock: Path) -> str:
    """Describes in one line which process or thread has a lock."""
    target_name = str(lock.parent if lock.name == LOCK else lock.with_name(lock.name[1 : -len(LOCK)]))
    if lock in _HELD_LOCKS:
        return f"{target_name!r} is in use by another thread of this process"
    process = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(lock.read_bytes())
        process += f" (pid {int(holder['pid'])} on {shown(holder['host'])}, since {shown(holder['since'])})"
    return f"{target_name!r} is in use by {process}"


def _close_after_fork() -> None:
    """Closes a forked child's copies of lock files, which would keep the locks when the parent process has ended."""
    for _, file in _HELD_LOCKS.values():
        with suppress(OSError):
            file.close()
    _HELD_LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)
