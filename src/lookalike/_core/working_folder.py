"""Folders of unfinished or reusable work: each has a lock, a record of what it depends on, and checksums.

* **Lock.** One process at a time works in a folder; see ``lookalike._core.folder_lock``.
* **Record.** The *key* of a result has everything that the result depends on, as named JSON values. It is stored beside
  the result. A result with another key is never used; ``differences`` lists the values that differ.
* **Checksums.** A file that was damaged on the disk is never used either. Small files end in a checksum (they are
  *sealed*), JSON files have their own fingerprint, and a larger file has its checksum in a sealed file beside it.
* **Full disks.** ``writing_to`` turns an error of the disk into one line that says which work is safe.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError, WriteError, warn_of
from lookalike._core.files import write_whole
from lookalike._core.folder_lock import alone, lock_beside, lock_in
from lookalike._core.names import json_text, valid_json
from lookalike._core.provenance import fingerprint_json
from lookalike._core.records import one_line, plain_json, read_bytes, read_json, shown
from lookalike._core.replacing import remove_leftovers, remove_leftovers_in, replacing_file

__all__ = [
    "alone",
    "clean",
    "differences",
    "is_foreign",
    "lock_beside",
    "lock_in",
    "read_record",
    "read_sealed",
    "unsealed",
    "write_record",
    "write_sealed",
    "writing_to",
]

_SEAL = b"\nsha256:"
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_FINGERPRINT = re.compile("[0-9a-f]{64}|[0-9a-f]{32}:xxh3p?")
_LEFTOVER_NAMES = re.compile(  # files that killed runs and operating systems leave
    r"\..+\.[0-9a-f]{8}\.(part|old)|\.(.+\.)?lock|\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+"
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON values together with their fingerprint, completely or not at all."""
    plain = json.loads(json.dumps(valid_json(values)))
    write_whole(path, json_text({**plain, "fingerprint": fingerprint_json(plain)}, indent=1, allow_nan=True) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Reads a file written by ``write_record``.

    Raises:
        LookalikeError: If it is missing, has no fingerprint or was altered; the text is the reason alone.
    """
    values = read_json(path, finite=False)
    if not isinstance(values, dict) or "fingerprint" not in values:
        raise LookalikeError("it has no fingerprint")
    if values.pop("fingerprint") != fingerprint_json(values):
        raise LookalikeError("it was altered or damaged: its fingerprint differs")
    return values


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Describes the differences between two keys, with both values if they are short; empty if there are none.

    Example:
        >>> differences({"seed": 1, "data": "a"}, {"seed": 2, "data": "a"})
        'seed (was 1, now 2)'
        >>> differences({"outputs": {"kind": "logits", "n": 2}}, {"outputs": {"kind": "logits", "n": 3}})
        'outputs.n (was 2, now 3)'
    """
    stored, current = (valid_json(plain_json(dict(key))) for key in (stored, current))
    names = [name for name in {**current, **stored} if stored.get(name) != current.get(name)]
    return " and ".join(_difference(name, stored.get(name), current.get(name)) for name in names)


def _difference(name: str, stored: Any, current: Any) -> str:
    if isinstance(stored, dict) and isinstance(current, dict):  # only what differs of a long one would be cut off
        entries = [entry for entry in {**current, **stored} if stored.get(entry) != current.get(entry)]
        return " and ".join(_difference(f"{name}.{entry}", stored.get(entry), current.get(entry)) for entry in entries)
    if any(isinstance(value, str) and _FINGERPRINT.fullmatch(value) for value in (stored, current)):
        return name
    return f"{name} (was {shown(stored)}, now {shown(current)})"


def is_foreign(folder: Path) -> bool:
    """Returns whether a folder has files other than leftovers of killed runs and of the operating system."""
    return folder.is_dir() and any(not _LEFTOVER_NAMES.fullmatch(path.name) for path in folder.iterdir())


def clean(folder: Path) -> None:
    """Removes leftovers of killed runs in a folder and beside it; files that another process is writing stay."""
    remove_leftovers(folder)
    remove_leftovers_in(folder)


def write_sealed(path: Path, content: bytes) -> None:
    """Writes a file with a checksum at its end, completely or not at all.

    The checksum includes the file's name, so that a file renamed to another's name is refused.
    """
    with replacing_file(path, sweep=False) as temporary:
        temporary.write_bytes(content + _SEAL + _checksum(path, content))


def read_sealed(path: Path) -> bytes | None:
    """Returns the content of a file written by ``write_sealed``; None if it does not exist.

    Warns:
        LookalikeWarning: If it was altered or damaged. The result is then None, so that it is made again.
    """
    try:
        return unsealed(path)
    except FileNotFoundError:
        return None
    except LookalikeError as error:
        warn_of(f"{str(path)!r} cannot be used: {error}; it is made again")
        return None


def unsealed(path: Path) -> bytes:
    """Returns the content of a file written by ``write_sealed``.

    Raises:
        LookalikeError: If it was altered or damaged, or cannot be read; the text is the reason alone.
        FileNotFoundError: If it does not exist.
    """
    try:
        sealed = read_bytes(path, path.lstat().st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LookalikeError(_reason(error)) from error
    content, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    if seal != _SEAL + _checksum(path, content):
        raise LookalikeError("it was altered or damaged, as it does not fit its checksum")
    return content


def _checksum(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode(errors="surrogateescape") + b"\0" + content).digest()


@contextmanager
def writing_to(folder: Path, safe: str = "what was finished is safe") -> Iterator[None]:
    """Turns a disk error in a block that writes into one line.

    Args:
        folder: Folder to name in the message.
        safe: Clause that says which work is safe.

    Raises:
        LookalikeError: With the reason, the safe work, and the way out.
    """
    try:
        yield
    except (OSError, WriteError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        raise LookalikeError(
            f"cannot write to {str(folder)!r}: {_reason(cause)}; {safe}: make room, and run the same command again"
        ) from error


def _reason(error: BaseException | None) -> str:
    if not isinstance(error, OSError):
        return "for a reason that the system did not give"
    return "the disk is full" if error.errno in _DISK_FULL else one_line(error.strerror or error)
