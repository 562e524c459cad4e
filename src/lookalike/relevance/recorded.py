"""What the engine's forward pass computed, so that the network's own pass need not compute it again.

The engine compares its outputs with those of a plain forward pass on the first image. Most of that pass's time goes
into linear operations. It takes the engine's result of such an operation where its inputs are the same numbers but for
rounding; where they are not, it computes the result itself, so that the comparison means what it would without.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike.relevance.operations import Convolution, Linear

# Units in the last place of the largest input: 1.2e-4 in float32. Attention is computed in another order than by
# the kernels of torch, and the layers of a transformer add up what that changes.
_ROUNDING = 1024

_Key = tuple[int, torch.Size]


class _Call(NamedTuple):
    """A linear operation that the engine ran, and what it computed of the first image."""

    operation: Convolution | Linear
    weight: Tensor
    bias: Tensor | None
    x: Tensor
    result: Tensor


class Recorded(TorchDispatchMode):
    """Keeps what linear operations gave for the first image; while it is active, such operations take it from here.

    Args:
        n_images: How many images there are in the engine's batch.
    """

    def __init__(self, n_images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_images = n_images
        self._calls: dict[_Key, deque[_Call]] = defaultdict(deque)

    def file(
        self, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor
    ) -> None:
        """Keeps the first image's part of an operation's result.

        It is copied: code that torch does not see may change the result afterwards, and the plain pass would take the
        change over.
        """
        if isinstance(operation, Linear) and x.ndim == 3 and x.shape[1] == self._n_images != len(x):
            x, result = x[:, :1], result[:, :1]  # positions first, as in torch's attention
        elif len(x) % self._n_images:
            return
        else:
            n_rows = len(x) // self._n_images  # an image may have several: windows, tokens, frames
            x, result = x[:n_rows], result[:n_rows]
        if isinstance(operation, Linear):
            x, result = x.reshape(-1, x.shape[-1]), result.reshape(-1, result.shape[-1])
        self._calls[weight.data_ptr(), weight.shape].append(_Call(operation, weight, bias, x, result.clone()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = None
        if not kwargs:
            if func is torch.ops.aten.convolution.default:
                x, weight, bias, *options = args
                known = self._result(x, weight, bias, options)
            elif func is torch.ops.aten.addmm.default:
                bias, x, weight = args
                known = self._result(x, weight.t(), bias, None)
            elif func is torch.ops.aten.mm.default:
                x, weight = args
                known = self._result(x, weight.t(), None, None)
        return func(*args, **(kwargs or {})) if known is None else known

    def _result(self, x: Tensor, weight: Tensor, bias: Tensor | None, options: list[Any] | None) -> Tensor | None:
        calls = self._calls.get((weight.data_ptr(), weight.shape))
        if not calls:
            return None
        call = calls.popleft()  # the passes go alike
        is_same = (
            _is_by_same_weights(call, weight, bias)
            and _has_options(call.operation, options)
            and call.x.shape == x.shape
            and call.x.dtype == x.dtype
            and _are_equal(call.x, x)
        )
        return call.result if is_same else None


def _is_by_same_weights(call: _Call, weight: Tensor, bias: Tensor | None) -> bool:
    return call.weight.stride() == weight.stride() and call.weight.dtype == weight.dtype and _are_one(call.bias, bias)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Says whether inputs are the same but for rounding."""
    if torch.equal(a, b):
        return True
    rounding = _ROUNDING * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    return bool((a - b).abs_().max() <= rounding * a.abs().max())


def _are_one(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _has_options(operation: Convolution | Linear, options: Sequence[Any] | None) -> bool:
    if isinstance(operation, Linear) or options is None:
        return isinstance(operation, Linear) and options is None
    stride, padding, dilation, transposed, output_padding, groups = options
    given = [
        list(value) for value in (operation.stride, operation.padding, operation.dilation, operation.output_padding)
    ]
    return (
        given == [list(stride), list(padding), list(dilation), list(output_padding)]
        and operation.transposed == transposed
        and operation.groups == groups
    )
