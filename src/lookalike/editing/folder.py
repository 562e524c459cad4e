"""Opens and saves edited models: the folder that ``load`` reads, with the history beside the model."""

import hashlib
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Unpack
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.folder_lock import alone, lock_beside
from lookalike._core.records import read_bytes
from lookalike.editing.history import Snapshot
from lookalike.editing.session import EditSession
from lookalike.editing.sources import EditOptions
from lookalike.editing.storage import CORRECTIONS, EDITS_TENSORS, has_history, history_files, read_history
from lookalike.model import load
from lookalike.model.folder import GALLERY
from lookalike.saved import CONFIG, EDITS_JSON, TENSORS

_OWN_FILES = (CONFIG, TENSORS, EDITS_JSON, EDITS_TENSORS, CORRECTIONS, "README.md", GALLERY)
# Most of the time of a save is spent on the gallery; undo and redo lead to states whose gallery was drawn before.
_galleries: MutableMapping[Snapshot, bytes] = WeakKeyDictionary()
_PICTURE = re.compile(r"images/\d+-\d+\.png")
_MOST_BYTES = 2**26  # of other files in the folder, which are written again with each save


def open_session(
    folder: str | Path,
    train: Any = None,
    *,
    network: nn.Module | None = None,
    device: torch.device | str = "cpu",
    **options: Unpack[EditOptions],
) -> EditSession:
    """Opens a saved model for editing, with all earlier edits.

    Args:
        folder: A folder that ``save`` wrote.
        train: The training data; see ``EditSession``.
        network: The network, if it comes from the user's own code; see ``load``.
        device: Where images are embedded and regions explained.
        **options: As for ``EditSession``.

    Raises:
        LookalikeError: If the folder is none, or is damaged.
    """
    folder = checks.path("folder", folder)
    model = load(folder, network).to(device)
    if not has_history(folder):
        return EditSession(model, train, **options)
    digest = _digest(read_bytes(folder / EDITS_JSON))  # before the history is read: a later one is not taken for it
    session = EditSession(model, train, **options)
    session.continue_history(*read_history(folder, model.class_names))
    session.stored.add(digest)
    return session


def save_session(session: EditSession, folder: str | Path, *, overwrite: bool = False) -> None:
    """Writes the edited model with the whole history. The folder is replaced in one step.

    Other files in a folder that is overwritten, such as a training log, are kept.

    Args:
        session: The session.
        folder: Path of the folder.
        overwrite: Replace an existing folder.

    Raises:
        LookalikeError: If the folder exists, or has a history that this session does not continue.
    """
    folder = checks.path("folder", folder)
    with alone(lock_beside(folder)):
        files = _other_files(folder) if overwrite and folder.is_dir() else {}
        if overwrite and has_history(folder):
            _check_known(session, folder)
        files |= history_files(session.history, session.snapshots)
        snapshot = session.snapshot
        if snapshot in _galleries:
            files[GALLERY] = _galleries[snapshot]
        session.model.save(folder, extra_files=files, overwrite=overwrite)
        if (folder / GALLERY).is_file():
            _galleries[snapshot] = (folder / GALLERY).read_bytes()
        session.stored.add(_digest(files[EDITS_JSON]))


def _check_known(session: EditSession, folder: Path) -> None:
    """Checks that the folder's history is one that this session continues: edits, looks at the test part, labels.

    Raises:
        LookalikeError: If another session has saved a history there.
    """
    if _digest(read_bytes(folder / EDITS_JSON)) not in session.stored:
        raise LookalikeError(
            f"{str(folder)!r} has edits, looks at the test part or corrected labels that were made elsewhere "
            "meanwhile; open it again, or save to another folder"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _other_files(folder: Path) -> dict[str, bytes]:
    """Returns the files in a model's folder that are not the model's own."""
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in _OWN_FILES or _PICTURE.fullmatch(name):
            continue
        if path.is_symlink():
            raise LookalikeError(
                f"{str(folder)!r} holds a link, {name!r}, which would be lost; take it out, or save to another folder"
            )
        if not path.is_file():
            continue
        total += path.stat().st_size
        if total > _MOST_BYTES:
            raise LookalikeError(
                f"{str(folder)!r} holds other files than the model's, {name!r} among them, of more than "
                f"{_MOST_BYTES // 2**20} MiB; save the edited model to another folder"
            )
        files[name] = path.read_bytes()
    return files
