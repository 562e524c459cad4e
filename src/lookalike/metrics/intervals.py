"""Confidence intervals of shares, and of the difference between two shares on the same samples."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from lookalike import checks
from lookalike.errors import LookalikeError

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


def _check_samples(n: int) -> None:
    if checks.whole_number("n", n, 0) < 1:
        raise LookalikeError("there are no samples to compare")
