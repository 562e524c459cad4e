"""Calibration: is a prediction with probability 0.9 correct nine times in ten? The expected calibration error (ECE)."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lookalike._core import checks
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import device_of, dtype_of, place
from lookalike.encoder.calls import n_rows
from lookalike.metrics.black_box import BlackBox
from lookalike.model import PrototypeModel

N_BINS = 15  # as in Guo et al. 2017

_CHECK_IMAGES = 32  # images on which the head's probabilities are compared with the whole classifier's
_PROBABILITY_TOLERANCE = 1e-3


class ExpectedCalibrationError(Metric):
    """ECE: the mean difference between the confidence of predictions and their accuracy.

    Predictions are sorted into bins of equal width by the probability of the predicted class, their confidence:
    ECE = Σ_b n_b / N · |accuracy_b − mean confidence_b| (Guo et al. 2017, equation 3).

    Args:
        n_bins: Number of bins between 0 and 1.
        **kwargs: Options of ``torchmetrics.Metric``.

    Example:
        >>> metric = ExpectedCalibrationError()
        >>> metric.update(torch.tensor([0.9, 0.9]), torch.tensor([True, False]))
        >>> round(float(metric.compute()), 3)
        0.4
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    counts: Tensor
    confidence: Tensor
    right: Tensor
    variance: Tensor

    def __init__(self, n_bins: int = N_BINS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.whole_number("n_bins", n_bins, 1)
        for name in ("counts", "confidence", "right", "variance"):
            self.add_state(name, torch.zeros(n_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, confidences: Tensor, correct: Tensor) -> None:
        """Adds predictions: the probability of the predicted class [N], and whether that class is correct [N]."""
        confidences = checks.tensor("confidences", confidences, ("N",), kind="number").to(self.counts).clamp(0, 1)
        correct = torch.as_tensor(correct).to(self.counts)
        if correct.shape != confidences.shape:
            raise checks.unfit("correct", correct, f"a tensor [{len(confidences)}]")
        bins = (confidences * len(self.counts)).long().clamp_max(len(self.counts) - 1)
        self.counts.index_add_(0, bins, torch.ones_like(confidences))
        self.confidence.index_add_(0, bins, confidences)
        self.right.index_add_(0, bins, correct)
        self.variance.index_add_(0, bins, confidences * (1 - confidences))

    def compute(self) -> Tensor:
        """Returns the ECE, in [0, 1]."""
        return (self.right - self.confidence).abs().sum() / self.counts.sum()

    def by_chance(self) -> float:
        """Returns the approximate ECE of a perfectly calibrated model on as many predictions.

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
        return {"counts": [int(n) for n in self.counts], **shares, "by_chance": self.by_chance()}


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
    metric = ExpectedCalibrationError(n_bins)
    metric.update(confidences.cpu(), (predicted.cpu() == labels.cpu()))
    return float(metric.compute())


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
    key = f"{store.info.get('data')}/{len(store)}"
    if key in box.confidences:
        return box.confidences[key]
    confidences = _confidences_from_embeddings(box, model, store, data)
    if confidences is None and data is not None:
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
    confidences = _predicted_probability(box, scores)
    if data is not None:
        if not data.can_fetch:
            return None
        inputs = _to_black_box(box, data.fetch(store.indices[:_CHECK_IMAGES].tolist()))
        full_confidences = _predicted_probability(box, box.encoder.scores(inputs))
        if not torch.allclose(full_confidences, confidences[: n_rows(inputs)], rtol=0, atol=_PROBABILITY_TOLERANCE):
            return None
    return confidences


def _to_black_box(box: BlackBox, inputs: Any) -> Any:
    return place(inputs, device_of(box.encoder.model), dtype_of(box.encoder.model))


def _predicted_probability(box: BlackBox, scores: Tensor) -> Tensor:
    """Returns the probability of the class that scores [n, C] predict [n]."""
    scores = scores.float()
    predicted = box.outputs.predicted(scores)[:, None]
    return box.outputs.probabilities(scores).gather(1, predicted)[:, 0].cpu()
