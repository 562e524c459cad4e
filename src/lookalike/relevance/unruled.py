"""Measures how much of a map's relevance goes through operations without a rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TOO_MUCH = 0.1  # a map is unreliable if more than this share of its relevance went through operations without a rule
_NEGLIGIBLE = 1e-6  # relative to the initial relevance


@dataclass
class Unruled:
    """Measures relevance at operations without a rule, in each backward pass.

    Args:
        n_rows: Number of inputs in the batch.

    Attributes:
        ends: Values at which relevance ends, with the operation that made them.
    """

    n_rows: int
    ends: list[tuple[Tensor, str]] = field(default_factory=list)
    _measured: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def watch(self, output: Tensor, name: str, where: str) -> None:
        """Measures, in each backward pass from now on, the relevance that arrives at an operation's output."""
        values, key = output.detach(), f"{name!r} (after {where})"

        def measure(gradient: Tensor) -> None:
            self._add_measurement(key, values * gradient.detach())

        output.register_hook(measure)

    def add_end(self, leaf: Tensor, name: str, where: str) -> None:
        """Adds values at which relevance ends; ``measure_ends`` needs their gradients after each backward pass."""
        self.ends.append((leaf, f"{name!r} (after {where})"))

    def measure_ends(self, gradients: Sequence[Tensor | None]) -> None:
        """Measures the relevance that arrived at the ends, from their gradients."""
        for (leaf, key), gradient in zip(self.ends, gradients, strict=True):
            if gradient is not None:
                self._add_measurement(key, leaf.detach() * gradient)

    def _add_measurement(self, key: str, relevance: Tensor) -> None:
        rows = self._by_row(relevance.real if relevance.is_complex() else relevance)
        self._measured.setdefault(key, []).append((rows.sum(1), rows.abs().sum(1)))

    def shares(self, started: Tensor, arrived: Tensor) -> dict[str, Tensor]:
        """Returns, for each operation, the share [n] of the relevance that went through it in the last backward pass.

        The absolute relevance at the operation is compared with the relevance that must have gone past it: the
        difference between the operation's signed sum and the relevance that started or arrived, whichever is nearer.

        Args:
            started: Relevance at the explained output [n].
            arrived: Relevance at the pixels [n].
        """
        low, high = torch.minimum(started, arrived), torch.maximum(started, arrived)
        shares: dict[str, Tensor] = {}
        for key, measurements in self._measured.items():
            for signed, absolute in measurements:
                bypassed = (low - signed).clamp_min(0) + (signed - high).clamp_min(0)
                share = absolute / (absolute + bypassed).clamp_min(torch.finfo(absolute.dtype).tiny)
                share = share * (absolute > _NEGLIGIBLE * started.abs())
                shares[key] = (shares[key] + share if key in shares else share).clamp_max(1)
        self._measured = {}
        return shares

    def _by_row(self, relevance: Tensor) -> Tensor:
        """Reshapes relevance to a row per input: inputs (or their windows) are the first axis, or the second."""
        n = self.n_rows
        if relevance.ndim and len(relevance) % n == 0:
            return relevance.reshape(n, -1)
        if relevance.ndim > 1 and relevance.shape[1] % n == 0:
            return relevance.transpose(0, 1).reshape(n, -1)
        return relevance.reshape(1, -1).expand(n, -1) / n
