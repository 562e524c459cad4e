"""Which operation used which rule: the uses of one forward pass, by the nodes of its graph."""

from collections import Counter
from typing import Any

from torch import Tensor

from lookalike._core.errors import RelevanceError
from lookalike.relevance.names import NO_RULE, UNSEEN, WITHOUT_RULE
from lookalike.relevance.unruled import Unruled

RuleUse = tuple[str, str, str]  # operation, where, rule


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
