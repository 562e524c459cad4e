"""Copies the modules of a network but not its weights, to run it without its hooks."""

from collections import OrderedDict
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def shadow_of(model: Network) -> Network:
    """Returns a model that computes the same as ``model``, with the same weights, but runs none of its hooks.

    Modules are copied without their parameters and buffers, which are shared: the copy takes almost no memory, and
    attributes that a forward pass writes stay in the copy. Hooks that compute weights (the old ``weight_norm``) do not
    run either; the weights are those of the last pass.

    Raises:
        TypeError: If a module cannot be copied in this way (TorchScript modules cannot).
    """
    return _copy(model, {})


def _copy(module: Network, copies: dict[int, nn.Module]) -> Network:
    if id(module) in copies:  # shared modules stay shared
        return copies[id(module)]  # type: ignore[return-value]
    copied: Network = type(module).__new__(type(module))
    copies[id(module)] = copied
    state = dict(vars(module))
    for name, value in state.items():
        if "_hooks" in name and isinstance(value, dict):
            state[name] = OrderedDict()
        elif name in ("_parameters", "_buffers") or name == "_non_persistent_buffers_set":
            state[name] = value.copy()
    state["_modules"] = {
        name: child if child is None else _copy(child, copies) for name, child in module._modules.items()
    }
    vars(copied).update(state)
    return copied
