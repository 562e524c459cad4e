"""Calibration on held-out samples: one factor for all scores, and how good the probabilities then are.

A factor divides all class scores before the softmax (temperature scaling, Guo et al. 2017). It changes no prediction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

N_BINS = 15  # as in Guo et al. 2017
_BOOTSTRAPS = 500
_LEVEL = 0.95
_NARROWEST, _WIDEST = math.log(1e-3), math.log(1e3)  # of the factor
SMALLEST_PROBABILITY = 1e-12  # keeps one confident mistake from making the mean log loss infinite


@dataclass(frozen=True)
class CalibrationFigures:
    """How good class probabilities are, on samples that nothing was fitted to.

    Attributes:
        n_samples: Number of samples.
        ece: Expected calibration error with 15 bins.
        ece_low: Lower end of its 95% interval (bootstrap).
        ece_high: Upper end of the interval.
        log_loss: Mean −log of the true class's probability.
        brier: Mean squared difference between the probabilities and the true class's indicator, summed over classes.
    """

    n_samples: int
    ece: float
    ece_low: float
    ece_high: float
    log_loss: float
    brier: float


def softmax(scores: np.ndarray) -> np.ndarray:
    """Returns probabilities [N, K] of class scores [N, K]; a score of −∞ has probability 0."""
    shifted = scores - scores.max(1, keepdims=True)
    powers = np.exp(shifted)
    probabilities: np.ndarray = powers / powers.sum(1, keepdims=True)
    return probabilities


def fit_factor(log_probabilities: Callable[[float], np.ndarray], labels: np.ndarray) -> float:
    """Returns the factor whose probabilities have the lowest log loss.

    Without any error, a factor of 0 would be best. A weak prior, one standard deviation for a factor of e, prevents
    that and keeps the factor near 1 where few samples say otherwise.

    Args:
        log_probabilities: Returns normalised log-probabilities [N, K] for a factor.
        labels: True classes [N].

    Raises:
        LookalikeError: If there are fewer than two classes or the log loss is not finite.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def loss(exponent: float) -> float:
        log_p_of_label = np.maximum(log_probabilities(math.exp(exponent))[rows, labels], -1e6)
        return -float(log_p_of_label.mean()) + exponent**2 / (2 * len(labels))

    if log_probabilities(1.0).shape[1] < 2:
        raise LookalikeError("a model of one class has nothing to calibrate: all its probabilities are 1")
    result = minimize_scalar(loss, bounds=(_NARROWEST, _WIDEST), method="bounded", options={"xatol": 1e-4})
    if not math.isfinite(float(result.fun)):
        raise LookalikeError("the log loss of the validation samples is not finite; are their embeddings?")
    return math.exp(float(result.x))


def reliability(probabilities: np.ndarray, labels: np.ndarray, n_bins: int = N_BINS) -> dict[str, list[Any]]:
    """Returns the bins of a reliability diagram, lowest confidence first.

    Args:
        probabilities: [N, K].
        labels: True classes [N].
        n_bins: Number of bins of equal width.

    Returns:
        ``counts``, ``confidence`` and ``accuracy`` of each bin; None where a bin is empty.
    """
    confidences, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidences * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    sums = [np.bincount(bins, weights=values, minlength=n_bins) for values in (confidences, correct)]
    means = [[float(s / n) if n else None for s, n in zip(values, counts, strict=True)] for values in sums]
    return {"counts": counts.tolist(), "confidence": means[0], "accuracy": means[1]}


def calibration_figures(
    probabilities: np.ndarray, labels: np.ndarray, *, predictions: np.ndarray | None = None, seed: int = 0
) -> CalibrationFigures:
    """Measures ECE with an interval, log loss and Brier score.

    The interval is the basic bootstrap's, cut off at 0: the ECE of resamples is biased upwards, and that interval turns
    the bias around.

    Args:
        probabilities: [N, K].
        labels: True classes [N].
        predictions: Predicted classes [N]; None takes the most probable ones.
        seed: Seed of the resampling.

    Raises:
        LookalikeError: If there are no samples, or the shapes do not fit.
    """
    probabilities = checks.array("probabilities", probabilities, ("N", "K")).astype(np.float64)
    labels = checks.array("labels", labels, (len(probabilities),), "whole")
    if not len(labels):
        raise LookalikeError("there are no samples to measure calibration on")
    predictions = probabilities.argmax(1) if predictions is None else np.asarray(predictions)
    rows = np.arange(len(labels))
    confidences = probabilities[rows, predictions]
    bins = np.minimum((confidences * N_BINS).astype(int), N_BINS - 1)
    gaps = (predictions == labels) - confidences
    ece = _ece(bins, gaps)
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(_BOOTSTRAPS):
        rows_drawn = rng.integers(0, len(labels), len(labels))
        resampled.append(_ece(bins[rows_drawn], gaps[rows_drawn]))
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    probability_of_label = probabilities[rows, labels]
    return CalibrationFigures(
        len(labels),
        ece,
        max(0.0, 2 * ece - float(high)),
        max(ece, 2 * ece - float(low)),
        -float(np.log(np.maximum(probability_of_label, SMALLEST_PROBABILITY)).mean()),
        float((np.square(probabilities).sum(1) - 2 * probability_of_label + 1).mean()),
    )


def _ece(bins: np.ndarray, gaps: np.ndarray) -> float:
    """Returns the ECE from each sample's bin [N], and whether it is correct minus its confidence [N]."""
    return float(np.abs(np.bincount(bins, weights=gaps)).sum() / len(gaps))
