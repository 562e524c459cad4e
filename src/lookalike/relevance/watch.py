"""Finds the constants of a network: tensors that it uses, and that no operation of its forward pass makes."""

from typing import Any

from torch import Tensor

from lookalike._core.untouched import FunctionMode
from lookalike.relevance.dependence import tensors_in
from lookalike.relevance.names import LINEAR, POOL, name_of
from lookalike.relevance.result_cache import ResultCache
from lookalike.relevance.weak import TensorMap


class Watch(FunctionMode):
    """Collects, during a plain forward pass, the tensors that are no result of an operation.

    The engine needs them to recognise results of code that it does not see, such as TorchScript. Both kinds of tensor
    come from no operation. But a constant is the same object in each pass, and a result of unseen code is a new one.

    Args:
        inputs: The network's inputs.
        recorded: Results of linear operations that need not be computed again.

    Attributes:
        constants: Those tensors.
    """

    def __init__(self, inputs: list[Tensor], recorded: ResultCache | None = None) -> None:
        super().__init__()
        self._recorded = recorded
        self.constants: TensorMap[bool] = TensorMap()
        self._results: TensorMap[bool] = TensorMap()
        self._alive: list[Tensor] = []
        for tensor in inputs:
            self._results[tensor] = True

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

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation, or takes its result from what is recorded."""
        if self._recorded is None:
            return func(*args, **kwargs)
        name = name_of(func)
        if name == POOL:
            recorded = self._recorded.result_of_pool(args, kwargs)
            return func(*args, **kwargs) if recorded is None else recorded
        if name not in LINEAR:
            return func(*args, **kwargs)
        with self._recorded:  # a dispatch mode around the whole pass would cost 50 µs for each of its operations
            return func(*args, **kwargs)
