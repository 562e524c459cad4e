"""Which operation used which rule in a forward pass, and how much relevance went through those without one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike.relevance.names import NO_RULE, UNSEEN, WITHOUT_RULE

RuleUse = tuple[str, str, str]  # operation, where, rule
TOO_MUCH = 0.1  # a map is unreliable if more than this share of its relevance went through operations without a rule
_NEGLIGIBLE = 1e-6  # relative to the initial relevance


class RuleUses:
    """Collects the rules of operations, and counts those whose operations an output depends on.

    Args:
        n_rows: Number of inputs in the batch.

    Attributes:
        where: Name of the weights of the last operation that had any.
        unruled: Measures the relevance that goes through operations without a rule.
    """

    def __init__(self, n_rows: int) -> None:
        self.where = "input"
        self.unruled = Unruled(n_rows)
        # by the node's id; the node is kept with them, as a later one could get the id of one that is gone
        self._uses: dict[int, tuple[Any, list[RuleUse]]] = {}
        self._joined: list[tuple[Any, Any]] = []  # nodes that stand for themselves and an earlier one; and that one

    def add(self, name: str, rule: str, output: Tensor) -> None:
        """Records the rule of an operation with this output."""
        node, use = output.grad_fn, (name, self.where, rule)
        known = self._uses.get(id(node))
        if known is None:
            self._uses[id(node)] = node, [use]
        else:
            known[1].append(use)

    def add_without_rule(self, name: str, outputs: list[Tensor], rule: str = NO_RULE) -> None:
        """Records an operation without a rule, and measures the relevance that goes through it."""
        self.add(name, rule, outputs[0])
        for tensor in outputs:
            self.unruled.watch(tensor, name, self.where)

    def end_of_relevance(self, values: Tensor, name: str) -> Tensor:
        """Returns values at which relevance ends; how much does, is measured."""
        leaf = values.detach().requires_grad_()
        twin = leaf.view_as(leaf)
        self.add(name, UNSEEN, twin)
        self.unruled.add_end(leaf, name, self.where)
        return twin

    def add_joined(self, output: Tensor, earlier: Tensor) -> None:
        """Records an operation that stands in the graph for the one with the output ``earlier``, too."""
        self._joined.append((output.grad_fn, earlier.grad_fn))

    def drop(self, output: Tensor) -> None:
        """Removes the operation with this output, as it has become a part of the next one."""
        self._uses.pop(id(output.grad_fn), None)

    def table(self, output: Tensor, *, strict: bool) -> Counter[RuleUse]:
        """Counts the uses of the operations between the pixels and an output, and forgets all uses.

        Raises:
            RelevanceError: If an operation has no rule and ``strict`` is set.
        """
        reached, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in reached:
                reached.add(node)
                waiting.extend(following for following, _ in node.next_functions)
        reached |= {earlier for node, earlier in self._joined if node in reached}
        table = Counter(use for node, uses in self._uses.values() if node in reached for use in uses)
        self._uses, self._joined = {}, []
        without_rule = {name: where for name, where, rule in reversed(table) if rule in WITHOUT_RULE}
        if strict and without_rule:
            name, where = next(iter(without_rule.items()))
            raise RelevanceError(
                f"the operation {name!r} (after {where}) has no relevance rule; "
                "strict=False uses its gradient and names it in the rule table"
            )
        return table


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

        def measure(gradient: Tensor | None) -> None:
            if gradient is not None:  # of an operation with several outputs, of which relevance reaches one
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
