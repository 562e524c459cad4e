"""What a checkpoint holds: one or several sets of weights, and plain values beside them."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lookalike.encoder.inert import Inert, Name, StoredTensor

TOP = "."  # the name of weights that are at the top of a file
_DEEPEST = 8
_MOST_CONTAINERS = 20_000
_MOST_VALUES = 200_000
_LONGEST_LIST = 16  # lists of networks are short; longer ones hold something else
_OPTIMIZER = ({"state", "param_groups"}, {"defaults", "param_groups"})

AnyTensor = Tensor | StoredTensor


def weights_in(content: Any) -> dict[str, dict[str, AnyTensor]]:
    """Finds all sets of weights: state dicts, and networks that were saved whole.

    Returns:
        By their place in the file (``state_dict``, ``model.ema``), each set by its tensors' names.
    """
    sets: dict[str, dict[str, AnyTensor]] = {}
    rest: dict[str, dict[str, AnyTensor]] = {}
    waiting: deque[tuple[str, Any, int]] = deque([("", content, 0)])
    seen: set[int] = set()
    for _ in range(_MOST_CONTAINERS):
        if not waiting:
            break
        path, value, depth = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_module(value):
            sets[path or TOP] = module_weights(value)
            continue
        items = _items(value)
        if any(keys <= items.keys() for keys in _OPTIMIZER):
            continue
        tensors = {key: leaf for key, leaf in items.items() if isinstance(key, str) and isinstance(leaf, AnyTensor)}
        if _is_state(tensors):
            sets[path or TOP] = tensors
        elif tensors:
            rest[path or TOP] = tensors
        if depth < _DEEPEST:
            inner = ((f"{path}.{key}" if path else str(key), leaf) for key, leaf in items.items())
            waiting += [(at, leaf, depth + 1) for at, leaf in inner if isinstance(leaf, dict | list | tuple | Inert)]
    if sets:
        return {path: tensors for path, tensors in sets.items() if tensors}
    top = rest.get(TOP) or max(rest.values(), key=len, default=None)  # weights under names that say nothing
    return {path: tensors for path, tensors in rest.items() if tensors is top}


def is_module(value: Any) -> bool:
    """Says whether a placeholder stands for a network that was saved whole."""
    if not isinstance(value, Inert):
        return False
    attributes = _attributes(value)
    return isinstance(attributes.get("_modules"), dict) and isinstance(attributes.get("_parameters"), dict)


def module_weights(module: Inert) -> dict[str, AnyTensor]:
    """Returns the state dict of a network that was saved whole, in the network's order."""
    state: dict[str, AnyTensor] = {}
    waiting: list[tuple[str, Any, frozenset[int]]] = [("", module, frozenset())]
    for _ in range(_MOST_CONTAINERS):
        if not waiting or len(state) > _MOST_VALUES:
            break
        prefix, value, above = waiting.pop()
        attributes = _attributes(value) if isinstance(value, Inert) else {}
        if id(value) in above or len(above) > 100:  # a network within itself
            continue
        passing = attributes.get("_non_persistent_buffers_set")
        skipped = {leaf for leaf in passing if isinstance(leaf, str)} if isinstance(passing, list) else set()
        for kind in ("_parameters", "_buffers"):
            tensors = attributes.get(kind)
            for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(name, str) and isinstance(tensor, AnyTensor) and name not in skipped:
                    state[prefix + name] = tensor
        modules = attributes.get("_modules")
        inner = modules.items() if isinstance(modules, dict) else ()
        waiting += [(f"{prefix}{name}.", child, above | {id(value)}) for name, child in reversed(list(inner))]
    return state


def plain_values(content: Any) -> dict[str, Any]:
    """Returns what stands beside the weights as plain values: texts, numbers, lists and dictionaries.

    Objects become dictionaries of their attributes; tensors, functions and whatever else has no plain value are left
    out.
    """
    value = _plain(content, itertools.count(), 0, set())
    return value if isinstance(value, dict) else {} if value is _NOTHING else {TOP: value}


def _items(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value)) if len(value) <= _LONGEST_LIST else {}
    if isinstance(value, Inert):
        return {**_attributes(value), **value.items}
    return {}


def _attributes(value: Inert) -> Mapping[Any, Any]:
    """Returns what an object's attributes would be."""
    given = value.state
    if given is None and value.args and isinstance(value.args[0], dict):
        given = value.args[0]  # torch.fx rebuilds a network from a dictionary of its attributes
    if isinstance(given, tuple) and len(given) == 2:  # attributes, and those in slots
        return {**(given[0] if isinstance(given[0], dict) else {}), **(given[1] if isinstance(given[1], dict) else {})}
    return given if isinstance(given, dict) else {}


def _is_state(tensors: Mapping[str, AnyTensor]) -> bool:
    """Says whether tensors look like a network's weights: dotted names, or a matrix under the name 'weight'."""
    return any(("." in name or name == "weight") and len(tensor.shape) > 0 for name, tensor in tensors.items())


_NOTHING = object()


def _plain(value: Any, count: Iterator[int], depth: int, above: set[int]) -> Any:
    if next(count) > _MOST_VALUES or depth > _DEEPEST or id(value) in above:
        return _NOTHING
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Name):
        return str(value)
    above.add(id(value))
    try:
        if isinstance(value, list | tuple):
            leaves = (_plain(leaf, count, depth + 1, above) for leaf in value)
            return [leaf for leaf in leaves if leaf is not _NOTHING]
        if isinstance(value, dict):
            return _plain_items(value, count, depth, above)
        return _plain_object(value, count, depth, above) if isinstance(value, Inert) else _NOTHING
    finally:
        above.discard(id(value))


def _plain_object(value: Inert, count: Iterator[int], depth: int, above: set[int]) -> Any:
    attributes = _attributes(value)
    for inner in ("_content", "_val"):  # OmegaConf's nodes
        if inner in attributes:
            return _plain(attributes[inner], count, depth + 1, above)
    if value.items:
        return _plain_items(value.items, count, depth, above)
    if value.elements:
        return _plain(value.elements, count, depth + 1, above)
    public = {key: leaf for key, leaf in attributes.items() if isinstance(key, str) and not key.startswith("_")}
    if public:
        return _plain_items(public, count, depth, above)
    if len(value.args) == 1 and isinstance(value.args[0], str | int | float):
        return value.args[0]  # members of enumerations
    return _NOTHING


def _plain_items(items: Mapping[Any, Any], count: Iterator[int], depth: int, above: set[int]) -> dict[Any, Any]:
    values = {
        key: _plain(leaf, count, depth + 1, above)
        for key, leaf in items.items()
        if isinstance(key, str | int | float | bool)
    }
    return {key: leaf for key, leaf in values.items() if leaf is not _NOTHING}
