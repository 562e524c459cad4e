"""Reads the arguments of torch's convolutions, which come in several orders and forms."""

import functools
from typing import Any, NamedTuple

from torch import Tensor

from lookalike.relevance.operations import Convolution

CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])


class ConvolutionCall(NamedTuple):
    """A call of a convolution: its tensors, and its options in the form in which they were given."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    transposed: bool = False
    output_padding: Any = 0

    def operation(self) -> Convolution:
        """Returns the convolution; its padding must not be "same"."""
        dims = self.weight.ndim - 2
        return convolution_with(
            _per_dimension(self.stride, dims),
            _per_dimension(0 if self.padding == "valid" else self.padding, dims),
            _per_dimension(self.dilation, dims),
            self.transposed,
            _per_dimension(self.output_padding, dims),
            self.groups,
        )

    def same_padding(self) -> list[int]:
        """Returns the padding "same" as ``F.pad`` takes it: it may be uneven, unlike a convolution's own."""
        dilation = _per_dimension(self.dilation, self.weight.ndim - 2)
        total_padding = [d * (k - 1) for d, k in zip(dilation, self.weight.shape[2:], strict=True)]
        return [side for total in reversed(total_padding) for side in (total // 2, total - total // 2)]


def read_convolution(name: str, args: Any, kwargs: Any) -> ConvolutionCall:
    """Reads a call of one of ``CONVOLUTIONS``."""
    return (_read_transposed if "transpose" in name else _read_plain)(*args, **kwargs)


def read_aten_convolution(args: Any) -> ConvolutionCall:
    """Reads a call of the one operation behind all convolutions, which exported networks call."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    return ConvolutionCall(x, weight, bias, stride, padding, dilation, groups, transposed, output_padding)


@functools.lru_cache(maxsize=1024)
def convolution_with(*options: Any) -> Convolution:
    """Returns the convolution with these options: always the same object."""
    return Convolution(*options)


def _read_plain(
    input: Tensor,  # torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> ConvolutionCall:
    return ConvolutionCall(input, weight, bias, stride, padding, dilation, groups)


def _read_transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> ConvolutionCall:
    return ConvolutionCall(input, weight, bias, stride, padding, dilation, groups, True, output_padding)


def _per_dimension(value: Any, dims: int) -> tuple[int, ...]:
    """Returns an option of a convolution as one number per dimension."""
    if type(value) is tuple and len(value) == dims:
        return value
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * dims
    return values * dims if len(values) == 1 else values
