"""Networks whose parts lie in a file as separate sets of weights: ``{"encoder": …, "classifier": …}``."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lookalike.encoder.contents import TOP
from lookalike.encoder.fitting import Fit, fits, measure, same_weights

_MOST_SETS = 20  # a network is saved in a few parts

Sets = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Joined:
    """Sets of weights that together are a network's.

    Attributes:
        paths: Their places in the file.
        fit: How they fit the network together.
        rivals: Two places in the file of one part, where it is not clear which of them is meant.
    """

    paths: tuple[str, ...]
    fit: Fit
    rivals: tuple[str, str] | None = None


def join_parts(sets: Sets, expected: Mapping[str, Tensor]) -> list[Joined]:
    """Joins sets that together are a whole network, up to its number of classes; first those that lie side by side.

    Args:
        sets: Tensors by their names, by their places in the file.
        expected: The network's state dict.
    """
    beside: dict[str, list[str]] = {}
    for path in sets:
        if path != TOP:
            beside.setdefault(path.rpartition(".")[0], []).append(path)
    groups = [paths for paths in beside.values() if 1 < len(paths) <= _MOST_SETS]
    for tried in (groups, [list(sets)] if 1 < len(sets) <= _MOST_SETS and [list(sets)] != groups else []):
        whole = [_join({path: sets[path] for path in paths}, expected) for paths in tried]
        if any(whole):
            return [joined for joined in whole if joined is not None]
    return []


def _join(sets: Sets, expected: Mapping[str, Tensor]) -> Joined | None:
    weights: dict[str, Tensor] = {}
    taken: dict[str, frozenset[str]] = {}
    waiting: list[tuple[str, list[dict[str, Tensor]]]] = []
    for path in sorted(sets, key=lambda path: -len(sets[path])):  # the largest part has the fewest places
        places = _places(path.rpartition(".")[2], sets[path], expected)
        free = [named for named in places if not named.keys() & weights.keys()]
        if len(free) == 1:
            weights |= free[0]
            taken[path] = frozenset(free[0])
        else:
            waiting.append((path, places))
    fit = measure(weights, expected)
    if len(taken) < 2 or not (fit.is_full or fit.sizes(expected)):
        return None
    rivals = next(
        (
            (other, path)
            for path, places in waiting
            for other, names in taken.items()
            for named in places
            if names == named.keys() and not same_weights(named, {name: weights[name] for name in names})
        ),
        None,
    )
    return Joined(tuple(path for path in sets if path in taken), fit, rivals)


def _places(key: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Returns the weights under the network's names, for each module that they fit.

    A module of the set's own name rules out all others.
    """
    steps = [name.split(".")[:-1] for name in expected]
    modules = dict.fromkeys(".".join(path[:n]) for path in steps for n in range(len(path) + 1))
    fitting = {module: named for module in modules if (named := _below(module, tensors, expected)) is not None}
    if key in fitting:
        return [fitting[key]]
    return list({frozenset(named): named for named in fitting.values()}.values())


def _below(module: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    prefix = f"{module}." if module else ""
    inner = {name.removeprefix(prefix): tensor for name, tensor in expected.items() if name.startswith(prefix)}
    if len(inner) < len(tensors):
        return None
    fit = fits(tensors, inner)[0]
    reshaped = [(fit.weights[name].shape, inner[name].shape) for name in fit.reshaped]
    rows_or_channels = all(
        len(new) == len(old) and sum(a != b for a, b in zip(new, old, strict=True)) == 1 for new, old in reshaped
    )
    if fit.unexpected or fit.left_out or not rows_or_channels:
        return None
    if module and fit.missing:
        return None  # a part is a whole module, or the network without some
    return {prefix + name: tensor for name, tensor in fit.weights.items()}
