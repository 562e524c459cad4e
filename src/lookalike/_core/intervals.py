"""Confidence intervals of shares, and of the difference between two shares on the same samples."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share of samples with its 95% confidence interval.

    Attributes:
        value: The share, in [0, 1]; for a difference of shares, in [−1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of samples.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def share(successes: int, n: int) -> Share:
    """Returns a share with Wilson's score interval.

    Raises:
        LookalikeError: If there are no samples.

    Example:
        >>> accuracy = share(98, 100)
        >>> accuracy.value, round(accuracy.low, 3), round(accuracy.high, 3)
        (0.98, 0.93, 0.994)
    """
    _check_samples(n)
    successes = checks.whole_number("successes", successes, 0, n)
    value, extra = successes / n, Z95**2 / n  # SciPy has this interval too, and takes half a second to import
    centre = (value + extra / 2) / (1 + extra)
    half = math.sqrt(extra * (value * (1 - value) + extra / 4)) / (1 + extra)
    low, high = (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
    return Share(value, low, high, n)


def paired_difference(only_first: int, only_second: int, n: int) -> Share:
    """Returns the difference of two shares on the same samples, the first minus the second (Agresti and Min, 2005).

    Args:
        only_first: Number of samples on which only the first was correct.
        only_second: Number of samples on which only the second was correct.
        n: Number of samples.

    Raises:
        LookalikeError: If there are no samples.

    Example:
        >>> paired_difference(3, 7, 1000).value
        -0.004
    """
    _check_samples(n)
    only_first = checks.whole_number("only_first", only_first, 0, n)
    only_second = checks.whole_number("only_second", only_second, 0, n - only_first)
    b, c, m = only_first + 0.5, only_second + 0.5, n + 2
    centre = (b - c) / m
    half = Z95 * math.sqrt(max(b + c - (b - c) ** 2 / m, 0.0)) / m
    return Share((only_first - only_second) / n, max(-1.0, centre - half), min(1.0, centre + half), n)


class Range(NamedTuple):
    """A mean, with the range in which it, or one more value, is expected with 95% confidence.

    Attributes:
        mean: Mean of the values.
        low: Lower end of the range.
        high: Upper end of the range.
    """

    mean: float
    low: float
    high: float


def range_of_another(draws: Sequence[Sequence[float]]) -> Range | None:
    """Returns the range in which the mean of one more draw is expected, if it were measured on unlimited samples.

    Values differ between draws and between samples; only the differences between draws count here (one-way analysis of
    variance with random effects). The range is mean ± t · √(v + s²/R), with R draws, Student's t at 95%, the variance
    s² of the draws' means, and v, the part of s² that the spread of the samples does not explain. It is wider than the
    confidence interval of the mean, as it answers another question: not where the mean is, but what another draw gives.

    Args:
        draws: The values of each draw, on its own samples; draws without values are left out.

    Returns:
        None with fewer than two draws, as these have no spread.

    Example:
        >>> expected = range_of_another([[0.1], [0.2], [0.3]])
        >>> round(expected.mean, 3), round(expected.low, 3), round(expected.high, 3)
        (0.2, -0.297, 0.697)
    """
    from scipy.stats import t

    draws = [values for values in draws if len(values)]
    n_draws = len(draws)
    if n_draws < 2:
        return None
    means = [fmean(values) for values in draws]
    between = variance(means)
    degrees_of_freedom = sum(len(values) - 1 for values in draws)
    within = (
        sum(variance(values) * (len(values) - 1) for values in draws if len(values) > 1) / degrees_of_freedom
        if degrees_of_freedom
        else 0.0
    )
    unexplained_variance = max(0.0, between - within * fmean([1 / len(values) for values in draws]))
    half = float(t.ppf(0.975, n_draws - 1)) * math.sqrt(unexplained_variance + between / n_draws)
    centre = fmean(means)
    return Range(centre, centre - half, centre + half)


def mean_with_interval(values: Sequence[float] | np.ndarray) -> Range | None:
    """Returns a mean with its 95% confidence interval by Student's t; None with fewer than two finite values.

    Args:
        values: Any number of them, such as one of each image [N].

    Example:
        >>> found = mean_with_interval([0.1, 0.2, 0.3])
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (0.2, -0.048, 0.448)
    """
    from scipy.stats import t

    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return None
    half = float(t.ppf(0.975, len(finite) - 1)) * float(finite.std(ddof=1)) / math.sqrt(len(finite))
    centre = float(finite.mean())
    return Range(centre, centre - half, centre + half)


def sign_test(losses: int, gains: int) -> float:
    """Returns the probability of at least this many losses if losses and gains were equally likely.

    McNemar's exact one-sided test: about 0.5 if losses and gains are equally frequent, 1 without losses.

    Args:
        losses: Number of samples on which only the other model is correct.
        gains: Number of samples on which only this model is correct.

    Example:
        >>> sign_test(5, 0), sign_test(0, 0)
        (0.03125, 1.0)
    """
    from scipy.stats import binom

    losses = checks.whole_number("losses", losses, 0)
    gains = checks.whole_number("gains", gains, 0)
    return float(binom.sf(losses - 1, losses + gains, 0.5)) if losses else 1.0


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Returns which of several tests are significant, corrected for their number (Holm, 1979).

    The probability of any false positive among them is at most ``level``.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [True, False, False]
    """
    significant = [False] * len(p_values)
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[position] > level / (len(p_values) - rank):
            break
        significant[position] = True
    return significant


def _check_samples(n: int) -> None:
    if checks.whole_number("n", n, 0) < 1:
        raise LookalikeError("there are no samples to compare")
