"""Cells: the smallest parts of an experiment, each kept as soon as it is done, so that nothing is done twice."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.provenance import fingerprint_json, machine, versions

Record = dict[str, Any]
T = TypeVar("T")


@dataclass
class Cells:
    """Results on disk, one JSON file per cell.

    Attributes:
        folder: Where they are kept.
        failed: Why a cell could not be done, by its name.
        used: By name, what each cell that was asked for depends on, and when and on what it was made.
    """

    folder: Path
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
        kept = _read(path)
        if kept is None or kept.get("key") != key:
            result = self.attempt(name, make, *args)
            if result is None:
                return None
            made = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
            kept = {"key": key, "options": options, "made": made, "result": result}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(kept, indent=1))
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
            told.write_text(traceback.format_exc(), encoding="utf-8")
            self.failed[name] = f"{type(error).__name__}: {error} (where: {told})"
            return None
        told.unlink(missing_ok=True)
        return made


def _read(path: Path) -> Record | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and {"options", "result"} <= value.keys() else None
