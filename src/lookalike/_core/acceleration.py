"""A network's pass at the speed of the processor, without touching the network.

On a CPU, three things make convolutions slow that need not be: images stored channel by channel, weights that are laid
out (or cast to bfloat16) anew for each batch, and maps of a single position, all of whose taps but one fall on padding,
and are computed all the same. While ``Accelerated`` is active the operations themselves are given what they are quick
with; modules, weights and hooks stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lookalike._core.untouched import FunctionMode


class Accelerated(FunctionMode):
    """While it is active, convolutions and linear layers on the CPU are computed in the quickest equivalent way.

    - A convolution of a 1×1 map is the matrix product with the one tap that meets the map, or where each channel is
      convolved by itself a product per channel; so are its gradients.
    - Without gradients, a convolution takes its images with channels last, and weights are laid out (under autocast
      also cast) once, not for each batch.

    Results are those of the plain pass, up to rounding. Weights that change in between are laid out anew.

    Example:
        >>> layer, x = nn.Conv2d(8, 4, 3, padding=1), torch.randn(2, 8, 1, 1)
        >>> with Accelerated():
        ...     fast = layer(x)
        >>> torch.allclose(fast, layer(x), atol=1e-6)
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._prepared: dict[tuple[int, torch.dtype], tuple[Tensor, int, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation."""
        if func is F.conv2d:
            return self._convolve(*args, **(kwargs or {}))
        if func is F.linear and torch.is_autocast_enabled("cpu"):
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _convolve(
        self,
        input: Tensor,  # noqa: A002 - torch's name
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if input.ndim != 4 or input.device.type != "cpu":
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        depthwise = groups == input.shape[1] == weight.shape[0]
        tap = _tap_at_point(input, weight, padding, dilation) if groups == 1 or depthwise else None
        if tap is not None:
            at_tap = weight[:, :, tap[0], tap[1]]
            if groups == 1:
                return F.linear(input.flatten(1), at_tap, bias)[:, :, None, None]
            return _scaled(input, at_tap, bias)
        if not torch.is_grad_enabled():
            input = input.contiguous(memory_format=torch.channels_last)  # noqa: A001
            weight = self._once(weight, torch.channels_last)
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        if input.device.type == "cpu" and not torch.is_grad_enabled():
            weight = self._once(weight, torch.contiguous_format)
        return F.linear(input, weight, bias)

    def _once(self, weight: Tensor, layout: torch.memory_format) -> Tensor:
        """Returns a weight as the processor wants it, the same one each time."""
        if not isinstance(weight, nn.Parameter):  # computed anew in each pass
            return weight
        version = 0 if weight.is_inference() else weight._version
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        kept = self._prepared.get((id(weight), dtype))
        if kept is not None and kept[1] == version:
            return kept[2]
        prepared = weight.detach().to(dtype).contiguous(memory_format=layout)
        # the weight itself is kept too, so that no other can take its place in memory
        self._prepared[id(weight), dtype] = weight, version, prepared
        return prepared


def _scaled(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
    """Returns what a convolution of each channel by itself makes of 1×1 maps, with one weight per channel [C, 1]."""
    if torch.is_autocast_enabled("cpu"):  # as for convolutions
        dtype = torch.get_autocast_dtype("cpu")
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)  # noqa: A001
    scaled = input * weight[:, :, None]
    return scaled if bias is None else scaled + bias[:, None, None]


def _tap_at_point(input: Tensor, weight: Tensor, padding: Any, dilation: Any) -> tuple[int, int] | None:  # noqa: A002
    """Returns the tap that meets a 1×1 map, or None if it is no such map or more than one position comes out."""
    if input.shape[2:] != (1, 1) or weight.shape[2:] == (1, 1) or isinstance(padding, str):
        return None
    sizes = tuple(weight.shape[2:])
    for size, before, apart in zip(sizes, _pair(padding), _pair(dilation), strict=True):
        if 2 * before != apart * (size - 1) or size % 2 == 0:
            return None
    return sizes[0] // 2, sizes[1] // 2


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
