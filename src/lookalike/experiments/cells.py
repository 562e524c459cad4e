"""Cells: the smallest parts of an experiment, each kept as soon as it is done, so that nothing is done twice."""

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
        folder: Where they are kept.
        say: Is told if another run is at a cell and is waited for.
        failed: Why a cell could not be done, by its name.
        used: By name, what each cell that was asked for depends on, and when and on what it was made.
    """

    folder: Path
    say: Callable[[str], None] = lambda _: None
    failed: dict[str, str] = field(default_factory=dict)
    used: dict[str, Record] = field(default_factory=dict)

    def get(self, name: str, options: Record, make: Callable[..., Record], *args: Any) -> Record | None:
        """Returns a cell's result: the one that is kept, if it was made with the same options, else a new one.

        Args:
            name: The cell's, also its file's.
            options: What the result depends on.
            make: Does the work.
            *args: What it is given.

        Returns:
            None if it failed; the reason is in ``failed``, and the other cells go on.
        """
        path, key = self.folder / f"{name}.json", fingerprint_json(options)
        with alone(lock_beside(path), wait=self.say):
            kept = _read(path)
            if kept is None or kept.get("key") != key:
                result = self.attempt(name, make, *args)
                if result is None:
                    return None
                made = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
                kept = {"key": key, "options": options, "made": made, "result": result}
                with writing_to(self.folder, "the parts before are safe"):
                    write_record(path, kept)
        self.used[name] = {"options": kept["options"], "made": kept.get("made", {})}
        found: Record = kept["result"]
        return found

    def attempt(self, name: str, make: Callable[..., T], *args: Any) -> T | None:
        """Returns what is made; None if that failed, with the reason in ``failed`` and any traceback in a file."""
        told = self.folder / f"{name}.failed.txt"
        try:
            made = make(*args)
        except LookalikeError as error:
            self.failed[name] = str(error)
            return None
        except Exception as error:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(told, traceback.format_exc())
            self.failed[name] = f"{type(error).__name__}: {error} (where: {told})"
            return None
        told.unlink(missing_ok=True)
        return made


def _read(path: Path) -> Record | None:
    """Reads a cell; None if there is none, or it was damaged, which is warned of."""
    if not path.exists():
        return None
    try:
        value = read_record(path)
    except LookalikeError as error:
        warn_of(f"{str(path)!r} cannot be used: {error}; it is done again")
        return None
    return value if {"options", "result"} <= value.keys() else None
