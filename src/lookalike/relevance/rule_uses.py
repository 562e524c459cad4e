"""Which operation used which rule: the uses of one forward pass, by the nodes of its graph."""

from collections import Counter
from typing import Any

from torch import Tensor

RuleUse = tuple[str, str, str]  # operation, where, rule


class RuleUses:
    """Collects the rules of operations, and counts those whose operations an output depends on."""

    def __init__(self) -> None:
        # by the node's id; the node is kept with them, as a later one could get the id of one that is gone
        self._uses: dict[int, tuple[Any, list[RuleUse]]] = {}

    def add(self, use: RuleUse, output: Tensor) -> None:
        """Records the rule of an operation with this output."""
        node = output.grad_fn
        self._uses.setdefault(id(node), (node, []))[1].append(use)

    def drop(self, output: Tensor) -> None:
        """Removes the uses of the operation with this output."""
        self._uses.pop(id(output.grad_fn), None)

    def behind(self, output: Tensor) -> Counter[RuleUse]:
        """Counts the uses of the operations between the pixels and an output."""
        reached, waiting = set(), [output.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in reached:
                reached.add(node)
                waiting.extend(following for following, _ in node.next_functions)
        return Counter(use for node, uses in self._uses.values() if node in reached for use in uses)
