"""What every folder of unfinished or reusable work has: a lock, a record of what it depends on, checksums.

* **Lock.** One process at a time works in a folder. The lock is the system's (``flock``), so that it ends with the
  process, however that ends. Windows has none, nor do some network file systems: there a warning asks the user to
  start one process at a time.
* **Record.** The *key* of a result is everything that it depends on, as named JSON values. It is kept beside the
  result, and a result with another key is never used: ``differences`` names what differs.
* **Checksums.** A file that was damaged on the disk is never used either. Small files end in a seal, JSON files have
  their own fingerprint; a larger file has its checksum in its name, or in a sealed file beside it.
* **Full disks.** ``writing_to`` turns an error of the disk into one line that says what is safe.
"""

import errno
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lookalike.errors import LookalikeError, warn_of
from lookalike.files import write_whole
from lookalike.names import json_text, valid_json
from lookalike.provenance import fingerprint_json
from lookalike.records import one_line, plain_json, read_bytes, read_json, shown
from lookalike.replacing import remove_leftovers, remove_leftovers_in, replacing_file

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

LOCK = ".lock"
_SEAL = b"\nsha256:"
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_LITTER = re.compile(  # what killed runs and systems leave
    r"\..+\.[0-9a-f]{8}\.(part|old)|\.(.+\.)?lock|\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+"
)
_POLL_SECONDS = 0.2
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)

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
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        except OSError as error:
            if error.errno in _READ_ONLY:
                return Path(os.devnull).open("rb")
            raise LookalikeError(f"cannot write to {str(lock.parent)!r}: {_reason(error)}") from error
        locked = _flock(file)
        if locked is None:
            warn_of(f"{str(lock.parent)!r} is on storage without locks: let only one process at a time work in it")
            return file
        if not locked:
            file.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                _introduce(file)
                return file
        file.close()  # it was removed by the process that had it


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


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON values whole, with their own fingerprint."""
    plain = json.loads(json.dumps(valid_json(values)))
    write_whole(path, json_text({**plain, "fingerprint": fingerprint_json(plain)}, indent=1, allow_nan=True) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Reads what ``write_record`` wrote.

    Raises:
        LookalikeError: If it is missing, no such file, or was altered; the reason alone.
    """
    values = read_json(path, finite=False)
    if not isinstance(values, dict) or "fingerprint" not in values:
        raise LookalikeError("it has no fingerprint")
    if values.pop("fingerprint") != fingerprint_json(values):
        raise LookalikeError("it was altered or damaged: its fingerprint differs")
    return values


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Names what differs between two keys, with both values where they are short; empty if nothing does.

    Example:
        >>> differences({"seed": 1, "data": "a"}, {"seed": 2, "data": "a"})
        'seed (was 1, now 2)'
    """
    held, wanted = (valid_json(plain_json(dict(key))) for key in (held, wanted))
    names = [name for name in {**wanted, **held} if held.get(name) != wanted.get(name)]
    return " and ".join(_difference(name, held.get(name), wanted.get(name)) for name in names)


def _difference(name: str, before: Any, now: Any) -> str:
    if any(isinstance(value, str) and _FINGERPRINT.fullmatch(value) for value in (before, now)):
        return name
    return f"{name} (was {shown(before)}, now {shown(now)})"


def is_foreign(folder: Path) -> bool:
    """Says whether a folder holds anything beside what killed runs and the system leave."""
    return folder.is_dir() and any(not _LITTER.fullmatch(path.name) for path in folder.iterdir())


def clean(folder: Path) -> None:
    """Removes what killed runs left in a folder and beside it; what another process is writing stays."""
    remove_leftovers(folder)
    remove_leftovers_in(folder)


def write_sealed(path: Path, content: bytes) -> None:
    """Writes a file whole, with a checksum behind its content."""
    with replacing_file(path, sweep=False) as aside:
        aside.write_bytes(content + _SEAL + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes | None:
    """Returns the content of a file that ``write_sealed`` wrote; None if there is none.

    Warns:
        LookalikeWarning: If it was altered or damaged; None is returned, so that it is made again.
    """
    try:
        return unsealed(path)
    except FileNotFoundError:
        return None
    except LookalikeError as error:
        warn_of(f"{str(path)!r} cannot be used: {error}; it is made again")
        return None


def unsealed(path: Path) -> bytes:
    """Returns the content of a file that ``write_sealed`` wrote.

    Raises:
        LookalikeError: If it was altered or damaged, or cannot be read; the reason alone.
        FileNotFoundError: If there is none.
    """
    try:
        whole = read_bytes(path, path.lstat().st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LookalikeError(_reason(error)) from error
    content, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    if seal != _SEAL + hashlib.sha256(content).digest():
        raise LookalikeError("it was altered or damaged, as it does not fit its checksum")
    return content


@contextmanager
def writing_to(folder: Path, safe: str = "what was finished is safe") -> Iterator[None]:
    """Turns an error of the disk while a block writes into one line.

    Args:
        folder: For the message.
        safe: What of the work is safe.

    Raises:
        LookalikeError: With the reason, what is safe, and the way out.
    """
    try:
        yield
    except OSError as error:
        raise LookalikeError(
            f"cannot write to {str(folder)!r}: {_reason(error)}; {safe}: make room, and give the same command again"
        ) from error


def _reason(error: OSError) -> str:
    return "the disk is full" if error.errno in _FULL else one_line(error.strerror or error)
