"""What operations are called, and which of them change their input."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NO_RULE = "gradient (no rule)"

# Operations that are homogeneous of degree one, or that choose or move values: their gradient is their rule.
_BY_GRADIENT = {
    "proportional": """
        add sub sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        interpolate upsample lerp rsub
    """,
    "pass": "relu leaky_relu threshold prelu rrelu",
    "winner takes all": """
        max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d max amax min amin maximum minimum topk
        sort
    """,
    "softmax (Jacobian)": "softmax log_softmax",
}
GRADIENT = {name: rule for rule, names in _BY_GRADIENT.items() for name in names.split()}
STRUCTURAL = frozenset(
    [
        "reshape",
        "view",
        "view_as",
        "flatten",
        "unflatten",
        "ravel",
        "permute",
        "transpose",
        "t",
        "swapaxes",
        "movedim",
        "moveaxis",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "tile",
        "contiguous",
        "clone",
        "detach",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "type_as",
        "cpu",
        "cuda",
        "cat",
        "concat",
        "concatenate",
        "stack",
        "hstack",
        "vstack",
        "split",
        "chunk",
        "unbind",
        "tensor_split",
        "getitem",
        "select",
        "narrow",
        "index_select",
        "gather",
        "take",
        "masked_fill",
        "where",
        "pad",
        "constant_pad_nd",
        "flip",
        "roll",
        "rot90",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "unfold",
        "fold",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "identity",
        "neg",
        "neg_",
        "positive",
        "copy",
        "requires_grad",
        "as_strided",
        "split_with_sizes",
        "broadcast_to",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "diagonal",
    ]
)
PASSED = frozenset(
    [
        "gelu",
        "silu",
        "mish",
        "elu",
        "selu",
        "celu",
        "relu6",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "tanh",
        "softplus",
        "softsign",
        "logsigmoid",
        "clamp",
        "clip",
        "tanhshrink",
        "hardshrink",
        "softshrink",
    ]
)

_ALIASES = {
    "add": "iadd radd",
    "sub": "isub subtract",
    "mul": "imul rmul multiply",
    "div": "itruediv truediv true_divide divide",
    "matmul": "mm bmm rmatmul",
    "softmax": "_softmax",
}
_PLAIN_NAMES = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}


def name_of(func: Any) -> str:
    """Returns an operation's plain name: ``__iadd__``, ``add_`` and ``add`` are one."""
    name = getattr(func, "__name__", str(func))
    name = name.strip("_")
    name = name.removesuffix("_with_indices")
    return _PLAIN_NAMES.get(name, name)


def changes_in_place(func: Any, name: str, kwargs: Any) -> bool:
    """Says whether an operation changes its first argument."""
    raw = getattr(func, "__name__", "")
    if kwargs.get("inplace"):
        return True
    if raw in ("__iadd__", "__isub__", "__imul__", "__itruediv__"):
        return True
    return raw.endswith("_") and not raw.endswith("__") and name not in ("requires_grad", "copy")


def out_of_place(func: Any, name: str) -> Any:
    """Returns the operation that computes the same without changing its argument."""
    raw = getattr(func, "__name__", "")
    if raw.endswith("_") or raw.startswith("__i"):
        return next(getattr(home, name) for home in (Tensor, torch, F) if hasattr(home, name))
    return func


def names_of(model: nn.Module) -> dict[int, str]:
    """Returns what a model calls its parameters and buffers, by identity."""
    return {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
