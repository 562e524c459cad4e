"""Convolutions of 1×1 maps as the matrix products that they are.

The last stage of a network that was made for larger images has maps of a single position when it is given small ones,
as ResNet34 has at 32×32. All taps of a kernel but one then fall on padding. PyTorch's convolution on a CPU computes
them all the same, and takes most of a training step for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class PointMaps(TorchFunctionMode):
    """While it is active, a convolution of a 1×1 map on the CPU is computed by its one tap that meets the map.

    Results and gradients are those of the convolution, up to rounding.

    Example:
        >>> import torch
        >>> layer, x = torch.nn.Conv2d(8, 4, 3, padding=1), torch.randn(2, 8, 1, 1)
        >>> with PointMaps():
        ...     fast = layer(x)
        >>> torch.allclose(fast, layer(x), atol=1e-6)
        True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation."""
        if func is F.conv2d:
            found = _at_its_point(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _at_its_point(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,  # noqa: ARG001 - one output has no neighbours
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Returns what the convolution would, or None where it must be computed by all its taps."""
    if input.ndim != 4 or input.shape[2:] != (1, 1) or groups != 1 or input.device.type != "cpu":
        return None
    if isinstance(padding, str) or weight.shape[2:] == (1, 1):
        return None
    taps = []
    for size, before, apart in zip(weight.shape[2:], _pair(padding), _pair(dilation), strict=True):
        if 2 * before != apart * (size - 1) or size % 2 == 0:  # more positions come out, or no tap is in the middle
            return None
        taps.append(size // 2)
    return F.linear(input.flatten(1), weight[:, :, taps[0], taps[1]], bias)[:, :, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
