"""Runs a network's operations in the precision of its weights, where its forward pass switches autocast on."""

from typing import Any

import torch
from typing_extensions import override

from lookalike._core.untouched import AUTOCAST_DEVICES, FunctionMode, is_autocast


class OwnPrecision(FunctionMode):
    """A torch-function mode whose operations do not see autocast.

    Relevance is propagated operation by operation, with the types that the operations have. Under autocast a linear
    layer would return another type than its weights have, and maps would carry the error of half precision.

    Attributes:
        met_autocast: Whether an operation was called under autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met_autocast = False

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_autocast():
            return self.run(func, args, kwargs or {})
        self.met_autocast = True
        switched_on = [device for device in AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
        for device in switched_on:
            torch.set_autocast_enabled(device, False)
        try:
            return self.run(func, args, kwargs or {})
        finally:
            for device in switched_on:
                torch.set_autocast_enabled(device, True)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs an operation."""
        raise NotImplementedError
