"""How much of a map's relevance went through operations without a rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TOO_MUCH = 0.1  # share of a map's relevance beyond which it is not to be relied on
_NOTHING = 1e-6


@dataclass
class Unruled:
    """Measures relevance where it leaves an operation without a rule, during one backward pass after the other.

    Args:
        n_rows: How many inputs there are.

    Attributes:
        ends: Values at which relevance ends.
    """

    n_rows: int
    ends: list[tuple[Tensor, str]] = field(default_factory=list)
    _found: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def watch(self, output: Tensor, name: str, where: str) -> None:
        """Measures the relevance that arrives at an operation's output in each backward pass from now on."""
        values, key = output.detach(), f"{name!r} (after {where})"

        def measure(gradient: Tensor) -> None:
            self._file(key, values * gradient.detach())

        output.register_hook(measure)

    def end(self, leaf: Tensor, name: str, where: str) -> None:
        """Takes note of values at which relevance ends: it is what a backward pass finds as their gradient."""
        self.ends.append((leaf, f"{name!r} (after {where})"))

    def arrived(self, gradients: Sequence[Tensor | None]) -> None:
        """Measures the relevance that a backward pass has brought to the values noted by ``end``."""
        for (leaf, key), gradient in zip(self.ends, gradients, strict=True):
            if gradient is not None:
                self._file(key, leaf.detach() * gradient)

    def _file(self, key: str, relevance: Tensor) -> None:
        rows = self._by_row(relevance.real if relevance.is_complex() else relevance)
        self._found.setdefault(key, []).append((rows.sum(1), rows.abs().sum(1)))

    def shares(self, begun: Tensor, arrived: Tensor) -> dict[str, Tensor]:
        """Returns, for each operation, the share [n] of the relevance that went through it in the last backward pass.

        What an operation passed on is set against what must have gone past it: the difference of its signed sum to
        the relevance that started or arrived, whichever is nearer.

        Args:
            begun: The relevance at the start [n].
            arrived: The relevance at the pixels [n].
        """
        low, high = torch.minimum(begun, arrived), torch.maximum(begun, arrived)
        found: dict[str, Tensor] = {}
        for key, measured in self._found.items():
            for signed, absolute in measured:
                past = (low - signed).clamp_min(0) + (signed - high).clamp_min(0)
                share = absolute / (absolute + past).clamp_min(torch.finfo(absolute.dtype).tiny)
                share = share * (absolute > _NOTHING * begun.abs())
                found[key] = (found[key] + share if key in found else share).clamp_max(1)
        self._found = {}
        return found

    def _by_row(self, relevance: Tensor) -> Tensor:
        """Returns relevance [n, …]: rows first, windows of a row behind each other, or rows second."""
        n = self.n_rows
        if relevance.ndim and len(relevance) % n == 0:
            return relevance.reshape(n, -1)
        if relevance.ndim > 1 and relevance.shape[1] % n == 0:
            return relevance.transpose(0, 1).reshape(n, -1)
        return relevance.reshape(1, -1).expand(n, -1) / n
