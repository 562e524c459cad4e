"""Calibration on held-out samples: one factor for all scores, and how good the probabilities then are.

A factor divides all class scores before the softmax (temperature scaling, Guo et al. 2017). It changes no prediction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.intervals import Range, mean_with_interval

N_BINS = 15  # as in Guo et al. 2017
_BOOTSTRAPS = 500
_MANY, _BOOTSTRAPS_OF_MANY = 100_000, 50  # samples: their interval is narrow, and resampling them takes long
_MOST_DRAWN = 1_000_000  # samples of resamples that are drawn at once
_LEVEL = 0.95
_CHANCE_DRAWS = 500
_NARROWEST, _WIDEST = math.log(1e-3), math.log(1e3)  # of the factor
_SHARPNESS = np.exp(np.arange(-2.0, 5.1, 0.5))  # inverse temperatures that are tried, relative to the scores' spread
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
        log_loss_low: Lower end of its 95% interval (Student's t); None in calibrations of earlier versions.
        log_loss_high: Upper end of the interval.
        brier_low: Lower end of the Brier score's 95% interval.
        brier_high: Upper end of the interval.
    """

    n_samples: int
    ece: float
    ece_low: float
    ece_high: float
    log_loss: float
    brier: float
    log_loss_low: float | None = None
    log_loss_high: float | None = None
    brier_low: float | None = None
    brier_high: float | None = None


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
    # Not best_temperature: the draw of the sets is seeded with what this factor gives, down to its last digit. With
    # another minimiser, a calibration of the same images and seed would draw other sets.
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


def best_temperature(
    loss: Callable[[float], float], bounds: tuple[float, float], precision: float = 1e-5
) -> float | None:
    """Returns the temperature with the lowest loss; None if the loss is not finite there.

    The logarithm of the temperature is searched by golden sections: each step keeps the three of four points around the
    lowest one. That finds the minimum of a loss with a single valley, which the log loss of a softmax is. Importing
    SciPy's minimiser would take longer than the search.

    Args:
        loss: Returns the loss at a temperature.
        bounds: Lowest and highest temperature.
        precision: Relative precision of the temperature.
    """
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(bounds[0]), math.log(bounds[1])
    left, right = high - golden * (high - low), low + golden * (high - low)
    loss_left, loss_right = loss(math.exp(left)), loss(math.exp(right))
    while high - low > precision:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - golden * (high - low)
            loss_left = loss(math.exp(left))
        else:
            low, left, loss_left = left, right, loss_right
            right = low + golden * (high - low)
            loss_right = loss(math.exp(right))
    return math.exp((low + high) / 2) if math.isfinite(min(loss_left, loss_right)) else None


def least_log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean log loss of a softmax over scores, at the temperature that suits it best.

    So scores of any unit can be compared, such as those of two similarities. Unlike the number of errors, the loss
    varies smoothly, and tells two apart on a hundred samples.

    Args:
        scores: [N, K]; −∞ is a class of probability 0.
        labels: True classes [N].
    """
    excess = scores.max(1, keepdims=True) - scores
    spread = excess[np.isfinite(excess)].mean()
    excess = excess / max(float(spread), np.finfo(np.float64).tiny)
    of_label = excess[np.arange(len(labels)), labels]
    return min(float((sharp * of_label + np.log(np.exp(-sharp * excess).sum(1))).mean()) for sharp in _SHARPNESS)


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
    if not len(probabilities):
        raise LookalikeError("there are no samples to measure calibration on")
    probabilities = checks.probabilities("probabilities", torch.from_numpy(probabilities)).numpy()
    labels = checks.class_indices("labels", labels, probabilities.shape[1], (len(probabilities),)).numpy()
    predictions = probabilities.argmax(1) if predictions is None else np.asarray(predictions)
    rows = np.arange(len(labels))
    return figures_of_samples(
        probabilities[rows, predictions],
        predictions == labels,
        probabilities[rows, labels],
        np.square(probabilities).sum(1),
        seed=seed,
    )


def figures_of_samples(
    confidences: np.ndarray, correct: np.ndarray, of_label: np.ndarray, squares: np.ndarray, *, seed: int = 0
) -> CalibrationFigures:
    """Measures the same as ``calibration_figures`` from four numbers per sample, for many samples and classes.

    Args:
        confidences: Probability of the predicted class [N].
        correct: Whether that class is correct [N].
        of_label: Probability of the true class [N].
        squares: Sum of the squared probabilities of all classes [N].
        seed: Seed of the resampling.
    """
    bins = np.minimum((confidences * N_BINS).astype(int), N_BINS - 1)
    gaps = correct - confidences
    ece = float(_eces(bins[None], gaps[None])[0])
    rng = np.random.default_rng(seed)
    resampled = []
    n_left = _BOOTSTRAPS if len(gaps) <= _MANY else _BOOTSTRAPS_OF_MANY
    at_once = max(1, _MOST_DRAWN // len(gaps))
    while n_left > 0:
        rows_drawn = rng.integers(0, len(gaps), (min(at_once, n_left), len(gaps)))
        resampled.append(_eces(bins[rows_drawn], gaps[rows_drawn]))
        n_left -= len(rows_drawn)
    low, high = np.quantile(np.concatenate(resampled), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    losses = -np.log(np.maximum(of_label, SMALLEST_PROBABILITY))
    log_loss, brier = _mean_not_negative(losses), _mean_not_negative(squares - 2 * of_label + 1)
    return CalibrationFigures(
        len(gaps),
        ece,
        max(0.0, 2 * ece - float(high)),
        min(1.0, max(ece, 2 * ece - float(low))),
        log_loss.mean,
        brier.mean,
        log_loss.low,
        log_loss.high,
        brier.low,
        brier.high,
    )


def _mean_not_negative(values: np.ndarray) -> Range:
    """Returns the mean of values [N] that are never negative, with its 95% interval; one value may be anything."""
    mean = float(values.mean())
    found = mean_with_interval(values) or Range(mean, 0.0, 2 * mean)
    return found._replace(low=max(0.0, found.low))


def ece_by_chance(confidences: np.ndarray, *, seed: int = 0) -> float:
    """Returns the mean ECE of as many predictions with these confidences [N] if each were exactly right.

    Also with true probabilities, the accuracy of a bin scatters around its mean confidence, the more so the fewer
    samples there are and the closer they are to one half. The outcomes are drawn 500 times.
    """
    bins = np.minimum((confidences * N_BINS).astype(int), N_BINS - 1)
    correct = np.random.default_rng(seed).uniform(size=(_CHANCE_DRAWS, len(confidences))) < confidences
    return float(_eces(np.broadcast_to(bins, correct.shape), correct - confidences).mean())


def _eces(bins: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Returns the ECE [R] of sets of samples: from bins [R, N], and whether each is correct minus its confidence."""
    numbers = bins + N_BINS * np.arange(len(bins))[:, None]
    sums = np.bincount(numbers.ravel(), weights=gaps.ravel(), minlength=N_BINS * len(bins))
    eces: np.ndarray = np.abs(sums.reshape(-1, N_BINS)).sum(1) / bins.shape[1]
    return eces
