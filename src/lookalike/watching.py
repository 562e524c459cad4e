"""Watching a model over time: are the images still like those that it was calibrated with?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.names import json_text, visible
from lookalike._core.records import from_json, read_json
from lookalike.doubt import Doubt, ExchangeabilityTest, conformal_p_values
from lookalike.doubt.watched import Mode, WatchReport, WatchState
from lookalike.encoder import dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model import PrototypeModel
from lookalike.model.doubting import confidences_of, doubt_of, novelty_of

_KINDS = ("novelty", "confidence")  # the scores that are tested
_MOST_UNFAMILIAR = 500  # embeddings of unfamiliar images that are kept, the latest
_MOST_PREDICTIONS = 100_000  # predictions that wait for their labels, the latest
_LEAST_OF_MODE = 5  # images
_SHOWN = 6  # images of a mode that are named


class Watch:
    """Watches a calibrated model: takes batches of images and says whether they are still like the validation images.

    The test is a conformal test martingale on how unfamiliar and how sure each image is. As long as the images come
    from the same source as the validation images, in any order that does not depend on them, the probability of any
    alarm, ever, is at most ``bound``.

    Args:
        model: A calibrated prototype model.
        bound: Largest probability of a false alarm, over the whole life of the watch.
        state: File that keeps the state. If it exists, the watch goes on from it; it is written after each batch.
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
        self.file = None if state is None else checks.path("state", state)
        values = self.doubt.arrays()
        self._sorted_novelty = self.doubt.sorted_novelty
        self._tests = {
            "novelty": ExchangeabilityTest(values["novelty"], checks.seed("seed", seed)),
            "confidence": ExchangeabilityTest(-values["confidences"], seed + 1),
        }
        counts = np.bincount(values["nearest"], minlength=len(model.prototypes)).astype(float)
        self._expected = counts / counts.sum()
        self.expected_accuracy = float(values["correct"].mean())
        self._state = WatchState(_identity(model), self.bound, seed, occupancy=[0] * len(model.prototypes))
        if self.file is not None and self.file.exists():
            self._restore(self.file)

    def add(
        self,
        images: Any,
        labels: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        batch_size: int = 256,
    ) -> WatchReport:
        """Adds one batch of images, in the order in which they came, and says what is known now.

        Args:
            images: As for ``PrototypeModel.predict``: ready inputs, files, a folder, pictures.
            labels: Their true classes, in the model's numbering, if they are known already.
            names: Their names; by default their files, or their numbers. Labels that come later need them: without
                ``labels``, no name may come twice, or be that of an image that still waits for its label.
            batch_size: Largest number of images that pass through the network at once.

        Raises:
            LookalikeError: If there are no images, an embedding is not finite, labels or names are not one each, or a
                name that a later label needs is taken.
        """
        embeddings, given_names = self._embedded(images, batch_size)
        first = self._state.n_images
        own_names = [name or f"image {first + row}" for row, name in enumerate(given_names)]
        if names is not None:
            own_names = checks.names("names", names, len(embeddings))
        if labels is not None:
            labels = checks.class_indices("labels", labels, self.model.n_classes, (len(embeddings),)).tolist()
        if labels is None:
            self._check_names(own_names)
        report = self._added(embeddings, own_names, labels)
        if self.file is not None:
            self._save(self.file)
        return report

    def _check_names(self, names: list[str]) -> None:
        """Checks that each name stands for one image only, so that a later label finds its image."""
        waiting_names = set(self._state.predictions)
        for name in names:
            if name in waiting_names:
                raise LookalikeError(
                    f"the name {visible(name)!r} is that of another image that waits for its label: watch each image "
                    "once, and give different images different names"
                )
            waiting_names.add(name)

    def add_labels(self, labels: Mapping[str, int | str]) -> int:
        """Adds labels that come later, by the names of the images, and returns how many were waited for.

        Args:
            labels: The class of each image, by name: its number, or its name.

        Raises:
            LookalikeError: If a class is unknown, or none of the images is known.
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
        counted = self._count_labels(classes)
        if classes and not counted:
            raise LookalikeError(
                f"none of the {len(classes)} labelled images has been watched and waits for its label; "
                f"the first is {visible(next(iter(classes)))!r}: give the names that the watch was given"
            )
        if self.file is not None:
            self._save(self.file)
        return counted

    def _embedded(self, images: Any, batch_size: int) -> tuple[Tensor, list[str | None]]:
        """Embeds a batch; returns embeddings [N, D], and names where the data have them."""
        model, rows, names = self.model, [], []
        dtype = dtype_of(model.encoder)
        with torch.no_grad():
            for batch in model.read_inputs(images, batch_size):
                for start in range(0, n_rows(batch.inputs), batch_size):
                    part = take_rows(batch.inputs, slice(start, start + batch_size))
                    rows.append(model.encoder(place(part, model.device, dtype)))
                names += list(batch.names or [None] * n_rows(batch.inputs))
        if not names:
            raise LookalikeError("there are no images in the batch")
        embeddings = torch.cat(rows)
        check_finite_rows(embeddings.isfinite().all(1), names if any(names) else None)
        return embeddings, names

    @torch.no_grad()
    def _added(self, embeddings: Tensor, names: list[str], labels: list[int] | None) -> WatchReport:
        """Adds embedded images to the tests and the counts; those without labels wait for them by their names."""
        state, model = self._state, self.model
        novelty = novelty_of(model, self.doubt, embeddings)
        predictions, confidences = (values.cpu().numpy() for values in confidences_of(model, embeddings))
        nearest = model.similarities_of(embeddings).argmax(1).cpu().numpy()
        # each of the two tests has half of the bound
        capitals = [self._tests["novelty"].add(novelty), self._tests["confidence"].add(-confidences)]
        state.evidence = max(state.evidence, max(capitals) / len(capitals))
        state.alarm = state.alarm or state.evidence >= 1 / self.bound
        state.n_batches += 1
        state.n_images += len(names)
        in_batch = np.bincount(nearest, minlength=len(model.prototypes))
        state.occupancy = (np.array(state.occupancy) + in_batch).tolist()
        unfamiliar = conformal_p_values(novelty, self._sorted_novelty) <= self.doubt.facts.false_alarm
        self._keep_unfamiliar(embeddings, names, predictions, unfamiliar)
        if labels is None:
            state.predictions.update(zip(names, predictions.tolist(), strict=True))
        else:
            state.n_labelled += len(labels)
            state.n_correct += int((predictions == np.array(labels)).sum())
        for name in list(state.predictions)[: max(0, len(state.predictions) - _MOST_PREDICTIONS)]:
            del state.predictions[name]
        shares = np.array(state.occupancy) / state.n_images
        return WatchReport(
            batch=state.n_batches,
            n_images=len(names),
            n_total=state.n_images,
            alarm=state.alarm,
            evidence=state.evidence,
            unfamiliar=float(unfamiliar.mean()),
            mean_probability=float(confidences.mean()),
            occupancy=in_batch.tolist(),
            expected=(self._expected * len(names)).tolist(),
            shift=float(np.abs(shares - self._expected).sum() / 2),
            modes=self.modes(),
            expected_accuracy=self.expected_accuracy,
            **self.accuracy(),
        )

    def _keep_unfamiliar(
        self, embeddings: Tensor, names: list[str], predictions: np.ndarray, unfamiliar: np.ndarray
    ) -> None:
        state, rows = self._state, np.flatnonzero(unfamiliar)
        points = self.model.similarity.project(embeddings[torch.from_numpy(rows).to(embeddings.device)])
        state.unfamiliar = (state.unfamiliar + points.double().cpu().tolist())[-_MOST_UNFAMILIAR:]
        state.unfamiliar_names = (state.unfamiliar_names + [names[row] for row in rows])[-_MOST_UNFAMILIAR:]
        state.unfamiliar_classes = (state.unfamiliar_classes + predictions[rows].tolist())[-_MOST_UNFAMILIAR:]

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
            names = [state.unfamiliar_names[row] for row in rows[order[:_SHOWN]]]
            modes.append(Mode(len(rows), names, self.model.class_names[commonest]))
        return sorted(modes, key=lambda mode: -mode.count)

    def _count_labels(self, classes: Mapping[str, int]) -> int:
        """Counts labels of images that wait for one; each image counts once."""
        state, counted = self._state, 0
        for name, k in classes.items():
            predicted = state.predictions.pop(name, None)
            if predicted is not None:
                counted += 1
                state.n_correct += int(predicted == k)
        state.n_labelled += counted
        return counted

    def accuracy(self) -> dict[str, Any]:
        """Returns the number of labels so far, and the share of correct predictions with its 95% interval."""
        from scipy.stats import binomtest

        state = self._state
        if not state.n_labelled:
            return {"n_labelled": 0, "accuracy": None, "accuracy_low": None, "accuracy_high": None}
        interval = binomtest(state.n_correct, state.n_labelled).proportion_ci(0.95, method="wilson")
        return {
            "n_labelled": state.n_labelled,
            "accuracy": state.n_correct / state.n_labelled,
            "accuracy_low": float(interval.low),
            "accuracy_high": float(interval.high),
        }

    def _save(self, file: Path) -> None:
        """Writes the state; at any time the file has the old state or the new one."""
        state = self._state
        for kind, test in self._tests.items():
            state.scores[kind] = test.added
            state.log_bets[kind] = [None if math.isinf(bet) else bet for bet in test.log_bets]
        write_whole(file, json_text(asdict(state)) + "\n")

    def _restore(self, file: Path) -> None:
        """Reads the state of an earlier run."""
        try:
            state: WatchState = from_json(WatchState, read_json(file), "state")
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
        self._state = state

    def _fits(self, state: WatchState) -> bool:
        """Says whether a state has the tests, the prototypes and the classes of the model."""
        classes = {*state.predictions.values(), *state.unfamiliar_classes}
        return (
            set(state.scores) == set(self._tests)
            and all(len(state.log_bets[kind]) == len(test.log_bets) for kind, test in self._tests.items())
            and len(state.occupancy) == len(self.model.prototypes)
            and classes <= set(range(self.model.n_classes))
        )


def _identity(model: PrototypeModel) -> str:
    """Returns a fingerprint of the prototypes and the calibration."""
    from lookalike._core.provenance import fingerprint_tensors

    doubt = doubt_of(model)
    return fingerprint_tensors({"vectors": model.prototypes.vectors.cpu(), "scores": doubt.scores})
