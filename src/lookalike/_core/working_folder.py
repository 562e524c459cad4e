"""What every folder of unfinished or reusable work has: a lock, a record of what it depends on, checksums.

* **Lock.** One process at a time works in a folder; see ``lookalike._core.folder_lock``.
* **Record.** The *key* of a result is everything that it depends on, as named JSON values. It is kept beside the
  result, and a result with another key is never used: ``differences`` names what differs.
* **Checksums.** A file that was damaged on the disk is never used either. Small files end in a seal, JSON files have
  their own fingerprint, a larger file has its checksum in a sealed file beside it.
* **Full disks.** ``writing_to`` turns an error of the disk into one line that says what is safe.
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
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_LITTER = re.compile(  # what killed runs and systems leave
    r"\..+\.[0-9a-f]{8}\.(part|old)|\.(.+\.)?lock|\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+"
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


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
    """Writes a file whole, with a checksum behind its content: of its name too, as files may change places."""
    with replacing_file(path, sweep=False) as aside:
        aside.write_bytes(content + _SEAL + _checksum(path, content))


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
    if seal != _SEAL + _checksum(path, content):
        raise LookalikeError("it was altered or damaged, as it does not fit its checksum")
    return content


def _checksum(path: Path, content: bytes) -> bytes:
    return hashlib.sha256(path.name.encode(errors="surrogateescape") + b"\0" + content).digest()


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
    except (OSError, WriteError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        raise LookalikeError(
            f"cannot write to {str(folder)!r}: {_reason(cause)}; {safe}: make room, and give the same command again"
        ) from error


def _reason(error: BaseException | None) -> str:
    if not isinstance(error, OSError):
        return "for a reason that the system did not give"
    return "the disk is full" if error.errno in _FULL else one_line(error.strerror or error)
