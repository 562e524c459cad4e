"""Runs a network's operations in the precision of its weights, where its forward pass switches autocast on."""

import functools
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core.untouched import FunctionMode
from lookalike.relevance.dependence import map_arguments, tensors_in_call
from lookalike.relevance.names import known_function


def is_autocast() -> bool:
    """Says whether torch casts what operations are given, on a CPU or on a GPU."""
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


class OwnPrecision(FunctionMode):
    """A torch-function mode whose operations do not see autocast.

    Relevance is propagated operation by operation, with the types that the operations have. Under autocast a linear
    layer would return another type than its weights have, and maps would carry the error of half precision. Where the
    network itself has cast a tensor, autocast would cast the others likewise; here the wider type is taken instead.

    Attributes:
        met_autocast: Whether an operation was called under autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met_autocast = False

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_autocast():
            return self.run(func, args, kwargs)
        self.met_autocast = True
        switched_on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        for device in switched_on:
            torch.set_autocast_enabled(device, False)
        try:
            return self.run(func, *self._of_one_type(func, args, kwargs))
        finally:
            for device in switched_on:
                torch.set_autocast_enabled(device, True)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation."""
        raise NotImplementedError

    def _of_one_type(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Returns the arguments of an operation, floating-point tensors in the widest type among them."""
        known = known_function(func)
        types = {tensor.dtype for tensor in tensors_in_call(args, kwargs) if tensor.is_floating_point()}
        if len(types) < 2 or known.describes or known.is_attribute or known.changes_in_place or "out" in kwargs:
            return args, kwargs
        widest = functools.reduce(torch.promote_types, types)

        def widened(tensor: Tensor) -> Any:
            is_narrower = tensor.is_floating_point() and tensor.dtype != widest
            return self.run(Tensor.to, (tensor, widest), {}) if is_narrower else tensor

        return map_arguments(widened, args, kwargs)
