"""A folder that keeps the prototypes of each class as soon as they are found."""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.provenance import fingerprint_json

_KEY = "clusters.json"


class ClusterFolder:
    """Keeps classes' prototypes, one file each.

    Args:
        folder: Where; what it has of other options or other embeddings is removed.
        options: What the prototypes depend on, as plain JSON.

    Raises:
        LookalikeError: If it holds something else, or cannot be written to.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.folder = folder
        key = fingerprint_json(json.loads(json.dumps(options, default=str)))
        held = folder / _KEY
        if folder.exists() and any(folder.iterdir()) and not held.is_file():
            raise LookalikeError(f"{str(folder)!r} holds files, and no clusters; choose another working folder")
        try:
            if held.is_file() and held.read_text(encoding="utf-8") != key:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(held, key)
        except OSError as error:
            raise LookalikeError(f"cannot write to {str(folder)!r}: {error.strerror}") from error

    def get(self, k: int) -> Tensor | None:
        """Returns a class's prototypes [L, D]; None if they are not there."""
        try:
            return torch.from_numpy(np.load(self._file(k)))
        except (OSError, ValueError):
            return None

    def put(self, k: int, prototypes: Tensor) -> None:
        """Keeps a class's prototypes.

        Raises:
            LookalikeError: If the disk is full.
        """
        aside = self.folder / f".{k}.{secrets.token_hex(4)}.part.npy"
        try:
            np.save(aside, prototypes.numpy())
            aside.replace(self._file(k))
        except OSError as error:
            raise LookalikeError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)

    def _file(self, k: int) -> Path:
        return self.folder / f"class-{k:06d}.npy"
