"""Finds the sets of weights and the plain values in the content of a checkpoint."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lookalike.encoder.inert import Inert, Name, StoredTensor, UnreadTensor

TOP = "."  # the name of weights that are at the top of a file
# limits for hostile and cyclic files
_MAX_DEPTH = 8
_MAX_CONTAINERS = 20_000
_MAX_VALUES = 200_000
_MAX_LIST_LENGTH = 16  # lists of networks are short; longer lists hold something else
_OPTIMIZER_KEYS = ({"state", "param_groups"}, {"defaults", "param_groups"})

AnyTensor = Tensor | StoredTensor | UnreadTensor


def weights_in(content: Any) -> dict[str, dict[str, AnyTensor]]:
    """Finds all sets of weights: state dicts, and networks that were saved as objects.

    Returns:
        The sets by their path in the file (``state_dict``, ``model.ema``); each maps names to tensors. If nothing looks
        like the weights of a network, the tensors at the top, or the largest group of tensors.
    """
    sets: dict[str, dict[str, AnyTensor]] = {}
    unlikely: dict[str, dict[str, AnyTensor]] = {}
    waiting: deque[tuple[str, Any, int]] = deque([("", content, 0)])
    visited: set[int] = set()
    for _ in range(_MAX_CONTAINERS):
        if not waiting:
            break
        path, value, depth = waiting.popleft()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if is_module(value):
            sets[path or TOP] = module_weights(value)
            continue
        items = _children(value)
        if any(keys <= items.keys() for keys in _OPTIMIZER_KEYS):
            continue
        tensors = {key: leaf for key, leaf in items.items() if isinstance(key, str) and isinstance(leaf, AnyTensor)}
        if _is_state_dict(tensors):
            sets[path or TOP] = tensors
        elif tensors:
            unlikely[path or TOP] = tensors
        if depth < _MAX_DEPTH:
            containers = {key: leaf for key, leaf in items.items() if isinstance(leaf, dict | list | tuple | Inert)}
            waiting += [(f"{path}.{key}" if path else str(key), leaf, depth + 1) for key, leaf in containers.items()]
    if sets:
        return {path: tensors for path, tensors in sets.items() if tensors}
    # no names look like a network's: the tensors at the top are the best guess, or the largest group
    top = unlikely.get(TOP) or max(unlikely.values(), key=len, default=None)
    return {path: tensors for path, tensors in unlikely.items() if tensors is top}


def is_module(value: Any) -> bool:
    """Says whether a placeholder stands for a network that was saved as an object."""
    if not isinstance(value, Inert):
        return False
    attributes = _attributes(value)
    return isinstance(attributes.get("_modules"), dict) and isinstance(attributes.get("_parameters"), dict)


def module_weights(module: Inert) -> dict[str, AnyTensor]:
    """Returns the state dict of a network that was saved as an object, in the network's order."""
    state: dict[str, AnyTensor] = {}
    waiting: list[tuple[str, Any, frozenset[int]]] = [("", module, frozenset())]
    for _ in range(_MAX_CONTAINERS):
        if not waiting or len(state) > _MAX_VALUES:
            break
        prefix, value, ancestors = waiting.pop()
        attributes = _attributes(value) if isinstance(value, Inert) else {}
        if id(value) in ancestors or len(ancestors) > 100:  # a network within itself
            continue
        transient = attributes.get("_non_persistent_buffers_set")
        skipped = {leaf for leaf in transient if isinstance(leaf, str)} if isinstance(transient, list) else set()
        for kind in ("_parameters", "_buffers"):
            tensors = attributes.get(kind)
            for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(name, str) and isinstance(tensor, AnyTensor) and name not in skipped:
                    state[prefix + name] = tensor
        modules = attributes.get("_modules")
        inner = modules.items() if isinstance(modules, dict) else ()
        waiting += [(f"{prefix}{name}.", child, ancestors | {id(value)}) for name, child in reversed(list(inner))]
    return state


def plain_values(content: Any) -> dict[str, Any]:
    """Returns the plain values beside the weights: texts, numbers, lists and dictionaries.

    Objects become dictionaries of their attributes. Tensors, functions and other values without a plain form are left
    out.
    """
    value = _plain(content, itertools.count(), 0, set())
    return value if isinstance(value, dict) else {} if value is _NO_PLAIN_VALUE else {TOP: value}


def _children(value: Any) -> Mapping[Any, Any]:
    """Returns the values in a container or object, by key, position or attribute."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value)) if len(value) <= _MAX_LIST_LENGTH else {}
    if isinstance(value, Inert):
        return {**_attributes(value), **value.items}
    return {}


def _attributes(value: Inert) -> Mapping[Any, Any]:
    """Returns the attributes that unpickling would have given an object."""
    state = value.state
    if state is None and value.args and isinstance(value.args[0], dict):
        state = value.args[0]  # torch.fx rebuilds a network from a dictionary of its attributes
    if isinstance(state, tuple) and len(state) == 2:  # the pair (__dict__, __slots__)
        return {**(state[0] if isinstance(state[0], dict) else {}), **(state[1] if isinstance(state[1], dict) else {})}
    return state if isinstance(state, dict) else {}


def _is_state_dict(tensors: Mapping[str, AnyTensor]) -> bool:
    """Says whether tensors look like a network's weights: some name has a dot or is ``weight``."""
    return any(("." in name or name == "weight") and len(tensor.shape) > 0 for name, tensor in tensors.items())


_NO_PLAIN_VALUE = object()


def _plain(value: Any, count: Iterator[int], depth: int, ancestors: set[int]) -> Any:
    """Returns the plain form of a value; ``_NO_PLAIN_VALUE`` if it has none, or a limit is reached."""
    if next(count) > _MAX_VALUES or depth > _MAX_DEPTH or id(value) in ancestors:
        return _NO_PLAIN_VALUE
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Name):
        return str(value)
    ancestors.add(id(value))
    try:
        if isinstance(value, list | tuple):
            leaves = (_plain(leaf, count, depth + 1, ancestors) for leaf in value)
            return [leaf for leaf in leaves if leaf is not _NO_PLAIN_VALUE]
        if isinstance(value, dict):
            return _plain_items(value, count, depth, ancestors)
        return _plain_object(value, count, depth, ancestors) if isinstance(value, Inert) else _NO_PLAIN_VALUE
    finally:
        ancestors.discard(id(value))


def _plain_object(value: Inert, count: Iterator[int], depth: int, ancestors: set[int]) -> Any:
    attributes = _attributes(value)
    for inner in ("_content", "_val"):  # OmegaConf's nodes
        if inner in attributes:
            return _plain(attributes[inner], count, depth + 1, ancestors)
    if value.items:
        return _plain_items(value.items, count, depth, ancestors)
    if value.elements:
        return _plain(value.elements, count, depth + 1, ancestors)
    public = {key: leaf for key, leaf in attributes.items() if isinstance(key, str) and not key.startswith("_")}
    if public:
        return _plain_items(public, count, depth, ancestors)
    if len(value.args) == 1 and isinstance(value.args[0], str | int | float):
        return value.args[0]  # members of enumerations
    return _NO_PLAIN_VALUE


def _plain_items(items: Mapping[Any, Any], count: Iterator[int], depth: int, ancestors: set[int]) -> dict[Any, Any]:
    values = {
        key: _plain(leaf, count, depth + 1, ancestors)
        for key, leaf in items.items()
        if isinstance(key, str | int | float | bool)
    }
    return {key: leaf for key, leaf in values.items() if leaf is not _NO_PLAIN_VALUE}
