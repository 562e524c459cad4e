"""Cells: the smallest measurements of an experiment, each written to disk when it is done, so that none is repeated."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.files import write_whole
from lookalike._core.provenance import fingerprint_json, machine, versions
from lookalike._core.working_folder import alone, lock_beside, read_record, write_record, writing_to

Record = dict[str, Any]
T = TypeVar("T")


@dataclass
class Cells:
    """Results on disk, one JSON file per cell.

    Attributes:
        folder: Folder of the files.
        say: Called with a message when another run is measuring a cell and this one waits.
        failed: Reason of each failure, by the cell's name.
        provenance: Options, date, machine and versions of each cell that was returned, by its name.
    """

    folder: Path
    say: Callable[[str], None] = lambda _: None
    failed: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Record] = field(default_factory=dict)

    def get(self, name: str, options: Record, make: Callable[..., Record], *args: Any) -> Record | None:
        """Returns a cell's result: the stored one if it was made with the same options, otherwise a new one.

        Args:
            name: Name of the cell and of its file.
            options: Everything that the result depends on.
            make: Function that measures the result.
            *args: Arguments of ``make``.

        Returns:
            The result, or None if the measurement failed. ``failed`` then has the reason, and other cells go on.
        """
        path, key = self.folder / f"{name}.json", fingerprint_json(options)
        with alone(lock_beside(path), wait=self.say):
            # read under the lock: another run may have measured the cell while this one waited
            stored = _read(path)
            if stored is None or stored.get("key") != key:
                result = self.attempt(name, make, *args)
                if result is None:
                    return None
                measured = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
                stored = {"key": key, "options": options, "made": measured, "result": result}
                with writing_to(self.folder, "the previous parts are safe"):
                    write_record(path, stored)
        self.provenance[name] = {"options": stored["options"], "made": stored.get("made", {})}
        result_stored: Record = stored["result"]
        return result_stored

    def attempt(self, name: str, make: Callable[..., T], *args: Any) -> T | None:
        """Calls ``make``. After a failure, returns None; the reason is in ``failed``, any traceback in a file."""
        traceback_file = self.folder / f"{name}.failed.txt"
        try:
            result = make(*args)
        except LookalikeError as error:
            self.failed[name] = str(error)
            return None
        except Exception as error:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(traceback_file, traceback.format_exc())
            self.failed[name] = f"{type(error).__name__}: {error} (where: {traceback_file})"
            return None
        traceback_file.unlink(missing_ok=True)
        return result


def _read(path: Path) -> Record | None:
    """Reads a cell. Returns None if there is none, or, with a warning, if its file is damaged."""
    if not path.exists():
        return None
    try:
        value = read_record(path)
    except LookalikeError as error:
        warn_of(f"{str(path)!r} cannot be used: {error}; it is done again")
        return None
    return value if {"options", "result"} <= value.keys() else None
