"""Cells: the smallest parts of an experiment, each kept as soon as it is done, so that nothing is done twice."""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.provenance import fingerprint_json

Record = dict[str, Any]


@dataclass
class Cells:
    """Results on disk, one JSON file per cell.

    Attributes:
        folder: Where they are kept.
        failed: Why a cell could not be done, by its name.
    """

    folder: Path
    failed: dict[str, str] = field(default_factory=dict)

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
        path = self.folder / f"{name}.json"
        key = fingerprint_json(options)
        kept = _read(path)
        if kept is not None and kept.get("key") == key:
            found: Record = kept["result"]
            return found
        try:
            result = make(*args)
        except LookalikeError as error:
            self.failed[name] = str(error)
            return None
        except Exception as error:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.failed.txt").write_text(traceback.format_exc(), encoding="utf-8")
            self.failed[name] = f"{type(error).__name__}: {error}"
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"key": key, "options": options, "result": result}, indent=1))
        return result


def _read(path: Path) -> Record | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and "result" in value else None
