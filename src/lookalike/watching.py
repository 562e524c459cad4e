"""Watching a model over time: are the images still like those that it was calibrated with?"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.folder_lock import alone, lock_beside
from lookalike._core.intervals import share
from lookalike._core.names import json_text, visible
from lookalike._core.records import from_json, read_bytes, read_json
from lookalike.doubt import Doubt, ExchangeabilityTest
from lookalike.doubt.watched import Mode, WatchedImage, WatchReport, WatchState, image_id, upgraded
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model import PrototypeModel
from lookalike.model.doubting import confidences_of, doubt_of, novelty_of
from lookalike.model.original import embed_and_score

_KINDS = ("novelty", "confidence")  # the scores that are tested
_MOST_UNFAMILIAR = 500  # embeddings of unfamiliar images that are kept, the latest
_MOST_PREDICTIONS = 100_000  # predictions that wait for their labels, the latest
_LEAST_OF_MODE = 5  # images
_SHOWN = 6  # images of a mode that are named
_MOST_BYTES, _MOST_VALUES = 2**29, 20_000_000  # of a state: those of as many images as a watch takes are below


class _Read(NamedTuple):
    """A batch: names and identities of all its images, the rows of the new ones, and their embeddings [N, D]."""

    names: list[str]
    ids: list[str]
    new_rows: list[int]
    embeddings: Tensor


class Watch:
    """Watches a calibrated model: takes batches of images and says whether they are still like the validation images.

    The test is a conformal test martingale on each image's novelty and on the confidence of its prediction. As long as
    the images come from the same source as the validation images, in any order that does not depend on them, the
    probability of any alarm, ever, is at most ``bound``.

    Args:
        model: A calibrated prototype model.
        bound: Largest probability of a false alarm, over the whole life of the watch.
        state: File that keeps the state. If it exists, the watch continues from it; it is written after each batch.
        seed: Seed of the numbers that break ties.

    Raises:
        LookalikeError: If the model is not calibrated, or the state is damaged or of another model or bound.
    """

    def __init__(
        self, model: PrototypeModel, *, bound: float = 0.01, state: str | Path | None = None, seed: int = 0
    ) -> None:
        checks.instance("model", model, PrototypeModel, "a PrototypeModel")
        self.model = model
        self.doubt: Doubt = doubt_of(model)
        self.bound = checks.number("bound", bound, above=0, below=1)
        seed = checks.seed("seed", seed)
        self.file = None if state is None else checks.path("state", state)
        values = self.doubt.arrays()
        self._tests = {
            "novelty": ExchangeabilityTest(values["novelty"], seed),
            "confidence": ExchangeabilityTest(-values["confidences"], (seed + 1) % 2**32),
        }
        counts = np.bincount(values["nearest"], minlength=len(model.prototypes)).astype(float)
        self._expected = counts / counts.sum()
        self.expected_accuracy = float(values["correct"].mean())
        self._state = WatchState(_identity(model), self.bound, seed, occupancy=[0] * len(model.prototypes))
        self._seen: set[str] = set()
        self._stored: str | None = None  # digest of the file that this watch goes on from; None if there is none
        if self.file is not None and self.file.exists():
            self._restore(self.file)

    @property
    def last_report(self) -> dict[str, Any] | None:
        """The report of the latest batch, also of an earlier run; None before the first."""
        return self._state.last_report

    @property
    def alarm(self) -> bool:
        """Whether an alarm was raised; it stays."""
        return self._state.alarm

    def add(
        self,
        images: Any,
        labels: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 256,
    ) -> WatchReport:
        """Adds one batch of images, in the order in which they came, and returns a report on all so far.

        An image is known by its name and its content. An image that comes again is left out and counted, so
        that a growing folder can be watched again, and an interrupted call repeated. Another image of the same name,
        such as the ``latest.jpg`` of a camera, is another image. Images without names, such as tensors, are all new.

        Args:
            images: As for ``PrototypeModel.predict``: ready inputs, files, a folder, pictures.
            labels: Their true classes, in the model's numbering, if they are known already.
            names: Their names; by default their files, or their numbers.
            batch_size: Largest number of images that pass through the network at once.

        Raises:
            LookalikeError: If there are no images, an embedding is not finite, or not one label or name per image.
        """
        with self._alone():
            return self._add(images, labels, names, batch_size)

    def _add(
        self, images: Any, labels: Sequence[int] | None, names: Sequence[str] | None, batch_size: int
    ) -> WatchReport:
        read = self._read(images, names, batch_size)
        if labels is not None:
            labels = checks.class_indices("labels", labels, self.model.n_classes, (len(read.ids),)).tolist()
            given_classes = dict(zip(read.ids, labels, strict=True))
            self._count_labels({id_: k for id_, k in given_classes.items() if id_ in self._state.predictions})
            labels = [labels[row] for row in read.new_rows]
        report = self._added(read, labels)
        self._state.last_report = report.to_dict()
        if self.file is not None:
            self._save(self.file)
        return report

    def add_labels(self, labels: Mapping[str, int | str]) -> int:
        """Adds labels that arrive later; returns the number of images that were waiting for one of them.

        Args:
            labels: The class of each image, as its number or its name, by the image's name, or by its identity
                (``WatchReport.images``) where several images have the same name.

        Raises:
            LookalikeError: If a class is unknown, none of the images is known, or a name is that of several images that
                wait for their labels.
        """
        number = {name: k for k, name in enumerate(self.model.class_names)}
        classes: dict[str, int] = {}
        for name, label in labels.items():
            if not isinstance(label, str):
                label_name = f"the label of {visible(name)!r}" if isinstance(name, str) else "label"
                classes[name] = checks.whole_number(label_name, label, 0, self.model.n_classes - 1)
            elif label in number:
                classes[name] = number[label]
            else:
                raise LookalikeError(f"the label of {visible(name)!r} is {label!r}, which is no class of the model")
        with self._alone():
            return self._add_classes(classes)

    def _add_classes(self, classes: dict[str, int]) -> int:
        counted = self._count_labels(self._waiting(classes))
        if classes and not counted:
            raise LookalikeError(
                f"none of the {len(classes)} labelled images has been watched and waits for its label; "
                f"the first is {visible(next(iter(classes)))!r}: give the names that the watch was given"
            )
        if self.file is not None:
            self._save(self.file)
        return counted

    def _waiting(self, classes: Mapping[str, int]) -> dict[str, int]:
        """Returns the classes of images that wait for their labels, by identity, from classes by name or identity."""
        ids_of_name: dict[str, list[str]] = {}
        for own_id, name in self._state.waiting_names.items():
            ids_of_name.setdefault(name, []).append(own_id)
        found = {}
        for name, k in classes.items():
            ids = ids_of_name.get(name, [])
            if len(ids) > 1:
                raise LookalikeError(
                    f"{len(ids)} images that wait for labels are called {visible(name)!r}, and one label does "
                    f"not say which is meant: give their ids in place of the name (the latest is {ids[-1]!r}), as the "
                    "reports and the log have them"
                )
            if ids or name in self._state.predictions:
                found[ids[0] if ids else name] = k
        return found

    def _read(self, images: Any, names: Sequence[str] | None, batch_size: int) -> _Read:
        """Names and identifies a batch, and embeds the images that were not watched before."""
        model, rows = self.model, list[Tensor]()
        given = None if names is None else checks.names("names", names)
        seen, read = set(self._seen), _Read([], [], [], torch.zeros(0, dtype=torch.float32))
        with torch.no_grad():
            for batch in model.read_inputs(images, batch_size):
                for start in range(0, n_rows(batch.inputs), batch_size):
                    part = take_rows(batch.inputs, slice(start, start + batch_size))
                    own_names = (batch.names or [None] * n_rows(batch.inputs))[start : start + batch_size]
                    is_new = [self._is_new(read, row, part, name, given, seen) for row, name in enumerate(own_names)]
                    if any(is_new):
                        new = part if all(is_new) else take_rows(part, torch.tensor(is_new))
                        rows.append(embed_and_score(model, new)[0])
        if not read.ids:
            raise LookalikeError("there are no images in the batch")
        if given is not None:
            checks.names("names", given, len(read.ids))
        if rows:
            embeddings = torch.cat(rows)
            check_finite_rows(embeddings.isfinite().all(1), [read.names[row] for row in read.new_rows])
            read = read._replace(embeddings=embeddings)
        return read

    def _is_new(
        self, read: _Read, row: int, part: Any, name: str | None, given: list[str] | None, seen: set[str]
    ) -> bool:
        """Notes the next image of a batch, and returns whether it was not watched before."""
        position = len(read.ids)
        if given is not None:
            name = given[position] if position < len(given) else ""
        name = name or f"image {self._state.n_images + len(read.new_rows)}"
        own_id = image_id(name, content_of(part, row))
        read.names.append(name)
        read.ids.append(own_id)
        if own_id in seen:
            return False
        seen.add(own_id)
        read.new_rows.append(position)
        return True

    @torch.no_grad()
    def _added(self, read: _Read, labels: list[int] | None) -> WatchReport:
        """Adds the new images of a batch to the tests and the counts; those without labels wait for them."""
        state, model = self._state, self.model
        n_prototypes, n_new = len(model.prototypes), len(read.new_rows)
        if not n_new:
            nothing = np.zeros(0)
            return self._report(read, np.zeros(n_prototypes, dtype=int), nothing, nothing, [])
        novelty = novelty_of(model, self.doubt, read.embeddings)
        predictions, confidences = (values.cpu().numpy() for values in confidences_of(model, read.embeddings))
        nearest = model.similarities_of(read.embeddings).argmax(1).cpu().numpy()
        # each of the two tests has half of the bound
        capitals = [self._tests["novelty"].add(novelty), self._tests["confidence"].add(-confidences)]
        state.evidence = max(state.evidence, max(capitals) / len(capitals))
        state.alarm = state.alarm or state.evidence >= 1 / self.bound
        state.n_batches += 1
        state.n_images += n_new
        in_batch = np.bincount(nearest, minlength=n_prototypes)
        state.occupancy = (np.array(state.occupancy) + in_batch).tolist()
        unfamiliar = self.doubt.are_unfamiliar(self.doubt.p_values(novelty))
        unfamiliar = np.zeros(n_new, dtype=bool) if unfamiliar is None else unfamiliar
        watched = [
            WatchedImage(read.names[row], read.ids[row], model.class_names[k])
            for row, k in zip(read.new_rows, predictions.tolist(), strict=True)
        ]
        self._keep_unfamiliar(read.embeddings, watched, predictions, unfamiliar)
        state.seen += [image.id for image in watched]
        self._seen.update(image.id for image in watched)
        if labels is None:
            for image, k in zip(watched, predictions.tolist(), strict=True):
                state.predictions[image.id], state.waiting_names[image.id] = k, image.name
        else:
            state.n_labelled += len(labels)
            state.n_correct += int((predictions == np.array(labels)).sum())
        for own_id in list(state.predictions)[: max(0, len(state.predictions) - _MOST_PREDICTIONS)]:
            del state.predictions[own_id], state.waiting_names[own_id]
        return self._report(read, in_batch, unfamiliar, confidences, watched)

    def _report(
        self,
        read: _Read,
        in_batch: np.ndarray,
        unfamiliar: np.ndarray,
        confidences: np.ndarray,
        watched: list[WatchedImage],
    ) -> WatchReport:
        """Says what is known after a batch."""
        state = self._state
        shares = np.array(state.occupancy) / state.n_images
        return WatchReport(
            batch=state.n_batches,
            n_images=len(watched),
            n_repeated=len(read.ids) - len(watched),
            n_total=state.n_images,
            alarm=state.alarm,
            evidence=state.evidence,
            unfamiliar=float(unfamiliar.mean()) if watched and self.doubt.facts.not_tested is None else None,
            not_tested=self.doubt.facts.not_tested,
            mean_probability=float(confidences.mean()) if watched else None,
            occupancy=in_batch.tolist(),
            expected=(self._expected * len(watched)).tolist(),
            shift=float(np.abs(shares - self._expected).sum() / 2),
            modes=self.modes(),
            expected_accuracy=self.expected_accuracy,
            images=watched,
            **self.accuracy(),
        )

    def _keep_unfamiliar(
        self, embeddings: Tensor, watched: list[WatchedImage], predictions: np.ndarray, unfamiliar: np.ndarray
    ) -> None:
        state, rows = self._state, np.flatnonzero(unfamiliar)
        points = self.model.similarity.project(embeddings[torch.from_numpy(rows).to(embeddings.device)])
        for kept, more in (
            (state.unfamiliar, points.double().cpu().tolist()),
            (state.unfamiliar_names, [watched[row].name for row in rows]),
            (state.unfamiliar_ids, [watched[row].id for row in rows]),
            (state.unfamiliar_classes, predictions[rows].tolist()),
        ):
            kept[:] = [*kept, *more][-_MOST_UNFAMILIAR:]

    def modes(self) -> list[Mode]:
        """Returns the groups of at least five unfamiliar images that lie as close together as known images do.

        Two groups are joined as long as their images are on average no farther apart than twice the median distance of
        a training image to its prototype (average linkage) [ours].
        """
        from sklearn.cluster import AgglomerativeClustering

        state = self._state
        if len(state.unfamiliar) < _LEAST_OF_MODE:
            return []
        points = np.array(state.unfamiliar)
        spreads = self.model.prototypes.quantiles[:, 50].double().cpu().numpy()
        spread = float(np.nanmedian(spreads)) if np.isfinite(spreads).any() else 0.0
        spread = spread if spread > 0 else float(np.linalg.norm(points - points.mean(0), axis=1).mean()) / 2 or 1.0
        groups = AgglomerativeClustering(None, distance_threshold=2 * spread, linkage="average").fit_predict(points)
        modes = []
        for group in range(groups.max() + 1):
            rows = np.flatnonzero(groups == group)
            if len(rows) < _LEAST_OF_MODE:
                continue
            order = np.argsort(np.linalg.norm(points[rows] - points[rows].mean(0), axis=1), kind="stable")
            commonest = int(np.bincount([state.unfamiliar_classes[row] for row in rows]).argmax())
            shown_rows = rows[order[:_SHOWN]]
            names, ids = (
                [values[row] for row in shown_rows] for values in (state.unfamiliar_names, state.unfamiliar_ids)
            )
            modes.append(Mode(len(rows), names, self.model.class_names[commonest], ids))
        return sorted(modes, key=lambda mode: -mode.count)

    def _count_labels(self, classes: Mapping[str, int]) -> int:
        """Counts labels of images that wait for them, by identity; each image counts once."""
        state = self._state
        for own_id, k in classes.items():
            state.n_correct += int(state.predictions.pop(own_id) == k)
            del state.waiting_names[own_id]
        state.n_labelled += len(classes)
        return len(classes)

    def accuracy(self) -> dict[str, Any]:
        """Returns the number of labels so far, and the share of correct predictions with its 95% interval."""
        state = self._state
        if not state.n_labelled:
            return {"n_labelled": 0, "accuracy": None, "accuracy_low": None, "accuracy_high": None}
        accuracy = share(state.n_correct, state.n_labelled)
        return {
            "n_labelled": state.n_labelled,
            "accuracy": accuracy.value,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
        }

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other watches from the file while its block adds to it.

        Raises:
            LookalikeError: If another watch is adding to the file, or has written there meanwhile: its images and its
                alarm would be lost. Nothing is added.
        """
        if self.file is None:
            yield
            return
        with alone(lock_beside(self.file)):
            if self.file.exists() and _digest(self.file.read_bytes()) != self._stored:
                raise LookalikeError(
                    f"the state {str(self.file)!r} was changed meanwhile, by another watch of the same file; nothing "
                    "was added: begin a new Watch of it, which goes on from there"
                )
            yield

    def _save(self, file: Path) -> None:
        """Writes the state; at any time the file has the old state or the new one."""
        state = self._state
        for kind, test in self._tests.items():
            state.scores[kind] = test.added
            state.log_bets[kind] = [None if math.isinf(bet) else bet for bet in test.log_bets]
        text = json_text(asdict(state)) + "\n"
        write_whole(file, text)
        self._stored = _digest(text.encode())

    def _restore(self, file: Path) -> None:
        """Reads the state of an earlier run."""
        try:
            stored = _digest(read_bytes(file, _MOST_BYTES))  # before it is read: a later state is not taken for it
            content = read_json(file, most_bytes=_MOST_BYTES, most_values=_MOST_VALUES)
            state: WatchState = from_json(WatchState, upgraded(content), "state")
        except LookalikeError as error:
            raise LookalikeError(f"the state {str(file)!r} cannot be used: {error}; remove it to begin anew") from error
        if state.model != self._state.model:
            raise LookalikeError(
                f"the state {str(file)!r} is of another model or calibration; give another file, or remove it"
            )
        if state.bound != self.bound or state.seed != self._state.seed:
            raise LookalikeError(
                f"the state {str(file)!r} was begun with a bound of {state.bound:g} and seed {state.seed}; "
                "a bound cannot be changed on the way: give the same, or another file"
            )
        if not self._fits(state):
            raise LookalikeError(
                f"the state {str(file)!r} cannot be used: its parts do not fit the model; remove it to begin anew"
            )
        for kind, test in self._tests.items():
            bets = [-math.inf if bet is None else bet for bet in state.log_bets[kind]]
            test.restore(state.scores[kind], bets, state.n_batches)
        self._state, self._stored = state, stored
        self._seen = set(state.seen)

    def _fits(self, state: WatchState) -> bool:
        """Says whether a state has the tests, the prototypes and the classes of the model."""
        classes = {*state.predictions.values(), *state.unfamiliar_classes}
        return (
            set(state.scores) == set(self._tests)
            and all(len(state.log_bets[kind]) == len(test.log_bets) for kind, test in self._tests.items())
            and len(state.occupancy) == len(self.model.prototypes)
            and classes <= set(range(self.model.n_classes))
        )


def content_of(inputs: Any, row: int) -> bytes:
    """Returns the content of one image: its row of all network inputs."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return b"".join(
        leaf[row].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for leaf in leaves
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _identity(model: PrototypeModel) -> str:
    """Returns a fingerprint of the prototypes and the calibration."""
    from lookalike._core.provenance import fingerprint_tensors

    doubt = doubt_of(model)
    return fingerprint_tensors({"vectors": model.prototypes.vectors.cpu(), "scores": doubt.scores})
