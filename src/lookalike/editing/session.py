"""EditSession: changes a model's prototypes one edit at a time, and says at once what each does."""

import copy
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.untouched import keeps_random_states
from lookalike.conversion.advice import advice_before_edits
from lookalike.editing.edits import NO_MATERIAL, Edit
from lookalike.editing.effect import Effect, Judge
from lookalike.editing.evidence import Evidence
from lookalike.editing.history import Correction, Entry, History, Opening, Snapshot
from lookalike.editing.material import Material
from lookalike.editing.pictures import Pictures
from lookalike.editing.regions import Side, erasure, restriction
from lookalike.editing.shorthands import Shorthands
from lookalike.editing.sources import Source, held_out_rows, source_of
from lookalike.editing.state import State, keys_of
from lookalike.embedding import EmbeddingStore
from lookalike.metrics.black_box import find_black_box
from lookalike.model import PrototypeModel
from lookalike.model.annotations import Region
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes

_LISTED_CHANGES = 1000  # changed samples that the log keeps of each edit


class EditSession(Shorthands):
    """Changes a model's prototypes. The model that it is given stays as it is; ``model`` is the edited one.

    Every edit is judged at once, on samples that no edit learned from: validation data, or every fifth training sample
    if there are none. The prototypes of the conversion were made from the training samples too, so give validation data
    where you can. The test part is not touched until ``open_test`` is called, and each call is counted.

    Args:
        model: A model that decides by its nearest prototype.
        train: The training data, as for ``convert``, or their ``EmbeddingStore``; None allows names, descriptions and
            pins only.
        embeddings: Embeddings of ``train``, so that it need not be embedded again.
        validation: Data to judge edits on.
        test: Test data, or a function that returns them.
        who: Name of the person, for the log; None takes the login name.
        seed: Seed of splits and of the held-out samples.
        progress: Show a progress bar while data are embedded.

    Attributes:
        similarity: A copy of the model's similarity, on the CPU.
        history: The log.
        source: The embedded training data, or None.
        validation: The embedded validation data, or None.
        stored: Digests of the histories in folders that this one continues: those that it was opened from or saved as.

    Raises:
        LookalikeError: If the model has another classifier, or the data do not fit it.
    """

    @keeps_random_states
    def __init__(
        self,
        model: PrototypeModel,
        train: Any = None,
        *,
        embeddings: EmbeddingStore | None = None,
        validation: Any = None,
        test: Any = None,
        who: str | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(model.classifier, NearestPrototype):
            raise LookalikeError(
                f"a model that decides by {model.classifier.name!r} is not edited, only one that decides by the "
                "nearest prototype: convert the network with level='image'"
            )
        self._base = model
        self.who = _login() if who is None else checks.instance("who", who, str, "a text")
        self.similarity = copy.deepcopy(model.similarity).cpu()
        source = None if train is None else source_of(model, train, embeddings, progress=progress)
        self._pictures = _pictures_of(model, source)
        self.history = History()
        self._snapshots = [
            Snapshot(State.of(model.prototypes, model.annotations), _cpu(model.prototypes), model.images)
        ]
        self._keep_pictures()
        self.stored: set[str] = set()
        self.source = source
        self._material: Material | None = None
        self._evidence: Evidence | None = None
        self._judge: Judge | None = None
        self._test = test
        self.validation = None if validation is None else self._embedded(validation, "validation", progress)
        self._validation_pictures = _pictures_of(model, self.validation)
        if source is not None:
            self._prepare(source, seed)
        if self.validation is not None:
            self._judge = _judge_of("validation", model, self.validation, self.similarity)
        self._predictions: Tensor | None = None

    def continue_history(self, history: History, snapshots: list[Snapshot]) -> None:
        """Replaces the history of a new session by an earlier one of the same model; see ``open_session``.

        Args:
            history: The log.
            snapshots: The states behind its entries.
        """
        self.history, self._snapshots = history, snapshots
        self._keep_pictures()
        if self._material is not None:
            self._evidence = self._evidence_from(self._material)

    def _keep_pictures(self) -> None:
        """Keeps the images of all snapshots, which then need not be read again."""
        for snapshot in self._snapshots:
            if snapshot.images is not None:
                self._pictures.keep(snapshot.prototypes.nearest, snapshot.images)

    def _prepare(self, source: Source, seed: int) -> None:
        """Prepares the embeddings that edits work on and the samples that they are judged on."""
        recorded = self._base.provenance
        held_out = np.zeros(len(source.labels), dtype=bool)
        if self.validation is None:
            held_out = held_out_rows(source.labels, seed)
        self._material = Material(
            source.store.embeddings,
            source.labels,
            source.store.indices,
            self.similarity,
            held_out,
            str(recorded.get("clusterer", "kmeans")),
            int(recorded.get("n_init", 10)),
            seed,
        )
        self._evidence = self._evidence_from(self._material)
        if held_out.any():
            self._judge = _judge_of("held-out training", self._base, source, self.similarity, np.flatnonzero(held_out))

    def _evidence_from(self, material: Material) -> Evidence:
        """Returns what surveys touched classes again, with as many nearest images as the first state has."""
        nearest_from: Literal["class", "any"] = "any" if self._base.provenance.get("nearest_from") == "any" else "class"
        return Evidence(material, self._snapshots[0].prototypes.nearest.shape[1], nearest_from)

    def _embedded(self, data: Any, part: str, progress: bool | None) -> Source:
        return source_of(self._base, data, part=part, progress=progress)

    @property
    def state(self) -> State:
        """The present state."""
        return self._snapshots[self.history.head].state

    @property
    def snapshot(self) -> Snapshot:
        """The present state with the training data and images behind its prototypes."""
        return self._snapshots[self.history.head]

    @property
    def material(self) -> Material | None:
        """The training embeddings that edits work on; None if there are no training data."""
        return self._material

    @property
    def judge(self) -> Judge | None:
        """What edits are judged on; None if there are no data."""
        return self._judge

    @property
    def model(self) -> PrototypeModel:
        """The edited model: an ordinary ``PrototypeModel``, which shares the encoder with the given one."""
        base, snapshot = self._base, self.snapshot
        state = snapshot.state
        path = self.history.path()
        is_same = torch.equal(state.keys, keys_of(base.prototypes.vectors.detach().cpu(), base.prototypes.labels.cpu()))
        if base.is_calibrated and not is_same:
            warn_of("the edited model has other prototypes and is not calibrated; call calibrate(validation) again")
        provenance = dict(base.provenance)
        provenance.pop("edits", None)
        if path:
            provenance["edits"] = {"head": self.history.head, "made": [entry.sentence for entry in path]}
        if not is_same:
            provenance |= advice_before_edits(provenance)
        return PrototypeModel(
            base.encoder,
            _cpu(snapshot.prototypes),
            copy.deepcopy(self.similarity),
            copy.deepcopy(base.classifier),
            preprocessing=base.preprocessing,
            origin=replace(base.origin, images=snapshot.images, provenance=provenance),
            doubt=base.doubt if is_same else None,
            annotations=None if state.annotations.is_empty else state.annotations,
        )

    def try_out(self, edit: Edit) -> Effect | None:
        """Returns what an edit would do, without making it; None if there are no samples to judge it on.

        Raises:
            LookalikeError: If the edit is not possible.
        """
        snapshot = self._next(checks.instance("edit", edit, Edit, "an edit").without_held_out(self._material))
        return self._effect_of(snapshot)[0]

    @override
    def do(self, edit: Edit, note: str = "") -> Entry:
        """Makes an edit.

        Args:
            edit: The edit.
            note: Why, for the log.

        Returns:
            Its entry in the log, with its effect.

        Raises:
            LookalikeError: If the edit is not possible; nothing has changed then.
        """
        checks.instance("edit", edit, Edit, "an edit")
        checks.instance("note", note, str, "a text")
        edit = edit.without_held_out(self._material)
        state_before = self.state
        snapshot = self._next(edit)
        effect, predictions = self._effect_of(snapshot)
        entry = Entry(
            number=len(self.history.entries),
            parent=self.history.head,
            edit=edit.to_dict(),
            sentence=edit.sentence(state_before),
            who=self.who,
            when=_now(),
            note=note,
            effect=None if effect is None else effect.to_dict(_LISTED_CHANGES),
        )
        self._snapshots.append(snapshot)
        self.history.add(entry)
        self._predictions = predictions
        return entry

    def _next(self, edit: Edit) -> Snapshot:
        """Returns the state after an edit, with the training data behind its prototypes."""
        if edit.needs_material and self._material is None:
            raise LookalikeError(NO_MATERIAL)
        old = self.snapshot
        state = edit.apply(old.state, self._material)
        if not edit.needs_material:
            return replace(old, state=state)
        assert self._evidence is not None  # made with the material
        prototypes = self._evidence.of(old.state, old.prototypes, state)
        images = None if old.images is None else self._pictures.of(prototypes.nearest, old.images.shape[1])
        return Snapshot(state, prototypes, images)

    def _effect_of(self, snapshot: Snapshot) -> tuple[Effect | None, Tensor | None]:
        """Returns the effect of going to another state, and the predictions there."""
        if self._judge is None:
            return None, None
        before = self.predictions()
        after = self._judge.predict(snapshot.state)
        empty = torch.nonzero(snapshot.prototypes.counts == 0)[:, 0].tolist()
        return self._judge.effect(before, after, snapshot.state, empty), after

    def predictions(self) -> Tensor:
        """Returns the classes [N] that the present state predicts for the samples that edits are judged on.

        Raises:
            LookalikeError: If there are none.
        """
        if self._judge is None:
            raise LookalikeError("there are no data to judge edits on: give the training or validation data")
        if self._predictions is None:
            self._predictions = self._judge.predict(self.state)
        return self._predictions

    def undo(self) -> State:
        """Goes back by one edit, exactly to the bit, and returns the state."""
        self.history.undo()
        self._predictions = None
        return self.state

    def redo(self) -> State:
        """Goes forward again by one edit that was undone, and returns the state."""
        self.history.redo()
        self._predictions = None
        return self.state

    def go_to(self, number: int) -> State:
        """Goes to any state of the log, by its number, and returns it."""
        self.history.go_to(checks.whole_number("number", number, 0))
        self._predictions = None
        return self.state

    def restrict(self, prototype: int, region: Region, note: str = "") -> Entry:
        """Restricts a prototype to a part of its image.

        The rest of its image gets the image's mean colour; the embedding of that image becomes the prototype.

        Args:
            prototype: Number of the prototype.
            region: Left, top, right, bottom as shares of the image's width and height.
            note: Why, for the log.

        Raises:
            LookalikeError: If the model holds no images, or edits are judged on the prototype's image.
        """
        return self.do(restriction(self, prototype, region), note)

    def erase(self, *prototypes: int, region: Region, side: Side = "inside", note: str = "") -> Entry:
        """Takes a part out of the images behind prototypes, such as a mark or the background.

        In its place, each image gets the same part of a training image of another class; the prototype moves as the
        mean of their embeddings does. Images that have lost the part already stay as they are.

        Args:
            *prototypes: Numbers of the prototypes.
            region: Left, top, right, bottom as shares of the image's width and height.
            side: The part to take out: ``"inside"`` or ``"outside"`` the region, or the ``"background"`` in data that
                know where the object is.
            note: Why, for the log.

        Raises:
            LookalikeError: If the training data cannot be read again, or there are none behind a prototype.
        """
        return self.do(erasure(self, prototypes, region, side), note)

    @override
    def vector_of(self, image: Any) -> tuple[float, ...]:
        """Returns the embedding of one image, in any form that ``predict`` takes."""
        embeddings = self._base.embed(image)  # of the same encoder
        if len(embeddings) != 1:
            raise LookalikeError(f"to add a prototype takes one image, not {len(embeddings)}")
        return tuple(embeddings[0].float().cpu().tolist())

    def open_test(self, note: str = "") -> Effect:
        """Measures the model before all edits and the present one on the test part; the log counts each call.

        Raises:
            LookalikeError: If there are no test data.
        """
        if self._test is None:
            raise LookalikeError("there are no test data: give them, as in sem.edit(train, test=test)")
        data = self._test() if callable(self._test) and not hasattr(self._test, "__getitem__") else self._test
        source = self._embedded(data, "test", None)
        judge = _judge_of("test", self._base, source, self.similarity)
        before = judge.predict(self._snapshots[0].state)
        after = judge.predict(self.state)
        effect = judge.effect(before, after, self.state)
        opening = Opening(
            self.history.head,
            self.who,
            _now(),
            checks.instance("note", note, str, "a text"),
            effect.to_dict(_LISTED_CHANGES),
        )
        self.history.open_test(opening)
        return effect

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Undoes all changes of a block if it ends with an error, such as a failed save."""
        history, snapshots, predictions = copy.deepcopy(self.history), list(self._snapshots), self._predictions
        try:
            yield
        except BaseException:
            self.history, self._snapshots, self._predictions = history, snapshots, predictions
            raise

    def correct(self, sample: int, name: str, label: str, corrected: str) -> None:
        """Notes that a training sample's label should be another. The data and the model stay as they are.

        Args:
            sample: Number of the sample.
            name: Its file, or "".
            label: Its class in the data.
            corrected: The class that it should have; the same as ``label`` withdraws an earlier note.

        Raises:
            LookalikeError: If there is no such class.
        """
        self.state.class_number(corrected)
        is_withdrawn = corrected == label
        self.history.correct(
            sample, None if is_withdrawn else Correction(sample, name, label, corrected, self.who, _now())
        )

    def log(self) -> list[dict[str, Any]]:
        """Returns the whole log, undone edits included: what, who, when, why, and figures."""
        return [entry for entry in self.history.to_dict()["entries"] if entry["number"] > 0]

    @property
    def has_test(self) -> bool:
        """Whether there is a test part that can be opened."""
        return self._test is not None

    def picture(self, sample: int, part: str = "train") -> Tensor:
        """Returns an image of the training or validation data as the network sees it, uint8 [H, W, C].

        Raises:
            LookalikeError: If it cannot be read.
        """
        checks.one_of("part", part, ("train", "validation"))
        return (self._pictures if part == "train" else self._validation_pictures)[sample]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the edited model with the whole history; see ``lookalike.editing.save_session``."""
        from lookalike.editing.folder import save_session

        save_session(self, folder, overwrite=overwrite)

    @property
    def snapshots(self) -> list[Snapshot]:
        """All states, by number."""
        return list(self._snapshots)


def _judge_of(
    part: str, model: PrototypeModel, source: Source, similarity: Any, rows: np.ndarray | None = None
) -> Judge:
    store, predictions = source.store, _original_predictions(model, source)
    if rows is None:
        return Judge(part, store.embeddings, source.labels, store.indices, predictions, similarity)
    predictions = None if predictions is None else predictions[rows]
    return Judge(part, store.take(rows), source.labels[rows], store.indices[rows], predictions, similarity)


def _original_predictions(model: PrototypeModel, source: Source) -> np.ndarray | None:
    """Returns the original's predictions in the model's classes [N]; None where they cannot be compared."""
    box = None if source.store.predictions is None else find_black_box(model, None, source.batches).box
    if box is None:
        return None
    predictions = box.predictions_in_model_classes(model, torch.from_numpy(source.labels), source.store, None)
    return None if predictions is None else predictions.cpu().numpy()


def _pictures_of(model: PrototypeModel, source: Source | None) -> Pictures:
    return Pictures(None if source is None else source.batches, model.value_range, model.preprocessing)


def _cpu(prototypes: Prototypes) -> Prototypes:
    """Returns a copy on the CPU."""
    return copy.deepcopy(prototypes).cpu()


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
