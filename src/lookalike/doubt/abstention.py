"""Answering only when sure enough: how many inputs can be answered with a bound on the share of errors.

Learn then Test (Angelopoulos et al. 2021): thresholds on the confidence are tested one after the other, from the
strictest on, each by an exact binomial test; the last one that passes before the first failure is taken. With
probability 1 − δ over the validation images, the error rate among answered inputs is then at most α.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

_STEPS = 50  # thresholds that are tested
_START = 2.0  # the strictest threshold answers so many times the fewest samples with which the test can pass


@dataclass(frozen=True)
class Abstention:
    """When to answer.

    Attributes:
        error: α, the largest share of errors among answered inputs.
        confidence: 1 − δ, the probability that this holds.
        threshold: Smallest probability of the predicted class with which an input is answered; ∞ answers none.
        share: Share of the validation images that are answered.
        errors: Number of errors among them.
        n_samples: Number of validation images.
    """

    error: float
    confidence: float
    threshold: float
    share: float
    errors: int
    n_samples: int

    @property
    def answers_any(self) -> bool:
        """Whether any input is answered."""
        return math.isfinite(self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; the threshold is None if no input is answered."""
        return asdict(self) | {"threshold": self.threshold if self.answers_any else None}

    def sentence(self) -> str:
        """Says what share can be answered."""
        promise = (
            f"at most {100 * self.error:.4g}% of the answers are wrong (with a confidence of "
            f"{100 * self.confidence:.4g}%)"
        )
        if not self.answers_any:
            return f"No threshold is known with which {promise}: {self.n_samples:,} validation images do not show it."
        return (
            f"If the model answers only with a probability of at least {self.threshold:.3f}, it answers "
            f"{self.share:.1%} of the images, and {promise}."
        )


def choose_abstention(
    confidences: np.ndarray,
    correct: np.ndarray,
    fitted_confidences: np.ndarray,
    *,
    error: float = 0.05,
    confidence: float = 0.9,
) -> Abstention:
    """Returns the smallest threshold that a fixed sequence of tests accepts.

    Args:
        confidences: Probability of the predicted class of the validation images [n].
        correct: Whether that class is correct [n].
        fitted_confidences: The same probability of other images [m]; the thresholds to test are their quantiles, so
            that they do not depend on the images that are tested.
        error: α, in (0, 1).
        confidence: 1 − δ, in (0, 1).

    Raises:
        LookalikeError: If a number is out of range, or too few images can show the bound even without any error.

    Example:
        >>> sure = np.linspace(0.5, 1, 1000)
        >>> choose_abstention(sure, sure > 0.6, sure, error=0.05).share > 0.8
        True
    """
    from scipy.stats import binom

    error = checks.number("error", error, above=0, below=1)
    confidence = checks.number("confidence", confidence, above=0, below=1)
    delta, n = 1 - confidence, len(confidences)
    fewest = int(np.ceil(np.log(delta) / np.log1p(-error)))
    if n < fewest:
        raise LookalikeError(
            f"an error rate of {error:g} with confidence {confidence:g} needs {fewest:,} validation images besides "
            f"those that the temperature was fitted to; there are {n:,}: calibrate with more, or ask for less"
        )
    shares = np.linspace(min(1.0, _START * fewest / n), 1.0, _STEPS)
    rule = Abstention(error, confidence, float("inf"), 0.0, 0, n)
    for threshold in np.quantile(fitted_confidences, 1 - shares):
        answered = confidences >= threshold
        n_answered, n_errors = int(answered.sum()), int((answered & ~correct).sum())
        if n_answered == 0 or binom.cdf(n_errors, n_answered, error) > delta:
            break
        rule = Abstention(error, confidence, float(threshold), n_answered / n, n_errors, n)
    return rule


def accuracy_rejection(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the accuracy-rejection curve: shares of answered inputs [n], ascending, and the accuracy of each [n].

    Inputs are answered in the order of their confidence. Inputs with equal confidence are answered together, so their
    points are left out except the last.

    Example:
        >>> shares, accuracy = accuracy_rejection(np.array([0.9, 0.8, 0.7]), np.array([True, True, False]))
        >>> accuracy.round(2).tolist()
        [1.0, 1.0, 0.67]
    """
    order = np.argsort(-confidences, kind="stable")
    counts = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(correct[order]) / counts
    is_last = np.append(np.diff(confidences[order]) != 0, True)
    return (counts / len(order))[is_last], accuracy[is_last]
