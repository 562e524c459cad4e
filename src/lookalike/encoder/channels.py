"""Finds the axis of a feature map that holds the channels."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from lookalike._core.untouched import FunctionMode

_CHANNELS_AT_AXIS_1 = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "group_norm",
        "instance_norm",
    ]
)
_CHANNELS_AT_LAST_AXIS = frozenset(["linear", "layer_norm", "rms_norm", "embedding", "scaled_dot_product_attention"])
_PERMUTING = frozenset(
    ["permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "einsum", "get"]
)  # "get" reads an attribute, such as mT


class ChannelAxes(FunctionMode):
    """Tracks, during a forward pass, the axis of each tensor that holds the channels.

    Convolutions and batch norms have them at axis 1, linear layers and layer norms at the last axis. Permutations move
    them; other operations leave them where they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._axis = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> int | None:
        """Returns the axis of a tensor's channels; None if it is unknown."""
        axis: int | None = self._axis.get(tensor)
        return axis

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            name = getattr(func, "__name__", "").strip("_")
            sources = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            axis = _axis_after(name, func, args, kwargs or {}, result, sources, self._axis)
            if axis is not None:
                self._axis[result] = axis
        return result


def _axis_after(
    name: str, func: Callable[..., Any], args: Any, kwargs: Any, result: Tensor, sources: list[Tensor], axes: Any
) -> int | None:
    """Returns the channels' axis of an operation's result.

    Args:
        name: The operation's name.
        func: The operation, called with ``args`` and ``kwargs``.
        args: Its positional arguments.
        kwargs: Its named arguments.
        result: The tensor that it returned.
        sources: The tensors among its arguments.
        axes: Known axes by tensor.
    """
    if name in _CHANNELS_AT_AXIS_1:
        return 1
    if name in _CHANNELS_AT_LAST_AXIS:
        return result.ndim - 1
    source = next((tensor for tensor in sources if tensor in axes), None)
    if source is None:
        return None
    axis: int = axes[source]
    if name in _PERMUTING and result.ndim == source.ndim and len(sources) == 1:
        # permutes a tensor whose size is 2 at the channels' axis and 1 elsewhere: the 2 shows the new axis
        shape = [1] * source.ndim
        shape[axis] = 2
        probe = source.new_empty(shape)
        given_args, given_kwargs = tree_map(lambda leaf: probe if leaf is source else leaf, (args, kwargs))
        permuted = func(*given_args, **given_kwargs)
        return list(permuted.shape).index(2)
    if result.ndim == source.ndim:
        return axis
    if result.ndim > 1 and axis == source.ndim - 1 and result.shape[-1] == source.shape[-1]:
        return result.ndim - 1
    if result.ndim > axis and result.shape[axis] == source.shape[axis]:
        return axis
    return None
