"""What a network's own forward pass computed, so that the engine need not compute it again.

The engine compares its outputs with those of a plain forward pass. Most of the time of both goes into linear
operations. The engine takes the plain pass's result of such an operation where its inputs are the same numbers but for
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
# the kernels of torch, and the layers of a transformer add up what that changes. Results that are taken are the
# plain pass's own.
_ROUNDING = 1024

_Key = tuple[int, torch.Size]


class _Call(NamedTuple):
    """A linear operation that the plain pass ran: on inputs [m, …], whose first axis may hold windows or tokens."""

    weight: Tensor
    bias: Tensor | None
    x: Tensor
    result: Tensor
    options: list[Any] | None


class Recorded(TorchDispatchMode):
    """Keeps inputs and results of linear operations while a plain forward pass runs on the first image.

    Results are copied: code that torch does not see may change them afterwards, and the engine would take the change
    over. Inputs are copied as operations in place would make them differ from the engine's.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: dict[_Key, deque[_Call]] = defaultdict(deque)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if kwargs:
            return result
        if func is torch.ops.aten.convolution.default:
            x, weight, bias, *options = args
            self._file(weight, bias, x, result, options)
        elif func is torch.ops.aten.addmm.default:
            bias, x, weight = args
            self._file(weight.t(), bias, x, result, None)
        elif func is torch.ops.aten.mm.default:
            x, weight = args
            self._file(weight.t(), None, x, result, None)
        return result

    def _file(self, weight: Tensor, bias: Tensor | None, x: Tensor, result: Tensor, options: Any) -> None:
        calls = self._calls[weight.data_ptr(), weight.shape]
        calls.append(_Call(weight, bias, x.clone(), result.clone(), options))

    def forget(self) -> None:
        """Drops everything that was recorded."""
        self._calls.clear()

    def result(self, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Returns A x + b, with what the plain pass computed of the first rows; None if it did not compute that."""
        calls = self._calls.get((weight.data_ptr(), weight.shape))
        if not calls:
            return None
        call = calls.popleft()  # the passes go alike
        if not _is_by_same_weights(call, weight, bias) or call.x.dtype != x.dtype:
            return None
        if isinstance(operation, Convolution):
            return self._joined(call, operation, x) if _are_options(operation, call.options) else None
        if call.options is not None:
            return None
        if x.ndim == 3 and x.shape[1] > 1 and len(call.x) == len(x):  # positions first, as in torch's attention
            by_image = self._joined(
                call._replace(x=call.x[None], result=call.result[None]), operation, x.transpose(0, 1)
            )
            return None if by_image is None else by_image.transpose(0, 1)
        result = self._joined(call, operation, x.reshape(-1, x.shape[-1]))
        return None if result is None else result.view(*x.shape[:-1], result.shape[-1])

    @staticmethod
    def _joined(call: _Call, operation: Convolution | Linear, x: Tensor) -> Tensor | None:
        """Returns the known result of the first rows and that of the others, which is computed."""
        known = len(call.x)
        if call.x.shape[1:] != x.shape[1:] or known > len(x) or not _are_equal(call.x, x[:known]):
            return None
        if known == len(x):
            return call.result
        return torch.cat([call.result, operation.apply(x[known:], call.weight, call.bias)])


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


def _are_options(operation: Convolution, options: Sequence[Any] | None) -> bool:
    if options is None:
        return False
    stride, padding, dilation, transposed, output_padding, groups = options
    given = [
        list(value) for value in (operation.stride, operation.padding, operation.dilation, operation.output_padding)
    ]
    return (
        given == [list(stride), list(padding), list(dilation), list(output_padding)]
        and operation.transposed == transposed
        and operation.groups == groups
    )
