"""What a network computes with beside its state: buffers that are not saved, and tensors, numbers and words of its own.

A gain that is a number of Python, ``self.gain = 2.0``, changes every embedding, and no weight shows it.
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from torch import Tensor, nn

from lookalike._core.identity import identify_array

_NUMBERS = "biufc"  # kinds of arrays
_OF_TORCH = frozenset(vars(nn.Module()))  # attributes that torch keeps in every module


def unsaved_values(model: nn.Module) -> dict[str, Any]:
    """Returns what a network computes with and does not save, by name.

    These are parameters and buffers that are no part of its state, and attributes of modules that are tensors, arrays,
    numbers or words, or tuples and lists of numbers and words. The attributes of torch's own layers are left out:
    layers describe those themselves.
    """
    state = model.state_dict()
    values: dict[str, Any] = {name: tensor for name, tensor in model.named_parameters() if name not in state}
    values |= {name: tensor for name, tensor in model.named_buffers() if name not in state}
    for path, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "torch":
            continue
        for name, value in list(vars(module).items()):
            if name not in _OF_TORCH and (_is_array(value) or _is_plain(value)):
                values[f"{path}.{name}" if path else name] = value
    return values


class Constants:
    """Finds which of a network's unsaved values its passes leave alone.

    Counters and memory for features, which a pass writes into, say nothing of the network.

    Args:
        model: The network, before the passes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # the values themselves are kept, so that no new tensor gets the address of one that was replaced
        self._before = {name: (value, _state_of(value)) for name, value in unsaved_values(model).items()}

    def names(self) -> Set[str]:
        """Returns the names of the values that are now what they were."""
        now = unsaved_values(self._model)
        return {
            name
            for name, (value, state) in self._before.items()
            if name in now and _is_same(now[name], value) and _state_of(now[name]) == state
        }


def split_tensors(values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors among unsaved values, and all others as text that tells them apart."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return tensors, {name: _as_text(value) for name, value in values.items() if name not in tensors}


def _as_text(value: Any) -> str:
    return identify_array(value) if isinstance(value, np.ndarray) else repr(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS)


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_plain(item) for item in value)
    if type(value) is str:
        return "/" not in value and "\\" not in value  # a path says where something lies, not what is computed
    return value is None or type(value) in (bool, int, float, complex)


def _state_of(value: Any) -> Any:
    """Returns what tells whether a value was written into."""
    if isinstance(value, Tensor):
        return 0 if value.is_inference() else value._version
    return _as_text(value)


def _is_same(value: Any, earlier: Any) -> bool:
    return value is earlier if isinstance(value, Tensor) else type(value) is type(earlier)
