"""What the studio's page works on: an edit session, its pictures, its map, its suspects.

Requests that read or change the session run one at a time. Pictures, maps and searches for suspects wait only for
requests of their own kind: a search takes minutes in large data, and the page must not freeze meanwhile.
"""

import functools
import io
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.records import from_json
from lookalike.audit import Audit, Shortcut, audit_sources, find_shortcuts
from lookalike.audit.shortcuts import MOST_PROTOTYPES
from lookalike.data.images import decode_image
from lookalike.editing import Add, Edit, EditSession, resolve
from lookalike.editing.state import State
from lookalike.explanation import explain
from lookalike.model.doubting import InputDoubt, input_doubts
from lookalike.saved import encode_image
from lookalike.studio.plane import MainAxes, Method, in_plane, methods, most_points

P = ParamSpec("P")
R = TypeVar("R")

_MOST_WRONG = 500  # wrong predictions that are listed
_MOST_CHANGES = 60  # changed predictions that an answer lists
_MOST_SUSPECTS = 300
_NEIGHBOURS = 6  # most similar prototypes


class StaleError(LookalikeError):
    """A request for a state that is no longer the present one: another tab has made an edit."""


def _one_at_a_time(method: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with args[0]._lock:  # type: ignore[attr-defined]
            return method(*args, **kwargs)

    return run


class Desk:
    """What the page works on. Every change is saved to the model's folder before it is answered.

    Args:
        session: The session, with training data: the page shows their images.
        folder: The model's folder.

    The training data are read by several threads at a time.

    Raises:
        LookalikeError: If the session has no training data.
    """

    def __init__(self, session: EditSession, folder: Path) -> None:
        if session.source is None:
            raise LookalikeError("the studio needs the training data: lookalike studio MODEL DATA")
        self.session, self.folder = session, folder
        self._source = session.source
        self._lock, self._picture_lock, self._map_lock = RLock(), RLock(), RLock()
        self._audit_lock, self._shortcut_lock = RLock(), RLock()
        self._maps: dict[Method, dict[str, Any]] = {}
        self._audit: Audit | None = None
        self._shortcuts: tuple[Tensor, list[Shortcut]] | None = None

    @_one_at_a_time
    def state(self) -> dict[str, Any]:
        """Returns everything that the page shows of the present state."""
        session = self.session
        snapshot, state, history = session.snapshot, session.state, session.history
        prototypes, annotations = snapshot.prototypes, state.annotations
        rows = [
            row
            | {
                "name": annotations.names[j],
                "description": annotations.descriptions[j],
                "pinned": annotations.pinned[j],
                "region": annotations.regions[j],
            }
            for j, row in enumerate(prototypes.to_table())
        ]
        entries = [
            {key: entry[key] for key in ("number", "parent", "sentence", "who", "when", "note")}
            | {"effect": _figures(entry["effect"])}
            for entry in history.to_dict()["entries"]
        ]
        return {
            "model": self.folder.name,
            "revision": history.revision,
            "head": history.head,
            "can_undo": history.head > 0,
            "can_redo": bool(history.undone),
            "classes": list(state.class_names),
            "prototypes": rows,
            "figures": self._present_figures(),
            "log": entries,
            "has_test": session.has_test,
            "openings": [
                {key: opening[key] for key in ("number", "who", "when", "note")}
                | {"effect": _figures(opening["effect"])}
                for opening in history.to_dict()["openings"]
            ],
            "maps": methods(),
            "corrections": [asdict(correction) for correction in history.corrections],
        }

    def _present_figures(self) -> dict[str, Any] | None:
        session = self.session
        if session.judge is None:
            return None
        right = session.predictions() == session.judge.labels
        return {"part": session.judge.part, "n": len(right), "accuracy": float(right.float().mean())}

    def picture(self, part: str, sample: int) -> bytes:
        """Returns a training image as PNG, or with ``part="validation"`` one that edits are judged on."""
        if part == "train":
            self._row(sample)
        with self._picture_lock:
            pixels = self.session.picture(sample, part)
        return encode_image(pixels)

    def map(self, method: Method = "pca") -> dict[str, Any]:
        """Returns the embeddings of training images in a plane, with the prototypes in it."""
        with self._map_lock:
            return self._map_of(self.session.state, method)

    def _map_of(self, state: State, method: Method) -> dict[str, Any]:
        material = self._source
        known = self._maps.get(method)
        if known is None or (method != "pca" and not torch.equal(known["keys"], state.keys)):
            n = len(material.labels)
            rows = np.sort(np.random.default_rng(0).permutation(n)[: most_points(method)])
            z = np.asarray(material.store.take(rows), dtype=np.float32)
            vectors = state.vectors.float().numpy()
            axes = MainAxes.of(z) if method == "pca" else None
            laid = in_plane(z, vectors, method) if axes is None else (axes.lay(z), axes.lay(vectors))
            known = self._maps[method] = {
                "points": laid[0].tolist(),
                "prototypes": laid[1].tolist(),
                "samples": material.store.indices[rows].tolist(),
                "labels": material.labels[rows].tolist(),
                "n": n,
                "method": method,
                "keys": state.keys,
                "axes": axes,
            }
        if method == "pca" and not torch.equal(known["keys"], state.keys):
            known |= {"keys": state.keys}
            known["prototypes"] = known["axes"].lay(state.vectors.float().numpy()).tolist()
        return {key: value for key, value in known.items() if key not in ("keys", "axes")}

    @_one_at_a_time
    def near(self, prototype: int) -> dict[str, Any]:
        """Returns the prototypes that are most similar to one, the most similar first."""
        state = self.session.state
        if not 0 <= prototype < len(state):
            raise LookalikeError(f"there is no prototype {prototype}; the last is {len(state) - 1}")
        with torch.no_grad():
            similarities = self.session.similarity(state.vectors[prototype : prototype + 1], state.vectors)[0]
        order = similarities.argsort(descending=True, stable=True).tolist()
        return {"near": [neighbour for neighbour in order if neighbour != prototype][:_NEIGHBOURS]}

    @_one_at_a_time
    def wrong(self) -> dict[str, Any]:
        """Returns the wrong predictions among the samples that edits are judged on."""
        session = self.session
        if session.judge is None:
            return {"n": 0, "part": None, "pictures": "train", "samples": []}
        predictions, labels, names = session.predictions(), session.judge.labels, session.state.class_names
        rows = torch.nonzero(predictions != labels)[:, 0].tolist()
        shown_rows = rows[:_MOST_WRONG]
        samples: list[dict[str, Any]] = [
            {
                "sample": int(session.judge.indices[row]),
                "true": names[int(labels[row])],
                "predicted": names[int(predictions[row])],
            }
            for row in shown_rows
        ]
        doubts = self._doubts(np.asarray(session.judge.embeddings[shown_rows])) if shown_rows else None
        for sample, doubt in zip(samples, doubts or [], strict=False):
            sample |= {"set": doubt.kind, "answered": doubt.answered, "doubt": doubt.sentence()}
        part = "train" if session.validation is None else "validation"
        return {"n": len(rows), "part": session.judge.part, "pictures": part, "samples": samples}

    def _doubts(self, embeddings: np.ndarray) -> list[InputDoubt] | None:
        """Returns a calibrated model's doubt about embeddings; None if it is not calibrated."""
        model = self.session.model
        return input_doubts(model, torch.from_numpy(embeddings).to(model.prototypes.vectors))

    def suspects(self) -> dict[str, Any]:
        """Returns the training images that deserve a second look, not the prototypes; found once."""
        with self._audit_lock:
            if self._audit is None:
                with self._lock:
                    model = self.session.model
                self._audit = audit_sources(model, self._source)
        values = self._audit.to_dict()
        listed_suspects = [s for s in values["suspects"] if s["rank"] <= _MOST_SUSPECTS and s["part"]]
        counts = {kind: n for kind, n in values["counts"].items() if any(s["kind"] == kind for s in listed_suspects)}
        return {"counts": counts, "suspects": listed_suspects, "notes": values["notes"]}

    def shortcuts(self) -> dict[str, Any]:
        """Returns parts of images that carry a class along, with the prototypes of the class that have them.

        They are searched again after the prototypes have changed.
        """
        with self._shortcut_lock:
            with self._lock:
                state, model = self.session.state, self.session.model
            if self._shortcuts is None or not torch.equal(self._shortcuts[0], state.keys):
                self._shortcuts = state.keys, find_shortcuts(model, self._source)
            found = self._shortcuts[1]
        groups: dict[tuple[int, str], list[Shortcut]] = {}
        for shortcut in found:
            groups.setdefault((int(state.labels[shortcut.prototype]), shortcut.part), []).append(shortcut)
        return {
            "n_tried": min(len(state), MOST_PROTOTYPES),
            "n": len(state),
            "groups": [
                {
                    "class": state.class_names[label],
                    "part": part,
                    "region": list(of_part[0].region),
                    "side": of_part[0].side,
                    "prototypes": [shortcut.prototype for shortcut in of_part],
                    "share": of_part[0].share,
                    "n": of_part[0].n,
                    "alike": of_part[0].alike,
                    "n_alike": of_part[0].n_alike,
                    "samples": list(dict.fromkeys(sample for shortcut in of_part for sample in shortcut.samples[:2]))[
                        :3
                    ],
                }
                for (label, part), of_part in groups.items()
            ],
        }

    @_one_at_a_time
    def look(self, image: bytes) -> dict[str, Any]:
        """Returns which prototypes an image looks like."""
        explanation = explain(self.session.model, self._opened(image), n_nearest=3, relevance=False)[0]
        return {
            "class": explanation.class_name,
            "probability": explanation.probability,
            "sentence": explanation.sentence(),
            "set": None if explanation.doubt is None else explanation.doubt.kind,
            "answered": None if explanation.doubt is None else explanation.doubt.answered,
            "unfamiliar": explanation.unfamiliar,
            "likenesses": [
                {
                    "prototype": near.prototype,
                    "class": near.class_name,
                    "name": near.name,
                    "percentile": None if math.isnan(near.percentile) else near.percentile,
                    "sample": near.nearest[0],
                }
                for near in explanation.likenesses
            ],
        }

    @_one_at_a_time
    def add_image(self, image: bytes, class_name: str, revision: int) -> dict[str, Any]:
        """Adds a prototype from an image."""
        self._check(revision)
        return self._do(Add(class_name, self.session.vector_of(self._opened(image))), "")

    @_one_at_a_time
    def try_out(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns what an edit would do."""
        self._check(values.get("revision"))
        effect = self.session.try_out(self._edit_of(values))
        return {"effect": None if effect is None else effect.to_dict(_MOST_CHANGES) | {"sentence": effect.sentence()}}

    @_one_at_a_time
    def edit(self, values: dict[str, Any]) -> dict[str, Any]:
        """Makes an edit, and saves it."""
        self._check(values.get("revision"))
        return self._do(self._edit_of(values), from_json(str, values.get("note", ""), "note"))

    @_one_at_a_time
    def move(self, values: dict[str, Any]) -> dict[str, Any]:
        """Undoes, redoes, or goes to a state of the log, and saves that."""
        self._check(values.get("revision"))
        to = values.get("to")
        if to not in ("undo", "redo") and (not isinstance(to, int) or isinstance(to, bool)):
            raise LookalikeError("'to' is 'undo', 'redo' or the number of an edit")
        with self.session.or_nothing():
            _ = self.session.undo() if to == "undo" else self.session.redo() if to == "redo" else self.session.go_to(to)
            self.session.save(self.folder, overwrite=True)
        return self.state()

    @_one_at_a_time
    def correct(self, values: dict[str, Any]) -> dict[str, Any]:
        """Notes that a sample's label should be another; the user's own files stay as they are."""
        self._check(values.get("revision"))
        sample = from_json(int, values.get("sample"), "sample")
        row = self._row(sample)
        names = self.session.state.class_names
        name = "" if self._source.batches is None else self._source.batches.name_of(sample) or ""
        with self.session.or_nothing():
            self.session.correct(sample, name, names[int(self._source.labels[row])], str(values.get("label")))
            self.session.save(self.folder, overwrite=True)
        return self.state()

    @_one_at_a_time
    def open_test(self, values: dict[str, Any]) -> dict[str, Any]:
        """Measures on the test part, which is counted in the log, and saves that."""
        self._check(values.get("revision"))
        note = from_json(str, values.get("note", ""), "note")
        if not note.strip():
            raise LookalikeError("say why the test part is opened: it is counted, and the log keeps the reason")
        with self.session.or_nothing():
            effect = self.session.open_test(note)
            self.session.save(self.folder, overwrite=True)
        return {"state": self.state(), "sentence": effect.sentence()}

    def _do(self, edit: Edit, note: str) -> dict[str, Any]:
        with self.session.or_nothing():
            entry = self.session.do(edit, note)
            self.session.save(self.folder, overwrite=True)
        effect = None if entry.effect is None else entry.effect | {"changes": entry.effect["changes"][:_MOST_CHANGES]}
        return {"state": self.state(), "sentence": entry.sentence, "effect": effect}

    def _edit_of(self, values: dict[str, Any]) -> Edit:
        edit = values.get("edit")
        if not isinstance(edit, dict) or not isinstance(edit.get("edit"), str) or "image" in edit:
            raise LookalikeError("a request names an edit, as in {'edit': {'edit': 'drop', 'prototypes': [3]}}")
        return resolve(self.session, edit["edit"], {key: value for key, value in edit.items() if key != "edit"})

    def _check(self, revision: Any) -> None:
        """Checks that the page has seen the present state.

        Raises:
            StaleError: If not.
        """
        if revision != self.session.history.revision:
            raise StaleError("another tab has changed the model meanwhile; the page now shows the present state")

    def _opened(self, content: bytes) -> Any:
        """Opens an image that was dropped on the page, by the decoders that start no program."""
        preprocessing = self.session.model.preprocessing
        decode = decode_image if preprocessing is None else preprocessing.decode
        try:
            return decode(io.BytesIO(content))
        except BrokenImageError as error:
            raise LookalikeError(f"the file cannot be used: {error.reason}") from error

    def _row(self, sample: int) -> int:
        rows = np.flatnonzero(self._source.store.indices == sample)
        if not len(rows):
            raise LookalikeError(f"there is no training sample {sample}")
        return int(rows[0])


def _figures(effect: dict[str, Any] | None) -> dict[str, Any] | None:
    if effect is None:
        return None
    before, after, _ = effect["accuracy"]
    return {"before": before["value"], "after": after["value"], "n_changes": effect["n_changes"]}
