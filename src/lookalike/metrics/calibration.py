"""Calibration: is a prediction with probability 0.9 correct nine times in ten? The expected calibration error (ECE)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches
from lookalike.doubt import CalibrationFigures, calibration_figures
from lookalike.doubt.calibration import N_BINS, softmax
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import device_of, dtype_of, place
from lookalike.encoder.calls import n_rows
from lookalike.metrics.black_box import BlackBox
from lookalike.model import PrototypeModel
from lookalike.model.original import OriginalClassifier

_CHECK_IMAGES = 32  # images on which the head's probabilities are compared with the whole classifier's
_PROBABILITY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CalibrationBins:
    """Predictions, sorted into bins of equal width by their confidence, the probability of the predicted class.

    Attributes:
        counts: Number of predictions in each bin [B].
        confidence: Sum of their confidences [B].
        right: Number of correct ones [B].
        variance: Sum of p (1 − p) over the confidences p [B].
    """

    counts: Tensor
    confidence: Tensor
    right: Tensor
    variance: Tensor

    @classmethod
    def of(cls, confidences: Tensor, correct: Tensor, n_bins: int = N_BINS) -> "CalibrationBins":
        """Sorts predictions into bins by the probability of the predicted class [N]; ``correct`` says if it is [N]."""
        n_bins = checks.whole_number("n_bins", n_bins, 1)
        confidences = checks.tensor("confidences", confidences, ("N",), kind="number").detach().double()
        confidences = checks.probabilities("confidences", confidences)
        correct = torch.as_tensor(correct).detach().to(confidences)
        if bool(((correct != 0) & (correct != 1)).any()):
            raise LookalikeError("correct says whether each prediction is right: True and False, or 1 and 0")
        if correct.shape != confidences.shape:
            raise checks.unfit("correct", correct, f"a tensor [{len(confidences)}]")
        bins = (confidences * n_bins).long().clamp_max(n_bins - 1)

        def summed(values: Tensor) -> Tensor:
            return torch.zeros(n_bins, dtype=values.dtype, device=values.device).index_add_(0, bins, values)

        added = (torch.ones_like(confidences), confidences, correct, confidences * (1 - confidences))
        return cls(*(summed(values) for values in added))

    @property
    def ece(self) -> float:
        """The expected calibration error, in [0, 1]; see ``ExpectedCalibrationError``."""
        return float((self.right - self.confidence).abs().sum() / self.counts.sum())

    @property
    def by_chance(self) -> float:
        """The approximate ECE of a perfectly calibrated model on as many predictions.

        Even with true probabilities, the accuracy of a bin of n samples scatters around its mean confidence. A normal
        variable of variance v has the mean absolute value √(2v/π); v sums p (1 − p) over the bin.
        """
        return float((self.variance * 2 / math.pi).sqrt().sum() / self.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: the bins, lowest confidence first; empty bins have None for their means."""
        shares = {
            name: [None if not n else float(value / n) for value, n in zip(values, self.counts, strict=True)]
            for name, values in (("confidence", self.confidence), ("accuracy", self.right))
        }
        return {"counts": [int(n) for n in self.counts], **shares, "by_chance": self.by_chance}


def expected_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = N_BINS) -> float:
    """Returns the ECE of class probabilities [N, K] with labels [N]; see ``ExpectedCalibrationError``.

    Raises:
        LookalikeError: If the shapes do not fit, or a label is out of range.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
        0.25
    """
    probabilities = checks.tensor("probabilities", probabilities, ("N", "K"), kind="number", empty=False)
    labels = checks.class_indices("labels", labels, probabilities.shape[1], (len(probabilities),))
    confidences, predicted = probabilities.max(1)
    return CalibrationBins.of(confidences.cpu(), predicted.cpu() == labels.cpu(), n_bins).ece


@torch.no_grad()
def black_box_confidences(
    box: BlackBox, model: PrototypeModel, store: EmbeddingStore, data: Batches | None
) -> Tensor | None:
    """Returns the probability of the black box's predicted class [N].

    If the stored embeddings are the input of its head, the head computes them; otherwise the black box runs over the
    data once more.

    Args:
        box: The black box.
        model: The prototype model whose encoder made the store.
        store: Test embeddings.
        data: The test data; None if there are only embeddings.

    Returns:
        None if that pass is needed and there are no data.
    """
    key = f"{store.info.get('data')}/{store.info.get('transform')}/{len(store)}"
    if key in box.confidences:
        return box.confidences[key]
    confidences = _confidences_from_embeddings(box, model, store, data)
    if confidences is None and data is not None and data.can_fetch:  # a stream may come in another order
        confidences = torch.cat(
            [_predicted_probability(box, box.encoder.scores(_to_black_box(box, batch.inputs))) for batch in data]
        )
        confidences = confidences if len(confidences) == len(store) else None
    if confidences is not None and store.info.get("data") is not None:
        box.confidences[key] = confidences
    return confidences


def _confidences_from_embeddings(
    box: BlackBox, model: PrototypeModel, store: EmbeddingStore, data: Batches | None
) -> Tensor | None:
    """Computes confidences with the head alone; None if they differ from the whole classifier's."""
    scores = _scores_from_embeddings(box, model, store)
    if scores is None:
        return None
    confidences = _predicted_probability(box, scores)
    if data is not None:
        if not data.can_fetch:
            return None
        inputs = _to_black_box(box, data.fetch(store.indices[:_CHECK_IMAGES].tolist()))
        full_confidences = _predicted_probability(box, box.encoder.scores(inputs))
        if not torch.allclose(full_confidences, confidences[: n_rows(inputs)], rtol=0, atol=_PROBABILITY_TOLERANCE):
            return None
    return confidences


def _scores_from_embeddings(box: BlackBox, model: PrototypeModel, store: EmbeddingStore) -> Tensor | None:
    """Returns the scores of the head alone [N, C]; None if its predictions are not those of the whole classifier."""
    if store.predictions is None or not box.reads_as(model.encoder):
        return None
    try:
        scores = torch.cat(
            [
                box.encoder.head(torch.from_numpy(np.array(store.embeddings[rows])).to(model.device))
                for rows in store.parts()
            ]
        )
    except (RuntimeError, TypeError, ValueError, IndexError):  # the head takes a feature map or tokens, not their mean
        return None
    if scores.ndim != 2 or scores.shape != (len(store), box.outputs.n_columns):
        return None
    if not torch.equal(box.outputs.predicted(scores).cpu(), torch.from_numpy(np.array(store.predictions))):
        return None
    return scores


@torch.no_grad()
def scaled_black_box(
    box: BlackBox, model: PrototypeModel, store: EmbeddingStore, labels: Tensor
) -> CalibrationFigures | None:
    """Measures the black box's probabilities with the temperature that the model's calibration fitted to it likewise.

    Args:
        box: The black box.
        model: The prototype model.
        store: Test embeddings.
        labels: Their classes [N].

    Returns:
        None if the model is not calibrated, or its calibration had no such black box, or the store is not of its head.
    """
    temperature = None if model.doubt is None else model.doubt.facts.black_box_temperature
    original = OriginalClassifier.of(model)
    if temperature is None or original is None:
        return None
    scores = _scores_from_embeddings(box, model, store)
    if scores is None:
        return None
    probabilities = softmax(original.log_probabilities(scores, model.n_classes) / temperature)
    return calibration_figures(probabilities, labels.cpu().numpy())


def _to_black_box(box: BlackBox, inputs: Any) -> Any:
    return place(inputs, device_of(box.encoder.model), dtype_of(box.encoder.model))


def _predicted_probability(box: BlackBox, scores: Tensor) -> Tensor:
    """Returns the probability of the class that scores [n, C] predict [n]."""
    scores = scores.float()
    predicted = box.outputs.predicted(scores)[:, None]
    return box.outputs.probabilities(scores).gather(1, predicted)[:, 0].cpu()
