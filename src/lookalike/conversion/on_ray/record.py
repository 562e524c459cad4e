"""The record of a working folder: which conversion it belongs to, so that no other one resumes from it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.working_folder import clean, differences, is_foreign, read_record, write_record, writing_to
from lookalike.embedding.key import as_recorded

RECORD = "conversion.json"
_FORMAT = 2


def recorded_identity(folder: Path) -> Any:
    """Returns the identity of the weights that a working folder was begun with; None for a new folder."""
    with suppress(LookalikeError):  # a damaged record is reported by ``prepare_folder``
        return read_record(folder / RECORD).get("weights")
    return None


def prepare_folder(folder: Path, key: dict[str, Any]) -> tuple[Path, Path]:
    """Creates the working folder, or checks that it belongs to this conversion. The caller holds its lock.

    Args:
        folder: The working folder.
        key: Everything that the conversion depends on, as JSON values by name.

    Returns:
        The folder of the shards, and the folder of the classes' prototypes.

    Raises:
        LookalikeError: If the folder belongs to another conversion (the message names what differs), or is not a
            working folder.
    """
    record, subfolders = folder / RECORD, (folder / "shards", folder / "classes")
    for own_folder in (folder, *subfolders):
        clean(own_folder)
    if not record.exists() and is_foreign(folder):
        raise LookalikeError(
            f"the working folder {str(folder)!r} holds files and was not made by a conversion (it has no {RECORD!r}); "
            "give an empty or a new one"
        )
    with writing_to(folder, "nothing was done yet"):
        folder.mkdir(parents=True, exist_ok=True)
        if not record.exists():
            write_record(record, {"format": _FORMAT, **key})
        for subfolder in subfolders:
            subfolder.mkdir(exist_ok=True)
    try:
        previous_key = read_record(record)
    except LookalikeError as error:
        raise LookalikeError(
            f"the working folder {str(folder)!r} cannot be used: {RECORD!r}: {error}; give another folder, or remove "
            "it to start anew"
        ) from error
    differing = differences(previous_key, as_recorded({"format": _FORMAT, **key}, previous_key))
    if differing:
        raise LookalikeError(
            f"the working folder {str(folder)!r} was made with other {differing}; give another folder, or remove it to "
            "start anew"
        )
    return subfolders
