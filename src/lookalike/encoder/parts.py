"""Joins the weights of networks whose parts are saved as separate sets: ``{"encoder": …, "classifier": …}``."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lookalike.encoder.contents import TOP
from lookalike.encoder.fitting import Fit, compare, possible_fits, same_weights

_MAX_SETS = 20  # networks are saved in a few parts; more sets would make the search slow

Sets = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Joined:
    """Sets of weights that together make up a network.

    Attributes:
        paths: The paths of the sets in the file.
        fit: How the joined weights fit the network.
        rivals: Paths of two sets with different weights for the same part, if there are such; either may be meant.
    """

    paths: tuple[str, ...]
    fit: Fit
    rivals: tuple[str, str] | None = None


def join_parts(sets: Sets, expected: Mapping[str, Tensor]) -> list[Joined]:
    """Joins sets that together make up a network, up to its number of classes.

    Sets under the same parent are tried first, then all sets of the file.

    Args:
        sets: Sets of weights by their path in the file.
        expected: The network's state dict.
    """
    siblings: dict[str, list[str]] = {}
    for path in sets:
        if path != TOP:
            siblings.setdefault(path.rpartition(".")[0], []).append(path)
    groups = [paths for paths in siblings.values() if 1 < len(paths) <= _MAX_SETS]
    all_sets = [list(sets)] if 1 < len(sets) <= _MAX_SETS and [list(sets)] != groups else []
    for candidates in (groups, all_sets):
        networks = [_join({path: sets[path] for path in paths}, expected) for paths in candidates]
        if any(networks):
            return [network for network in networks if network is not None]
    return []


def _join(sets: Sets, expected: Mapping[str, Tensor]) -> Joined | None:
    """Joins sets of weights; None if they do not make up the network."""
    weights: dict[str, Tensor] = {}
    joined_names: dict[str, frozenset[str]] = {}
    not_joined: list[tuple[str, list[dict[str, Tensor]]]] = []
    for path in sorted(sets, key=lambda path: -len(sets[path])):  # the largest part fits the fewest modules
        candidates = _candidates(path.rpartition(".")[2], sets[path], expected)
        free = [renamed for renamed in candidates if not renamed.keys() & weights.keys()]
        if len(free) == 1:
            weights |= free[0]
            joined_names[path] = frozenset(free[0])
        else:
            not_joined.append((path, candidates))
    fit = compare(weights, expected)
    if len(joined_names) < 2 or not (fit.is_full or fit.sizes(expected)):
        return None
    rivals = next(
        (
            (joined_path, path)
            for path, candidates in not_joined
            for joined_path, names in joined_names.items()
            for renamed in candidates
            if names == renamed.keys() and not same_weights(renamed, {name: weights[name] for name in names})
        ),
        None,
    )
    return Joined(tuple(path for path in sets if path in joined_names), fit, rivals)


def _candidates(key: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Returns the weights under the network's names, once for each module that they fit.

    If one of these modules has the name of the set, only that one is returned.
    """
    steps = [name.split(".")[:-1] for name in expected]
    modules = dict.fromkeys(".".join(path[:n]) for path in steps for n in range(len(path) + 1))
    renamed_weights = {module: _fit_to_module(module, tensors, expected) for module in modules}
    weights_by_module = {module: renamed for module, renamed in renamed_weights.items() if renamed is not None}
    if key in weights_by_module:
        return [weights_by_module[key]]
    return list({frozenset(renamed): renamed for renamed in weights_by_module.values()}.values())


def _fit_to_module(
    module: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Returns the weights under the network's names if they fit a module, up to rows or channels; else None."""
    prefix = f"{module}." if module else ""
    inner = {name.removeprefix(prefix): tensor for name, tensor in expected.items() if name.startswith(prefix)}
    if len(inner) < len(tensors):
        return None
    fit = possible_fits(tensors, inner)[0]
    reshaped = [(fit.weights[name].shape, inner[name].shape) for name in fit.reshaped]
    differ_in_one_size = all(
        len(new) == len(old) and sum(a != b for a, b in zip(new, old, strict=True)) == 1 for new, old in reshaped
    )
    if fit.unexpected or fit.left_out or not differ_in_one_size:
        return None
    if module and fit.missing:
        return None  # a part must fill its module; only the weights of the whole network may lack modules
    return {prefix + name: tensor for name, tensor in fit.weights.items()}
