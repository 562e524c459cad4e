"""Sets of classes with coverage: split conformal prediction (Papadopoulos et al. 2002; Vovk et al. 2005).

A new image of the known kind has its true class in the set with the requested probability, whatever the model. The
score of a class has two parts, and the larger counts: how far the class trails the predicted one, and how unfamiliar
the image is. So a set can be empty, and that means: this looks like nothing known [ours].
"""

import math
from dataclasses import dataclass, field

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible

_NOVELTY_SHARE = 0.25
_TAIL = 0.1
_LARGE_GAP = 0.01  # between a coverage that few samples allow and its target


@dataclass(frozen=True)
class PredictionSets:
    """The sets of classes of N inputs.

    Attributes:
        members: Whether each class is in the set [N, K].
        prototypes: The most similar prototype of each class [N, K]; −1 for a class without prototypes.
        class_names: The names of the K classes.
        coverage: Probability with which the true class is in the set.
        per_class: Whether the coverage holds for the images of each class, not only for all together.
        conservative: Whether the thresholds are the higher ones; otherwise the calibration's draw chose them, so that
            the coverage is met exactly, on average over calibrations.
        expected: Coverage of the threshold of each class, on average over calibrations with the same draw [K]; all the
            same if not per class, and 1 for a class that is in every set.
        notes: What limits the sets, such as classes with too few validation images.
    """

    members: np.ndarray
    prototypes: np.ndarray
    class_names: list[str]
    coverage: float
    per_class: bool
    conservative: bool
    expected: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, row: int) -> list[str]:
        """Returns the names of the classes in one input's set, in the order of the classes."""
        return [self.class_names[k] for k in np.flatnonzero(self.members[row])]

    def of(self, row: int) -> list[tuple[str, int]]:
        """Returns the classes in one input's set, each with its most similar prototype."""
        return [(self.class_names[k], int(self.prototypes[row, k])) for k in np.flatnonzero(self.members[row])]

    @property
    def sizes(self) -> np.ndarray:
        """Number of classes in each set [N]; 0 where the input looks like nothing known."""
        sizes: np.ndarray = self.members.sum(1)
        return sizes

    def sentence(self, row: int) -> str:
        """Returns one input's set in words."""
        return set_sentence(self.of(row), self.coverage)


def set_sentence(classes: list[tuple[str, int]], coverage: float) -> str:
    """Returns a set of classes in words: nothing known, one class, or "either this or that".

    Args:
        classes: Each class with its most similar prototype; −1 if it has none.
        coverage: Probability with which the true class is among them.

    Example:
        >>> set_sentence([("cat", 3), ("dog", 7)], 0.95)
        "Either 'cat' (prototype 3) or 'dog' (prototype 7), with 95% coverage."
    """
    if not classes:
        return f"Nothing I know, with {100 * coverage:.4g}% coverage."
    named = [
        f"'{visible(name)}' ({'no prototype' if prototype < 0 else f'prototype {prototype}'})"
        for name, prototype in classes
    ]
    if len(named) == 1:
        return f"Only {named[0]}, with {100 * coverage:.4g}% coverage."
    return f"Either {', '.join(named[:-1])} or {named[-1]}, with {100 * coverage:.4g}% coverage."


def least_samples(coverage: float) -> int:
    """Returns the smallest number of calibration samples with which a coverage below 1 can be reached.

    Example:
        >>> least_samples(0.95), least_samples(0.9)
        (19, 9)
    """
    coverage = checks.number("coverage", coverage, above=0, below=1)
    n = max(1, math.floor(coverage / (1 - coverage)) - 1)
    while _rank(n, coverage) > n:
        n += 1
    return n


def _rank(n: int, coverage: float, draw: float = 0.0) -> int:
    """Returns ⌈(n + 1) · coverage⌉, or one less if the draw says so, without the rounding errors of the product."""
    product = round((n + 1) * coverage, 9)
    rank = math.ceil(product)
    return rank - 1 if draw >= product - (rank - 1) else rank


def conformal_threshold(scores: np.ndarray, coverage: float, draw: float = 0.0) -> float:
    """Returns the largest score that a class in the set may have: the ⌈(n + 1) · coverage⌉-th smallest of n.

    A new score falls into each of the n + 1 gaps between the scores with the same probability. So the coverage is a
    multiple of 1 / (n + 1): at least the requested one, and less than 1 / (n + 1) above it if no two scores are equal.
    With a ``draw`` from a uniform distribution, the next smaller threshold is taken as often as needed to meet the
    request exactly, on average over draws (smoothed conformal predictors, Vovk et al. 2005, section 2.2). With one draw
    for all coverages, the set of a higher coverage holds that of a lower one.

    Args:
        scores: Scores of the true classes of n calibration samples; smaller is more typical.
        coverage: Probability with which a new sample's true class is to be in its set.
        draw: A number in [0, 1); 0 draws nothing.

    Returns:
        The threshold; ∞, which lets every class in, if n is too small for the coverage, −∞ for a coverage below
        1 / (n + 1) if the draw says so.

    Example:
        >>> conformal_threshold(np.arange(19.0), 0.95), conformal_threshold(np.arange(18.0), 0.95)
        (18.0, inf)
        >>> conformal_threshold(np.arange(29.0), 0.95, draw=0.4), conformal_threshold(np.arange(29.0), 0.95, draw=0.6)
        (28.0, 27.0)
    """
    coverage = checks.number("coverage", coverage, above=0, below=1)
    draw = checks.number("draw", draw, least=0, below=1)
    rank = _rank(len(scores), coverage, draw)
    if rank > len(scores):
        return math.inf
    if rank < 1:
        return -math.inf
    return float(np.partition(np.asarray(scores, dtype=np.float64), rank - 1)[rank - 1])


def coverage_of_threshold(n: int, coverage: float, draw: float = 0.0) -> float:
    """Returns the coverage of ``conformal_threshold`` on average over n calibration samples, if no scores are equal.

    Example:
        >>> round(coverage_of_threshold(45, 0.95), 4), coverage_of_threshold(19, 0.95)
        (0.9565, 0.95)
        >>> round(coverage_of_threshold(45, 0.95, draw=0.8), 4)
        0.9348
    """
    return min(_rank(n, coverage, draw) / (n + 1), 1.0)


def log_survival(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the share of familiar inputs that are at least as unfamiliar, estimated smoothly.

    Up to the 90th percentile of the reference it is their share, interpolated; beyond, a power law fitted to the rest
    (Hill, 1975), so that inputs farther out than all of them still differ. An exponential tail would be too thin: a few
    familiar but odd inputs would then set the threshold of all sets.

    Args:
        values: Novelty scores, of any shape.
        reference: Novelty of familiar inputs, sorted [n], n ≥ 1.
    """
    middle, start = np.quantile(reference, [0.5, 1 - _TAIL])
    unit = max(float(start - middle), 1e-12 * max(abs(float(start)), 1e-280))
    beyond = np.log1p(np.maximum(reference - start, 0) / unit)[reference > start]
    exponent = float(beyond.mean()) if len(beyond) else 1.0
    excess = np.log1p(np.maximum(values - start, 0) / unit)
    distinct, first = np.unique(reference, return_index=True)
    inside = np.log(np.maximum(1 - np.interp(values, distinct, first / len(reference)), _TAIL))
    logarithms: np.ndarray = np.where(values > start, math.log(_TAIL) - excess / exponent, inside)
    return logarithms


def set_scores(margins: np.ndarray, novelty: np.ndarray, fitted_novelty: np.ndarray) -> np.ndarray:
    """Returns the score of each class [N, K]; classes with small scores are in the set.

    Both parts are −log of a probability: of all classes that are at most as probable (as in the adaptive sets of Romano
    et al. 2020, without the class itself for the predicted one), and of an input that is as unfamiliar. Where both
    compete, unfamiliar inputs get a quarter of what may miss: empty sets for no good reason would be worth little. If
    the model is correct more often than the coverage asks for, all that may miss goes to unfamiliar inputs.

    Args:
        margins: How far each class's log-probability trails that of the predicted class [N, K]; 0 for the predicted.
        novelty: How unfamiliar each input is [N].
        fitted_novelty: Sorted novelty of other familiar inputs, which are not used for the threshold [m].
    """
    order = np.argsort(margins, axis=1, kind="stable")
    weights = -np.take_along_axis(margins, order, 1)
    tails = np.logaddexp.accumulate(weights[:, ::-1], axis=1)[:, ::-1]
    trailing = np.empty_like(tails)
    np.put_along_axis(trailing, order, tails[:, :1] - tails, 1)
    trailing[margins == 0] = -np.inf
    scores: np.ndarray = np.maximum(trailing, _unfamiliarity(novelty, fitted_novelty)[:, None])
    return np.where(np.isfinite(margins), scores, np.inf)


def _unfamiliarity(novelty: np.ndarray, fitted_novelty: np.ndarray) -> np.ndarray:
    """Returns the part of a class's score that rises with the novelty."""
    return math.log(_NOVELTY_SHARE) - log_survival(novelty, fitted_novelty)


def novelty_limit(threshold: float, fitted_novelty: np.ndarray) -> float:
    """Returns the highest novelty with which a set has any class: beyond it, all classes score above the threshold.

    Args:
        threshold: The largest score that a class in the set may have.
        fitted_novelty: As for ``set_scores`` [m].

    Returns:
        The limit, to the bit; −∞ if no input is familiar enough, ∞ if each is.
    """

    def is_in(novelty: float) -> bool:
        return float(_unfamiliarity(np.array(novelty), fitted_novelty)) <= threshold

    inside, outside = float(fitted_novelty[0]), float(fitted_novelty[-1])
    if not is_in(inside):
        return -math.inf
    step = max(outside - inside, abs(outside), 1.0)
    while is_in(outside):
        inside, outside, step = outside, outside + step, 2 * step
        if math.isinf(outside):
            return math.inf
    while inside < (middle := inside + (outside - inside) / 2) < outside:
        inside, outside = (middle, outside) if is_in(middle) else (inside, middle)
    return inside


def check_coverage(coverage: float, n: int) -> int:
    """Returns the number of samples that a coverage needs.

    Raises:
        LookalikeError: If n is smaller.
    """
    needed = least_samples(coverage)
    if n < needed:
        raise LookalikeError(
            f"a coverage of {coverage:g} needs {needed:,} validation images besides those that the temperature is "
            f"fitted to; there are {n:,}: calibrate with more, or ask for at most "
            f"{math.floor(1000 * n / (n + 1)) / 1000:g}"
        )
    return needed


@dataclass(frozen=True)
class SetThresholds:
    """Thresholds of the classes' scores.

    Attributes:
        values: The largest score of each class that is in the set [K].
        expected: Coverage of each, on average over calibrations with the same draw [K].
        notes: A sentence for each class with too few samples, which is in every set, and one for large steps.
    """

    values: np.ndarray
    expected: np.ndarray
    notes: list[str]


def set_thresholds(
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: list[str],
    coverage: float,
    *,
    per_class: bool,
    draws: np.ndarray | None = None,
) -> SetThresholds:
    """Returns the threshold of each class: one for all (marginal), or one each (Mondrian).

    Args:
        scores: Scores of the true classes of calibration samples [n].
        labels: Their true classes [n].
        class_names: The names of the K classes.
        coverage: Probability with which the true class is to be in the set.
        per_class: Let the coverage hold for the images of each class.
        draws: A number in [0, 1) for each class, and one for all together, which choose the thresholds [K + 1]; None
            takes the higher thresholds.

    Raises:
        LookalikeError: If there are too few samples for the coverage, of all classes together.
    """
    needed = check_coverage(coverage, len(scores))
    n_classes = len(class_names)
    used_draws = np.zeros(n_classes + 1) if draws is None else draws
    if not per_class:
        threshold = conformal_threshold(scores, coverage, used_draws[-1])
        expected = np.full(n_classes, coverage_of_threshold(len(scores), coverage, used_draws[-1]))
        notes = _granularity(np.array([len(scores)]), expected, coverage, "", is_drawn=draws is not None)
        return SetThresholds(np.full(n_classes, threshold), expected, notes)
    counts = np.bincount(labels, minlength=n_classes)
    # a class with too few samples stays in every set: a coin would be of no use to anyone
    used_draws = np.where(counts < needed, 0.0, used_draws[:-1])
    values = np.array([conformal_threshold(scores[labels == k], coverage, used_draws[k]) for k in range(n_classes)])
    expected = np.array([coverage_of_threshold(int(n), coverage, u) for n, u in zip(counts, used_draws, strict=True)])
    notes = [
        f"class '{visible(class_names[k])}' has {counts[k]} validation images; a coverage of {coverage:g} needs "
        f"{needed}: it is in every set"
        for k in range(n_classes)
        if counts[k] < needed
    ]
    enough = counts >= needed
    notes += _granularity(counts[enough], expected[enough], coverage, " of a class", is_drawn=draws is not None)
    return SetThresholds(values, expected, notes)


def _granularity(
    counts: np.ndarray, expected: np.ndarray, coverage: float, of_what: str, *, is_drawn: bool
) -> list[str]:
    """Returns a sentence if few samples put a coverage more than a point beside the target."""
    if not len(counts) or np.abs(expected - coverage).max() <= _LARGE_GAP:
        return []
    low, high = (f"{100 * value:.1f}%" for value in (expected.min(), expected.max()))
    coverages = low if low == high else f"{low} to {high}"
    steps = (
        f"with {counts.min():,} validation images{of_what}, a coverage can only be met in steps of "
        f"{100 / (counts.min() + 1):.2g} points"
    )
    if not is_drawn:
        return [f"{steps}: for {coverage:g} it is {coverages}, on average over calibrations"]
    return [
        f"{steps}; this calibration drew {coverages}, so that it is {coverage:g} on average over calibrations; "
        f"conservative sets are never below {coverage:g} on that average"
    ]
