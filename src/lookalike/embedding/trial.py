"""``precision="fastest"``: a few rows of the pass, timed in each way to compute it.

A measurement of time may come out differently the next time. Two ways give embeddings that differ in their last digits,
or by the rounding of half precision. So this is only done if asked for; ``"auto"`` decides by a rule.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from lookalike._core.acceleration import Accelerated
from lookalike._core.folding import Folded, Pair
from lookalike.embedding.precision import computing, has_bfloat16
from lookalike.encoder import Encoder
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.shadow import shadow_of

TRIAL = "trial"  # the note of a pass
_REPEATS = 3  # of which the least counts: other work on the machine can only lengthen a run
_HIGHEST_SHARE = 0.02  # of the pass
_LEAST_GAIN = 0.05  # a way that is not faster by this share is not worth other results


@dataclass(frozen=True)
class Way:
    """A way to compute a pass.

    Attributes:
        precision: The precision.
        channels_last: Whether convolutions get their fastest layout, which is mostly channels last.
        folds: Whether batch norms are folded into convolutions.
    """

    precision: str
    channels_last: bool = True
    folds: bool = True

    def accelerated(self) -> Accelerated:
        """Returns the mode to compute in."""
        mode = Accelerated()
        if not self.channels_last:
            mode.keep_layout()
        return mode


@dataclass(frozen=True)
class Trial:
    """What was measured.

    Attributes:
        way: The fastest way.
        seconds: Seconds per row of each way that was timed, in the order of trying; empty if the pass is too short.
    """

    way: Way
    seconds: list[tuple[Way, float]]

    def note(self) -> dict[str, Any]:
        """Returns plain JSON values: the layout, and what was timed."""
        return {
            "channels_last": self.way.channels_last,
            TRIAL: [{**asdict(way), "seconds_per_row": seconds} for way, seconds in self.seconds],
        }


@torch.no_grad()
def fastest_way(
    encoder: Encoder, rows: Any, by_rule: str, pairs: list[Pair], total: int | None, device: torch.device
) -> Trial:
    """Finds the fastest way to compute a pass by timing a few rows of it in a copy of the network without its hooks.

    From the way that the rule takes, one thing at a time is changed: the precision, the layout, the folding. A change
    is kept if the rows pass at least 5% faster. No way is tried that could bring the trial above 2% of the pass.

    Args:
        encoder: The encoder.
        rows: A few rows, as the network takes them.
        by_rule: The precision that ``"auto"`` stands for.
        pairs: The batch norms that can be folded.
        total: Number of rows of the pass; None if unknown, which counts as many.
        device: Device of the encoder.
    """
    best = Way(by_rule, folds=bool(pairs))
    timer = _Timer(encoder, rows, pairs, total, device)
    if not timer.is_worth_it:
        return Trial(best, [])
    try:
        with torch.random.fork_rng(devices=[]):
            measured = [(best, timer.seconds(best))]
            for change in _changes(by_rule, pairs, device):
                if not timer.has_time:
                    break
                way, before = replace(best, **change), dict(measured)[best]
                measured.append((way, timer.seconds(way)))
                if measured[-1][1] < (1 - _LEAST_GAIN) * before:
                    best = way
    except Exception:  # the user's code may raise any error; if it is real, the pass raises it
        return Trial(Way(by_rule, folds=bool(pairs)), [])
    return Trial(best, measured)


def _changes(by_rule: str, pairs: list[Pair], device: torch.device) -> list[dict[str, Any]]:
    """Returns what is tried, one after the other."""
    changes: list[dict[str, Any]] = [{"channels_last": False}]
    changes += [{"folds": False}] if pairs else []
    if by_rule != "float32":
        changes.insert(0, {"precision": "float32"})
    elif device.type == "cpu" and _computes_in_bfloat16():
        changes.append({"precision": "bfloat16"})  # last: it may be slower by far
    return changes


def _computes_in_bfloat16() -> bool:
    """Whether this processor has any instructions for bfloat16; without, it is emulated and never faster."""
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return has_bfloat16() or (check is not None and bool(check()))


class _Timer:
    """Times the rows, and knows what the trial may still take."""

    def __init__(self, encoder: Encoder, rows: Any, pairs: list[Pair], total: int | None, device: torch.device) -> None:
        self._encoder = shadow_of(encoder)
        self._rows, self._pairs, self._total, self._device = rows, pairs, total, device
        self._spent, self._least = 0.0, float("inf")  # seconds; the least per row, as far as it is known

    @property
    def is_worth_it(self) -> bool:
        """Whether two ways can be tried at all, each with its repeats and once to warm up."""
        needed = 2 * (_REPEATS + 1) * n_rows(self._rows)
        return self._total is None or needed <= _HIGHEST_SHARE * self._total

    @property
    def has_time(self) -> bool:
        """Whether a further way can be tried that is as fast as those before."""
        return self._fits((_REPEATS + 1) * n_rows(self._rows) * self._least)

    def _fits(self, seconds: float) -> bool:
        if self._total is None or self._least == float("inf"):
            return True
        return self._spent + seconds <= _HIGHEST_SHARE * self._total * self._least

    def seconds(self, way: Way) -> float:
        """Returns the seconds per row; what the first row takes, if it is so slow that there is no time for more."""
        folded, n = Folded(self._pairs if way.folds else []), n_rows(self._rows)
        n_first = 1 if self._device.type == "cpu" else n  # on a GPU a row takes as long as some hundred
        with computing(way.precision, self._device, way.accelerated()):
            first = self._run(folded, take_rows(self._rows, slice(0, n_first))) / n_first
            if not self._fits(_REPEATS * n * first):
                return first
            seconds = min(self._run(folded, self._rows) for _ in range(_REPEATS)) / n
        self._least = min(self._least, seconds)
        return seconds

    def _run(self, folded: Folded, rows: Any) -> float:
        started = self._now()
        folded.run(lambda: self._encoder.embed_and_score(rows))
        taken = self._now() - started
        self._spent += taken
        return taken

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
