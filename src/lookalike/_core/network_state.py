"""What a network computes with besides the values of its tensors, to notice that it is another one now.

A recorded computation reads the network's weights where they lie, so their values may change. But all that Python
decided while it was recorded is fixed: which modules run, with which options, on which memory.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.untouched import acts_in_this_thread

_BY_VALUE = (int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format, torch.layout)
_HOW_HOOKS_ARE_CALLED = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
_VALUE_LEFT_OUT = frozenset(("training", *_HOW_HOOKS_ARE_CALLED))  # each computation sets the first; hooks are compared
_MOST_VALUES = 20_000  # that are compared; of a network with more nothing is recorded
_DEEPEST = 6


class TooLargeError(Exception):
    """The network has more attributes than are worth comparing."""


def state_of(network: nn.Module) -> tuple[Any, ...] | None:
    """Returns a value that is equal as long as a network runs the same operations on the same memory.

    It holds the modules' types, their attributes with all that lies within them, and for each tensor its place, shape
    and type, but not its values. Torch's settings that choose between kernels are in it too. What code outside the
    network decides, such as a global variable, is not seen. Hooks of our calls in other threads are left out: they come
    and go meanwhile, and do nothing in this thread's passes.

    Args:
        network: The network.

    Returns:
        None if the network is too large to be compared.
    """
    found: list[Any] = []
    seen: set[int] = set()
    try:
        _add(network, found, seen, 0)
    except TooLargeError:
        return None
    return (*_settings(), *found)


def _settings() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.enabled,
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
    )


def _add(value: Any, found: list[Any], seen: set[int], depth: int) -> None:
    """Adds a value, and all within it, to what was found."""
    if len(found) > _MOST_VALUES:
        raise TooLargeError
    if value is None or isinstance(value, _BY_VALUE):
        found.append(value)
    elif isinstance(value, Tensor):
        found += (value.data_ptr() if value.layout is torch.strided else id(value), value.shape, value.dtype)
        found += (value.stride() if value.layout is torch.strided else None, value.requires_grad)
    elif isinstance(value, type) or id(value) in seen or depth > _DEEPEST:
        found.append(id(value))
    elif isinstance(value, Mapping):
        _add_items(value.items(), found, seen, depth)
    elif isinstance(value, list | tuple | set | frozenset):
        found.append(len(value))
        for item in list(value):  # a copy, as another thread may change it meanwhile
            _add(item, found, seen, depth + 1)
    else:
        _add_object(value, found, seen, depth)


def _add_object(value: Any, found: list[Any], seen: set[int], depth: int) -> None:
    seen.add(id(value))
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, nn.Module):
        found += (type(value), getattr(type(value), "forward", None))
        depth = 0  # networks may be nested as deeply as they like
    else:
        found.append(id(value))
    if attributes:
        _add_items(attributes.items(), found, seen, depth)


def _add_items(items: Iterable[tuple[Any, Any]], found: list[Any], seen: set[int], depth: int) -> None:
    for name, item in list(items):  # a copy, as another thread may change it meanwhile
        if item is None or (isinstance(item, dict) and not item) or name in _VALUE_LEFT_OUT:
            found.append(name)  # most of a module's attributes
        elif acts_in_this_thread(item):
            found.append(name)
            _add(item, found, seen, depth + 1)
