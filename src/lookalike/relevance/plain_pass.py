"""The network's plain forward pass, which the engine checks itself against, with the engine's results for reuse.

The engine checks itself: it compares its output with that of a plain forward pass on the first image. Most of the time
of that pass goes into linear operations. If the inputs of such an operation are equal up to rounding, the plain pass
takes the engine's result; otherwise it computes its own. So a difference between the two passes still shows.
"""

from collections import defaultdict, deque
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lookalike.relevance.convolutions import CONVOLUTIONS, read_aten_convolution, read_convolution
from lookalike.relevance.dependence import tensors_in
from lookalike.relevance.names import LINEAR, POOL, known_function
from lookalike.relevance.operations import Convolution, Linear
from lookalike.relevance.own_precision import OwnPrecision
from lookalike.relevance.weak import TensorMap

# Tolerance in units in the last place of the largest input: 1.2e-4 in float32. The engine computes attention in another
# order than torch's kernels, and the differences add up over the layers of a transformer.
_ROUNDING = 1024

_Key = tuple[int, torch.Size]
_LINEAR = Linear()


class _Call(NamedTuple):
    """A linear operation that the engine ran, with its input and result for the first image."""

    operation: Convolution | Linear
    weight: Tensor
    bias: Tensor | None
    x: Tensor
    result: Tensor


class ResultCache(TorchDispatchMode):
    """Records results of linear operations for the first image; while this mode is active, it returns them again.

    Args:
        n_images: Number of images in the engine's batch.
    """

    def __init__(self, n_images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_images = n_images
        self._calls: dict[_Key, deque[_Call]] = defaultdict(deque)
        self._pools: deque[tuple[Tensor, Any, Any, Tensor]] = deque()

    def record(
        self, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor
    ) -> None:
        """Records an operation's result for the first image.

        The result is copied. Code that torch does not see may change it later, and the check must notice that.
        """
        if isinstance(operation, Linear) and x.ndim == 3 and x.shape[1] == self._n_images != len(x):
            x, result = x[:, :1], result[:, :1]  # [positions, images, …], as in torch's attention
        elif len(x) % self._n_images:
            return
        else:
            n_rows = len(x) // self._n_images  # an image may have several rows: windows, tokens, frames
            x, result = x[:n_rows], result[:n_rows]
        if isinstance(operation, Linear):
            x, result = x.reshape(-1, x.shape[-1]), result.reshape(-1, result.shape[-1])
        self._calls[weight.data_ptr(), weight.shape].append(_Call(operation, weight, bias, x, result.clone()))

    def record_pool(self, args: Any, kwargs: Any, result: Any) -> None:
        """Records a maximum pooling's result for the first image: the one slow operation besides the linear ones."""
        if isinstance(result, Tensor) and args and len(args[0]) == self._n_images:
            self._pools.append((args[0].detach()[:1], args[1:], kwargs, result.detach()[:1].clone()))

    def result_of_pool(self, args: Any, kwargs: Any) -> Tensor | None:
        """Returns the recorded result of a maximum pooling, if its input and its options are the same."""
        if not self._pools or not args:
            return None
        x, options, named_options, result = self._pools.popleft()
        given = args[0]
        is_same = options == args[1:] and named_options == kwargs and given.shape == x.shape and given.dtype == x.dtype
        return result if is_same and _are_equal(x, given) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = None
        if not kwargs:
            if func is torch.ops.aten.convolution.default:
                call = read_aten_convolution(args)
                result = self.result(call.operation(), call.x, call.weight, call.bias)
            elif func is torch.ops.aten.addmm.default:
                bias, x, weight = args
                result = self.result(_LINEAR, x, weight.t(), bias)
            elif func is torch.ops.aten.mm.default:
                x, weight = args
                result = self.result(_LINEAR, x, weight.t(), None)
        return func(*args, **(kwargs or {})) if result is None else result

    def result(self, operation: Convolution | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Returns the recorded result of a linear operation, if its input, weights and options are the same."""
        calls = self._calls.get((weight.data_ptr(), weight.shape))
        if not calls:
            return None
        call = calls.popleft()  # both passes run the operations in the same order
        is_same = (
            call.operation == operation
            and call.weight.stride() == weight.stride()
            and call.weight.dtype == weight.dtype
            and _are_same_memory(call.bias, bias)
            and call.x.shape == x.shape
            and call.x.dtype == x.dtype
            and _are_equal(call.x, x)
        )
        return call.result if is_same else None


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Returns whether inputs are equal up to rounding."""
    if _have_equal_bytes(a, b):
        return True
    rounding = _ROUNDING * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    return bool((a - b).abs_().max() <= rounding * a.abs().max())


def _have_equal_bytes(a: Tensor, b: Tensor) -> bool:
    """Returns whether two tensors are equal to the bit, if they lie in memory alike; else, whether their values are.

    Compared as whole numbers of eight bytes, they take half of the time.
    """
    n_bytes = a.numel() * a.element_size()
    if a.stride() != b.stride() or not a.is_contiguous() or not n_bytes or n_bytes % 8:
        return torch.equal(a, b)
    first, second = (tensor.view(-1).view(torch.int64) for tensor in (a, b))
    return torch.equal(first, second)


def _are_same_memory(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


class PlainPass(OwnPrecision):
    """Runs operations as they are, but takes results that the engine has computed already from a cache.

    Args:
        recorded: Results of linear operations and poolings; None computes all.
    """

    def __init__(self, recorded: ResultCache | None = None) -> None:
        super().__init__()
        self._recorded = recorded

    @override
    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation, or takes its result from what is recorded."""
        if self._recorded is None:
            return func(*args, **kwargs)
        name = known_function(func).name
        result = None
        if name == POOL:
            result = self._recorded.result_of_pool(args, kwargs)
        elif name in CONVOLUTIONS:
            call = read_convolution(name, args, kwargs)
            if call.padding != "same":
                result = self._recorded.result(call.operation(), call.x, call.weight, call.bias)
        elif name in LINEAR:
            with self._recorded:  # a dispatch mode around the whole pass would cost 50 µs for each of its operations
                return func(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


class Watch(PlainPass):
    """Collects, during a plain forward pass, the tensors that are no result of an operation: the network's constants.

    The engine needs them to recognise results of code that it does not see, such as TorchScript. Both kinds of tensor
    come from no operation. But a constant is the same object in each pass, and a result of unseen code is a new one.

    Args:
        inputs: The network's inputs.
        recorded: Results of linear operations that need not be computed again.

    Attributes:
        constants: Those tensors.
    """

    def __init__(self, inputs: list[Tensor], recorded: ResultCache | None = None) -> None:
        super().__init__(recorded)
        self.constants: TensorMap[bool] = TensorMap()
        self._results: TensorMap[bool] = TensorMap()
        self._alive: list[Tensor] = []
        for tensor in inputs:
            self._results[tensor] = True

    @override
    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        for tensor in tensors_in((args, kwargs)):
            if tensor not in self._results and tensor not in self.constants:
                self.constants[tensor] = True
                self._alive.append(tensor)  # otherwise a later tensor could get its id
        result = super().run(func, args, kwargs)
        for tensor in tensors_in(result):
            self._results[tensor] = True
        return result
