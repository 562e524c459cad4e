"""What a working folder was made with, so that it is taken up by the same conversion and by no other."""

from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.working_folder import clean, differences, is_foreign, read_record, write_record, writing_to

RECORD = "conversion.json"
_FORMAT = 2


def prepare_folder(folder: Path, key: dict[str, Any]) -> tuple[Path, Path]:
    """Makes a working folder, or checks that the present one is of the same conversion; this process has its lock.

    Args:
        folder: The working folder.
        key: Everything that the conversion depends on, as JSON values by name.

    Returns:
        The folder for shards, and that for the classes' results.

    Raises:
        LookalikeError: If it is of another conversion, and it names what differs; or it is no such folder.
    """
    record, parts = folder / RECORD, (folder / "shards", folder / "classes")
    for own in (folder, *parts):
        clean(own)
    if not record.exists() and is_foreign(folder):
        raise LookalikeError(
            f"the working folder {str(folder)!r} holds files and was not made by a conversion (it has no {RECORD!r}); "
            "give an empty or a new one"
        )
    with writing_to(folder, "nothing was done yet"):
        folder.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            write_record(record, {"format": _FORMAT, **key})
        for part in parts:
            part.mkdir(exist_ok=True)
    try:
        held = read_record(record)
    except LookalikeError as error:
        raise LookalikeError(
            f"the working folder {str(folder)!r} cannot be used: {RECORD!r}: {error}; give another folder, or remove "
            "it to start anew"
        ) from error
    differing = differences(held, {"format": _FORMAT, **key})
    if differing:
        raise LookalikeError(
            f"the working folder {str(folder)!r} was made with other {differing}; give another folder, or remove it to "
            "start anew"
        )
    return parts
