"""Which values of a forward pass cannot be negative, derived from the operations that made them.

Rules that treat positive and negative inputs separately take half the time where there are no negative ones. Reading
the values would do, but on a GPU that waits for all work before it. The graph behind a tensor shows it as well::

    conv ──▶ relu ──▶ max pool ──▶ conv       the second convolution's inputs are at least 0
"""

import functools
from typing import Any

from torch import Tensor

_NOTE = "lookalike: cannot be negative"  # in a node's metadata
_MAX_DEPTH = 16  # operations back from a tensor; a longer way counts as unknown

_NEVER_NEGATIVE = frozenset(["Relu", "Sigmoid", "Softmax", "Exp", "Abs"])
# results are not negative if no operand is
_KEEPS_SIGN = frozenset(
    [
        "Add", "Mul", "Cat", "Stack", "Maximum", "Minimum", "Mean", "Sum", "Clone", "ToCopy", "Alias", "View",
        "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Expand", "Repeat",
        "Slice", "Split", "SplitWithSizes", "Chunk", "Narrow", "Select", "Unbind", "Index", "MaxPool2DWithIndices",
        "AdaptiveMaxPool2D", "AvgPool2D", "AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D", "UpsampleNearest2D",
        "UpsampleBilinear2D", "ReflectionPad2D", "ReplicationPad2D", "MaxPool2d",
    ]
)  # fmt: skip


def cannot_be_negative(tensor: Tensor) -> bool:
    """Returns whether a tensor's values are at least 0, by the operations behind it; False means unknown."""
    return _node_cannot_be_negative(tensor.grad_fn, _MAX_DEPTH)


def note_not_negative(tensor: Tensor) -> None:
    """Notes that an operation's result is at least 0, where the graph does not tell: a padding's value is not in it."""
    node: Any = tensor.grad_fn
    if node is not None:
        node.metadata[_NOTE] = True


def _node_cannot_be_negative(node: Any, depth: int) -> bool:
    if node is None or depth == 0:
        return False
    known = getattr(node, "cannot_be_negative", None)  # of the engine's own functions
    if known is not None:
        return bool(known)
    operation = _operation(node.name())
    if operation in _NEVER_NEGATIVE or _NOTE in node.metadata:
        return True
    if operation not in _KEEPS_SIGN or (operation == "Add" and not node._saved_alpha >= 0):
        return False
    return all(_node_cannot_be_negative(following, depth - 1) for following, _ in node.next_functions)


@functools.lru_cache(maxsize=1024)
def _operation(name: str) -> str:
    """Returns the operation of a node's name: ``Add`` for ``AddBackward0``."""
    return name.partition("Backward")[0]
