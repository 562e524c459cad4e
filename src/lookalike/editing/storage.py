"""Writes and reads the history of a model's edits in its folder.

- ``edits.json``: who did what, when, why and with what effect; which state is the present one
- ``corrected-labels.csv``: labels that should be others, if there are any
- ``edits.safetensors``: all states; a prototype that several states share is stored once
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.names import json_text, spreadsheet_cell
from lookalike._core.records import from_json, parse_json, plain_json, read_bytes
from lookalike.editing.history import History, Snapshot
from lookalike.editing.state import State, keys_of
from lookalike.model.annotations import Annotations
from lookalike.model.prototypes import Prototypes
from lookalike.saved import EDITS_JSON, refusing, write_tensors
from lookalike.saved.tensor_file import read_header, read_tensors

EDITS_TENSORS = "edits.safetensors"
CORRECTIONS = "corrected-labels.csv"
_FORMAT = 1
_SURVEYED = ("counts", "purity", "nearest", "distances", "percentiles", "quantiles")


def history_files(history: History, snapshots: Sequence[Snapshot]) -> dict[str, bytes]:
    """Returns the content of both files."""
    pool: dict[int, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    states = []
    images: dict[bytes, int] = {}
    pictures: list[Tensor] = []
    for number, snapshot in enumerate(snapshots):
        state = snapshot.state
        for key, vector in zip(state.keys.tolist(), state.vectors, strict=True):
            pool.setdefault(key, vector)
        tensors[f"{number}.labels"], tensors[f"{number}.keys"] = state.labels, state.keys
        if state.erased.any():
            tensors[f"{number}.erased"] = state.erased
        for name in _SURVEYED:
            tensors[f"{number}.{name}"] = getattr(snapshot.prototypes, name)
        if snapshot.images is not None:
            rows = []
            for picture in snapshot.images.flatten(0, 1):
                content = picture.contiguous().numpy().tobytes()
                if content not in images:
                    images[content] = len(pictures)
                    pictures.append(picture)
                rows.append(images[content])
            tensors[f"{number}.images"] = torch.tensor(rows).reshape(snapshot.images.shape[:2])
        states.append({"annotations": state.annotations.to_dict(), "shown": list(state.shown)})
    tensors["pool.vectors"] = torch.stack(list(pool.values()))
    tensors["pool.keys"] = torch.tensor(list(pool))
    if pictures:
        tensors["pool.images"] = torch.stack(pictures)
    with TemporaryDirectory() as folder:
        path = Path(folder) / EDITS_TENSORS
        write_tensors({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
        content = path.read_bytes()
    log = plain_json({"format": _FORMAT, "history": history.to_dict(), "states": states})
    files = {EDITS_JSON: (json_text(log, indent=1) + "\n").encode("utf-8", "backslashreplace"), EDITS_TENSORS: content}
    return files | ({CORRECTIONS: _corrections(history)} if history.corrections else {})


def _corrections(history: History) -> bytes:
    """Returns the corrected labels as a table; text that a spreadsheet would take for a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["sample", "file_name", "label", "corrected"])
    for correction in history.corrections:
        texts = (correction.name, correction.label, correction.corrected)
        writer.writerow([correction.sample, *map(spreadsheet_cell, texts)])
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def has_history(folder: Path) -> bool:
    """Returns whether a model's folder has a history of edits."""
    return (folder / EDITS_JSON).is_file()


def read_history(folder: Path, class_names: Sequence[str]) -> tuple[History, list[Snapshot]]:
    """Reads the history of a model, whose folder was checked by ``load``.

    Raises:
        LookalikeError: If a file is missing or damaged.
    """
    with refusing(f"the edits in {str(folder)!r} cannot be used"):
        log = parse_json(read_bytes(folder / EDITS_JSON))
        if not isinstance(log, dict) or not isinstance(log.get("states"), list):
            raise LookalikeError(f"{EDITS_JSON!r} is no log of edits")
        if log.get("format") != _FORMAT:
            raise LookalikeError(f"{EDITS_JSON!r} was written by a later version of lookalike; update lookalike")
        history = History.from_dict(log.get("history"))
        read_header(folder / EDITS_TENSORS)
        tensors = read_tensors(folder / EDITS_TENSORS)
        if len(log["states"]) != len(history.entries):
            raise LookalikeError(f"{EDITS_JSON!r} has {len(log['states'])} states of {len(history.entries)} edits")
        try:
            snapshots = [
                _snapshot(number, stored_state, tensors, tuple(class_names))
                for number, stored_state in enumerate(log["states"])
            ]
        except (KeyError, IndexError, RuntimeError) as error:
            raise LookalikeError(f"{EDITS_TENSORS!r} does not fit {EDITS_JSON!r}: {error}") from error
    return history, snapshots


def _snapshot(number: int, said: Any, tensors: dict[str, Tensor], class_names: tuple[str, ...]) -> Snapshot:
    """Puts one state together again."""
    keys, labels = tensors[f"{number}.keys"], tensors[f"{number}.labels"]
    row_of = {key: row for row, key in enumerate(tensors["pool.keys"].tolist())}
    vectors = tensors["pool.vectors"][[row_of[key] for key in keys.tolist()]]
    if not torch.equal(keys_of(vectors, labels), keys):
        raise LookalikeError(f"{EDITS_TENSORS!r} is damaged: the prototypes of state {number} do not fit their keys")
    annotations = from_json(Annotations, said.get("annotations"), f"states[{number}].annotations")
    shown = from_json(tuple[int | None, ...], said.get("shown"), f"states[{number}].shown")
    if not len(keys) == len(annotations) == len(shown):
        raise LookalikeError(f"state {number} has {len(keys)} prototypes and {len(annotations)} annotations")
    surveyed = {name: tensors[f"{number}.{name}"] for name in _SURVEYED}
    prototypes = Prototypes(vectors.clone(), labels.clone(), list(class_names), **surveyed)
    images, erased = tensors.get(f"{number}.images"), tensors.get(f"{number}.erased")
    if erased is not None and erased.shape != vectors.shape:
        raise LookalikeError(f"{EDITS_TENSORS!r} is damaged: what was erased in state {number} does not fit it")
    return Snapshot(
        State(
            vectors,
            labels,
            keys,
            annotations,
            shown,
            class_names,
            torch.zeros_like(vectors) if erased is None else erased,
        ),
        prototypes,
        None if images is None else tensors["pool.images"][images],
    )
