"""A folder that keeps the prototypes of each class as soon as they are found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import LookalikeError
from lookalike.files import write_whole
from lookalike.provenance import fingerprint_json
from lookalike.replacing import remove_folder, remove_leftovers, remove_leftovers_in, replacing_file

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
        remove_leftovers(folder)
        remove_leftovers_in(folder)
        if folder.exists() and any(folder.iterdir()) and not held.is_file():
            raise LookalikeError(f"{str(folder)!r} holds files, and no clusters; choose another working folder")
        try:
            if held.is_file() and held.read_bytes() != key.encode():
                remove_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(held, key)
        except OSError as error:
            raise LookalikeError(f"cannot write to {str(folder)!r}: {error.strerror}") from error

    def get(self, k: int) -> Tensor | None:
        """Returns a class's prototypes [L, D]; None if they are not there, or damaged."""
        try:
            kept = np.load(self._file(k), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = isinstance(kept, np.ndarray) and kept.ndim == 2 and kept.dtype.kind == "f" and np.isfinite(kept).all()
        return torch.from_numpy(kept) if whole else None

    def put(self, k: int, prototypes: Tensor) -> None:
        """Keeps a class's prototypes.

        Raises:
            LookalikeError: If the disk is full.
        """
        try:
            with replacing_file(self._file(k), sweep=False) as aside, aside.open("wb") as file:
                np.save(file, prototypes.numpy())
        except OSError as error:
            raise LookalikeError(f"cannot write to {str(self.folder)!r}: {error.strerror}") from error

    def _file(self, k: int) -> Path:
        return self.folder / f"class-{k:06d}.npy"
