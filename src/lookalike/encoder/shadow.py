"""A second set of modules over the same weights, to try a network without its owner's hooks noticing."""

from collections import OrderedDict
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def shadow_of(model: Network) -> Network:
    """Returns a model that computes what ``model`` does with the same weights, but runs none of its hooks.

    Modules are copied one level deep: parameters and buffers are shared, so it takes no memory to speak of, and what
    a forward pass writes to a module's attributes stays in the copy. Hooks that compute weights (the old
    ``weight_norm``) do not run either; the weights are those of the last pass.

    Raises:
        TypeError: If a module cannot be copied in this way (TorchScript's cannot).
    """
    return _copied(model, {})


def _copied(module: Network, copies: dict[int, nn.Module]) -> Network:
    if id(module) in copies:  # shared modules stay shared
        return copies[id(module)]  # type: ignore[return-value]
    twin: Network = type(module).__new__(type(module))
    copies[id(module)] = twin
    state = dict(vars(module))
    for name, value in state.items():
        if "_hooks" in name and isinstance(value, dict):
            state[name] = OrderedDict()
        elif name in ("_parameters", "_buffers") or name == "_non_persistent_buffers_set":
            state[name] = value.copy()
    state["_modules"] = {
        name: child if child is None else _copied(child, copies) for name, child in module._modules.items()
    }
    vars(twin).update(state)
    return twin
