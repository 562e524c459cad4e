"""The lock of a working folder: one process at a time, refused or waited for in one line.

The lock is the system's (``flock``), so that it ends with the process, however that ends. Windows has none, nor do some
network file systems: there a warning asks the user to start one process at a time.
"""

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.records import one_line, shown

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

LOCK = ".lock"
_POLL_SECONDS = 0.2
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_HELD: dict[Path, tuple[int, IO[bytes]]] = {}  # by lock file: the thread that has it, and the open file


def lock_in(folder: Path) -> Path:
    """Returns the lock file of a folder that stays where it is while work goes on in it."""
    return folder / LOCK


def lock_beside(target: Path) -> Path:
    """Returns the lock file of a file or folder that is replaced as a whole."""
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}{LOCK}")


@contextmanager
def alone(lock: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keeps other processes, and other threads, out while the block runs; the same thread may come in again.

    Where nothing can be written, there is no lock, and every later attempt to write says so.

    Args:
        lock: What ``lock_in`` or ``lock_beside`` returned; its folder is made.
        wait: Is given one line if another process has the lock, and then the lock is waited for; None refuses.

    Raises:
        LookalikeError: If another process, or another thread, has the lock and ``wait`` is None.

    Warns:
        LookalikeWarning: If the storage has no locks.
    """
    lock = Path(os.path.realpath(lock))
    if _HELD.get(lock, (None,))[0] == threading.get_ident():
        yield
        return
    file = _acquired(lock)
    if file is None and wait is not None:
        wait(f"waiting: {_holder(lock)}")
    while file is None:
        if wait is None:
            raise LookalikeError(f"{_holder(lock)}: wait for its end, or give another place")
        time.sleep(_POLL_SECONDS)
        file = _acquired(lock)
    try:
        _HELD[lock] = threading.get_ident(), file
        yield
    finally:
        _HELD.pop(lock, None)
        if not file.closed and file.writable():  # a forked child has closed its copy
            with suppress(OSError):
                lock.unlink()  # while it is held: who waits for it looks whether its file is still there
        file.close()


def _acquired(lock: Path) -> IO[bytes] | None:
    """Returns the open lock file; None while another process has it."""
    while True:
        file = _opened(lock)
        locked = file.name == os.devnull or _flock(file)
        if locked is None:
            warn_of(f"{str(lock.parent)!r} is on storage without locks: let only one process at a time work in it")
            return file
        if not locked:
            file.close()
            return None
        if file.name == os.devnull:
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                _introduce(file)
                return file
        file.close()  # it was removed by the process that had it


def _opened(lock: Path) -> IO[bytes]:
    """Opens a lock file, and makes it if it is not there; where nothing can be written, the null device."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise LookalikeError(
                f"cannot write to {str(lock.parent)!r}: {one_line(error.strerror or error)}"
            ) from error
    try:
        return lock.open("rb", buffering=0)  # another user's
    except OSError:
        return Path(os.devnull).open("rb", buffering=0)


def _introduce(file: IO[bytes]) -> None:
    """Writes who has a lock into its file; on a full disk the lock does without."""
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(told).encode())


def _flock(file: IO[bytes]) -> bool | None:
    """Locks a file and says whether that succeeded; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder(lock: Path) -> str:
    """Says in one line who works in a folder."""
    named = str(lock.parent if lock.name == LOCK else lock.with_name(lock.name[1 : -len(LOCK)]))
    if lock in _HELD:
        return f"{named!r} is in use by another thread of this process"
    who = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(lock.read_bytes())
        who += f" (pid {int(told['pid'])} on {shown(told['host'])}, since {shown(told['since'])})"
    return f"{named!r} is in use by {who}"


def _forget() -> None:
    """Closes a forked child's copies of the locks, which would otherwise outlive the process that has them."""
    for _, file in _HELD.values():
        with suppress(OSError):
            file.close()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
