"""Function modes for the network's plain forward pass, which the engine checks itself against."""

from typing import Any

from torch import Tensor
from typing_extensions import override

from lookalike._core.untouched import FunctionMode
from lookalike.relevance.convolutions import CONVOLUTIONS, read_convolution
from lookalike.relevance.dependence import tensors_in
from lookalike.relevance.names import LINEAR, POOL, known_function
from lookalike.relevance.result_cache import ResultCache
from lookalike.relevance.weak import TensorMap


class PlainPass(FunctionMode):
    """Runs operations as they are, but takes results that the engine has computed already from a cache.

    Args:
        recorded: Results of linear operations and poolings; None computes all.
    """

    def __init__(self, recorded: ResultCache | None = None) -> None:
        super().__init__()
        self._recorded = recorded

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
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
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            if tensor not in self._results and tensor not in self.constants:
                self.constants[tensor] = True
                self._alive.append(tensor)  # otherwise a later tensor could get its id
        result = self._run(func, args, kwargs)
        for tensor in tensors_in(result):
            self._results[tensor] = True
        return result
