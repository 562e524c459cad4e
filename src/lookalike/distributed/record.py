"""What a working folder was made with, so that it is taken up by the same conversion and by no other."""

import json
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.names import json_text, valid_json
from lookalike.records import from_json
from lookalike.replacing import remove_leftovers_in

RECORD = "conversion.json"
_FORMAT = 1


def prepare_folder(folder: Path, made_with: dict[str, Any]) -> tuple[Path, Path]:
    """Makes a working folder, or sees to it that the present one is of the same conversion.

    Args:
        folder: The working folder.
        made_with: Fingerprints and options, as JSON values.

    Returns:
        The folder for shards, and that for the classes' results.

    Raises:
        LookalikeError: If it is of another conversion, and it names what differs; or it is no such folder.
    """
    wanted = valid_json(json.loads(json.dumps({"format": _FORMAT, **made_with})))
    record = folder / RECORD
    try:
        for own in (folder, folder / "shards", folder / "classes"):
            remove_leftovers_in(own)
        if not record.exists():
            if folder.exists() and any(folder.iterdir()):
                raise LookalikeError(
                    f"the working folder {str(folder)!r} holds files and was not made by a conversion (it has no "
                    f"{RECORD!r}); give an empty or a new one"
                )
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(record, json_text(wanted, indent=2, allow_nan=True) + "\n")
        found = from_json(dict[str, Any], json.loads(record.read_bytes()), RECORD)
        parts = folder / "shards", folder / "classes"
        for part in parts:
            part.mkdir(exist_ok=True)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, LookalikeError):
            raise
        raise LookalikeError(f"the working folder {str(folder)!r} cannot be used: {error}") from error
    differing = _differing(found, wanted)
    if differing:
        raise LookalikeError(
            f"the working folder {str(folder)!r} was made with other {' and '.join(differing)}; "
            "give another folder, or remove it to start anew"
        )
    return parts


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names what differs; of options with both values."""
    names = []
    for key in wanted:
        if found.get(key) == wanted[key]:
            continue
        if key != "options":
            names.append(key)
            continue
        before = found[key] if isinstance(found.get(key), dict) else {}
        names += [
            f"{name} ({before.get(name)!r}, now {value!r})"
            for name, value in wanted[key].items()
            if before.get(name) != value
        ]
    return names
