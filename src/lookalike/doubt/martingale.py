"""A test that goes on for ever: do new inputs still come from the same source as the validation images?

Each new score is ranked among all earlier ones, validation and stream. As long as the source is the same, these ranks
are independent and uniform (Vovk et al. 2005, conformal test martingales). The test bets against that, with a capital
of 1. By Ville's inequality the capital reaches 1/α with a probability of at most α, over the whole life of the stream,
however often one looks.
"""

import math
from bisect import bisect_left, bisect_right, insort

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

MOST_SCORES = 1_000_000  # 8 MB of each kind; the ranks need all earlier scores
_DRAWN_AT_ONCE = 256  # random numbers: a generator for each takes longer than the rest of the test
_EXPONENTS = (0.05, 0.2, 0.4, 0.6, 0.8)  # of power bets κ p^(κ − 1): the smaller, the more on very small p


class ExchangeabilityTest:
    """Bets on the ranks of one kind of score.

    The bets are on very high and on very low scores, with several strengths, and start again with each batch: a share
    of the capital waits for later batches, 1 / (b (b + 1)) enters with batch b. So a long quiet time costs little.

    Args:
        scores: Scores of the validation inputs [n].
        seed: Seed of the numbers that break ties.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> test = ExchangeabilityTest(rng.normal(size=200))
        >>> test.add(rng.normal(size=100)), test.add(rng.normal(size=100) + 3) > 100
        (..., True)
    """

    def __init__(self, scores: np.ndarray, seed: int = 0) -> None:
        scores = checks.array("scores", scores, ("N",))
        self.scores: list[float] = np.sort(scores.astype(np.float64)).tolist()
        self.seed = checks.seed("seed", seed)
        self.n_batches = 0
        self.added: list[float] = []
        self.log_bets = [-math.inf] * (2 * len(_EXPONENTS))
        self._block, self._draws = -1, np.zeros(0)

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital now."""
        waiting = -math.log(self.n_batches + 1)
        mean_bet = _log_sum(self.log_bets) - math.log(len(self.log_bets))
        return _log_sum([waiting, mean_bet])

    def add(self, scores: np.ndarray) -> float:
        """Adds the scores of one batch, in their order, and returns the capital after it.

        Raises:
            LookalikeError: If the test has seen a million scores: its ranks would no longer be exact.
        """
        values = checks.array("scores", scores, ("N",)).astype(np.float64)
        if len(self.scores) + len(values) > MOST_SCORES:
            raise LookalikeError(
                f"the watch has seen {len(self.scores):,} images, and its bound holds for {MOST_SCORES:,}: "
                "begin a new state, from a model calibrated with recent images"
            )
        self.n_batches += 1
        entering = -math.log(self.n_batches) - math.log(self.n_batches + 1)
        self.log_bets = [_log_sum([log_bet, entering]) for log_bet in self.log_bets]
        log_high = log_low = 0.0  # sums of log p and of log (1 − p)
        for value in values.tolist():
            p = self._p_value(value)
            insort(self.scores, value)
            self.added.append(value)
            log_high += math.log(p)
            log_low += math.log(1 - p)
        bets = [len(values) * math.log(k) + (k - 1) * log_q for log_q in (log_high, log_low) for k in _EXPONENTS]
        self.log_bets = [log_bet + bet for log_bet, bet in zip(self.log_bets, bets, strict=True)]
        return math.exp(min(self.log_capital, 700.0))

    def restore(self, added: list[float], log_bets: list[float], n_batches: int) -> None:
        """Takes over the state of an earlier test with the same validation scores and seed.

        Args:
            added: Scores that it was given, in their order.
            log_bets: Its ``log_bets``.
            n_batches: Number of batches.

        Raises:
            LookalikeError: If the numbers of bets differ.
        """
        if len(log_bets) != len(self.log_bets):
            raise LookalikeError(f"the state has {len(log_bets)} bets, not {len(self.log_bets)}")
        self.added, self.log_bets, self.n_batches = list(added), list(log_bets), n_batches
        self.scores = sorted([*self.scores, *added])

    def _p_value(self, score: float) -> float:
        """Returns the share of scores so far that are higher than this one, ties broken at random, in (0, 1)."""
        random = self._draw(len(self.added))
        higher = len(self.scores) - bisect_right(self.scores, score)
        equal = len(self.scores) - higher - bisect_left(self.scores, score) + 1  # itself too
        p = (higher + random * equal) / (len(self.scores) + 1)
        return min(max(p, 1e-12), 1 - 1e-12)

    def _draw(self, index: int) -> float:
        """Returns the random number of an input: the same whether the test was interrupted before it or not."""
        block, row = divmod(index, _DRAWN_AT_ONCE)
        if self._block != block:
            self._block, self._draws = block, np.random.default_rng([self.seed, block]).uniform(size=_DRAWN_AT_ONCE)
        return float(self._draws[row])


def _log_sum(logarithms: list[float]) -> float:
    """Returns log Σ exp, without overflow."""
    highest = max(logarithms)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(value - highest) for value in logarithms))
