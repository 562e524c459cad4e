"""Confidence intervals of shares, and of the difference between two shares on the same samples."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any, NamedTuple

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share of samples with its 95% confidence interval.

    Attributes:
        value: In [0, 1]; of a difference in [−1, 1].
        low: The interval's lower end.
        high: Its upper end.
        n: Of how many samples.
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
        >>> found = share(98, 100)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (0.98, 0.93, 0.994)
    """
    _check_samples(n)
    checks.whole_number("successes", successes, 0, n)
    p, z2 = successes / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Share(p, max(0.0, centre - half), min(1.0, centre + half), n)


def paired_difference(only_first: int, only_second: int, n: int) -> Share:
    """Returns how much larger the first of two shares of the same samples is (Agresti and Min, 2005).

    Args:
        only_first: On how many samples only the first was right.
        only_second: On how many only the second was.
        n: How many samples there are.

    Raises:
        LookalikeError: If there are no samples.

    Example:
        >>> paired_difference(3, 7, 1000).value
        -0.004
    """
    _check_samples(n)
    checks.whole_number("only_first", only_first, 0, n)
    checks.whole_number("only_second", only_second, 0, n - only_first)
    b, c, m = only_first + 0.5, only_second + 0.5, n + 2
    centre = (b - c) / m
    half = Z95 * math.sqrt(max(b + c - (b - c) ** 2 / m, 0.0)) / m
    return Share((only_first - only_second) / n, max(-1.0, centre - half), min(1.0, centre + half), n)


class Range(NamedTuple):
    """A mean, and where one more value of its kind is expected with 95% confidence.

    Attributes:
        mean: Of the values.
        low: The range's lower end.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float


def range_of_another(draws: Sequence[Sequence[float]]) -> Range | None:
    """Returns the range in which the mean of one more draw is expected, measured on as many samples as one likes.

    Values spread because draws differ and because samples do; only the first counts (one-way analysis of variance with
    random effects): mean ± t · √(v + s²/R), Student's t at 95%, with R draws, s² the variance of their means, and v
    what of s² their own samples do not explain. The range is wider than the mean's interval, and answers another
    question: not where the mean is, but what another draw would give.

    Args:
        draws: The values of each draw, on its own samples; draws without values are left out.

    Returns:
        None with fewer than two draws: they have no spread.

    Example:
        >>> found = range_of_another([[0.1], [0.2], [0.3]])
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (0.2, -0.297, 0.697)
    """
    from scipy.stats import t

    draws = [values for values in draws if len(values)]
    n_draws = len(draws)
    if n_draws < 2:
        return None
    means = [fmean(values) for values in draws]
    between = variance(means)
    spare = sum(len(values) - 1 for values in draws)
    inner = sum(variance(values) * (len(values) - 1) for values in draws if len(values) > 1) / spare if spare else 0.0
    unexplained = max(0.0, between - inner * fmean([1 / len(values) for values in draws]))
    half = float(t.ppf(0.975, n_draws - 1)) * math.sqrt(unexplained + between / n_draws)
    middle = fmean(means)
    return Range(middle, middle - half, middle + half)


def sign_test(losses: int, gains: int) -> float:
    """Returns the probability of at least so many losses among the samples that changed, if each were a coin's toss.

    The exact one-sided test of McNemar: a model that loses as often as it gains has about 0.5; 1 if nothing changed.

    Args:
        losses: On how many samples only the other model is right.
        gains: On how many only this one is.

    Example:
        >>> sign_test(5, 0), sign_test(0, 0)
        (0.03125, 1.0)
    """
    from scipy.stats import binom

    checks.whole_number("losses", losses, 0)
    checks.whole_number("gains", gains, 0)
    return float(binom.sf(losses - 1, losses + gains, 0.5)) if losses else 1.0


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Says which of several tests are significant together (Holm, 1979).

    The chance that any of them is called so wrongly is at most ``level``, however many there are.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [True, False, False]
    """
    found = [False] * len(p_values)
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[position] > level / (len(p_values) - rank):
            break
        found[position] = True
    return found


def _check_samples(n: int) -> None:
    if checks.whole_number("n", n, 0) < 1:
        raise LookalikeError("there are no samples to compare")
