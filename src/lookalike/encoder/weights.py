"""Loads weights from files into networks: chooses the set that fits, matches names, and reports what does not fit."""

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, first_line, listing
from lookalike.encoder.checkpoint import Checkpoint, read_checkpoint, unread_refusal
from lookalike.encoder.contents import TOP
from lookalike.encoder.fitting import Fit, compare, possible_fits, same_weights
from lookalike.encoder.parts import join_parts

_N_LISTED = 6  # names in an error message


@dataclass(frozen=True)
class Choice:
    """A set of weights that was chosen for a network.

    Attributes:
        label: The path of the set in the file.
        fit: How it fits the network.
        unused: Paths and names of the other weights in the file; empty if the user named the set.
    """

    label: str
    fit: Fit
    unused: tuple[str, ...] = ()


def read_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Reads a state dict from any checkpoint that ``read_checkpoint`` reads, without running code in it.

    Args:
        path: The file, or a folder of shards.
        key: The set of weights to read if the file holds several, e.g. ``"state_dict_ema"``.

    Raises:
        LookalikeError: If the file cannot be read, or holds several sets and ``key`` names none of them.
    """
    checkpoint = read_checkpoint(path)
    sets = _sets_named(checkpoint, key)
    if len(sets) > 1:
        raise LookalikeError(f"{_file_of(checkpoint)} holds {_describe_sets(sets)}; {_CHOOSE}")
    path_within, tensors = next(iter(sets.items()))
    if path_within in checkpoint.unread:
        raise unread_refusal(checkpoint.path, checkpoint.unread[path_within])
    return {name: tensor.clone() for name, tensor in tensors.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Loads weights into a model; their names may have any prefix.

    Raises:
        LookalikeError: If names, shapes or types do not match; the message lists the missing, unexpected or different
            weights.
    """
    load_fit(model, possible_fits(weights, expected_by(model))[0], source)


def load_fit(model: nn.Module, fit: Fit, source: str, adapted: Collection[str] = ()) -> None:
    """Loads weights that have been matched with a network.

    Args:
        model: The network.
        fit: The weights by its names.
        source: Where they come from, for messages.
        adapted: Names of weights to which the network would be adapted, so that their shapes are not the problem.

    Raises:
        LookalikeError: If names, shapes or types do not match.
    """
    expected = expected_by(model)
    if not fit.is_full:
        reshaped = [
            f"{name} {tuple(fit.weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in fit.reshaped
            if name not in adapted or len(adapted) == len(fit.reshaped)
        ]
        problems = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", reshaped))
        listed = "; ".join(f"{problem}: {listing(list(names), _N_LISTED)}" for problem, names in problems if names)
        raise LookalikeError(f"{source} do not fit the {type(model).__name__}: {listed}")
    not_floating_point = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in fit.weights.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if not_floating_point:
        raise LookalikeError(
            f"{source} do not fit the {type(model).__name__}: these are not floating-point numbers, as after "
            f"quantisation: {listing(not_floating_point, _N_LISTED)}; give the weights before it"
        )
    weights = OrderedDict(fit.weights)
    # Some networks (MNASNet) refuse weights without a version. Names and shapes match the current layers, so the
    # weights get the versions of the network itself.
    weights._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    try:
        model.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise LookalikeError(f"{source} cannot be loaded into the {type(model).__name__}: {reason}") from error


def choose_weights(
    checkpoint: Checkpoint, model: nn.Module, key: str | None = None, *, by_order: bool = False
) -> Choice:
    """Chooses the set of weights that fits a network, up to the number of classes.

    Args:
        checkpoint: The content of the file.
        model: The network.
        key: The set of weights to use; None takes the only one that fits.
        by_order: Pair the weights with the network's by their order instead of by name.

    Returns:
        The set that fits; if none does, the one that comes closest.

    Raises:
        LookalikeError: If several sets fit, none has the given name, or weights cannot be paired by order.
    """
    if by_order and not checkpoint.is_ordered:
        raise LookalikeError(
            f"{_file_of(checkpoint)} does not keep the network's order, as safetensors sorts names: its weights cannot "
            "be paired by order; give the file that torch.save wrote"
        )
    expected = expected_by(model)
    options, closest = _fitting_sets(checkpoint, model, expected, by_order=by_order)
    network = type(model).__name__
    if not by_order and all(fit.missing for label, fit in options.items() if key in (None, label)):
        joined = _join(checkpoint, key, expected, network)
        if joined is not None:
            return joined
    choice = _pick(checkpoint, options, closest, key, network)
    unread = next((kinds for path, kinds in checkpoint.unread.items() if _is_within(choice.label, path)), None)
    if unread and (choice.fit.missing or not choice.fit.n_matching):
        raise unread_refusal(checkpoint.path, unread)
    return choice


def _fitting_sets(
    checkpoint: Checkpoint, model: nn.Module, expected: Mapping[str, Tensor], *, by_order: bool
) -> tuple[dict[str, Fit], list[tuple[str, Fit]]]:
    """Finds the weights in a file that fit a network.

    A fit may use all tensors of a set, or only those below a prefix of their names, such as ``"net."``.

    Returns:
        The distinct fits by their path in the file, and the best fit of each set, whether it suffices or not.
    """
    options: dict[str, Fit] = {}
    closest: list[tuple[str, Fit]] = []
    for path, tensors in checkpoint.weights.items():
        candidates = _fit_by_order(tensors, model, checkpoint) if by_order else possible_fits(tensors, expected)
        closest += [(path, fit) for fit in candidates[:1]]
        fitting = [fit for fit in candidates if fit.is_full or fit.sizes(expected)]
        if not fitting:
            fitting = [fit for fit in candidates if fit.missing_module(expected)]
        using_all = [fit for fit in fitting if not fit.left_out][:1]
        for fit in using_all or fitting:
            if any(_has_same_tensors(fit, option) for option in options.values()):
                continue  # the same tensors, found in another way
            prefix = fit.prefix.removesuffix(".") if fit.left_out else ""
            label = ".".join(text for text in (path if path != TOP else "", prefix) if text)
            options.setdefault(label or TOP, fit)
    return options, closest


def _has_same_tensors(first: Fit, second: Fit) -> bool:
    """Says whether two fits use the same tensor objects under the same names."""
    return first.weights.keys() == second.weights.keys() and all(
        tensor is second.weights[name] for name, tensor in first.weights.items()
    )


def _join(checkpoint: Checkpoint, key: str | None, expected: Mapping[str, Tensor], network: str) -> Choice | None:
    """Joins the parts of a network that are separate sets in the file: all sets, or those below a key."""
    sets = checkpoint.weights
    if key is not None:
        sets = {path: tensors for path, tensors in sets.items() if path.startswith(key + ".")}
    groups = join_parts(sets, expected)
    if not groups:
        return None
    joined = groups[0]
    if len(groups) > 1:
        keys = ", ".join(repr(group.paths[0].rpartition(".")[0]) for group in groups)
        raise LookalikeError(
            f"{_file_of(checkpoint)} holds the parts of the {network} more than once, in {keys}; {_CHOOSE}"
        )
    if joined.rivals:
        raise LookalikeError(
            f"{_file_of(checkpoint)} holds the {network} in parts ({', '.join(map(repr, joined.paths))}), and two sets "
            f"for one of them: {' and '.join(map(repr, joined.rivals))}; save the parts that belong together to a file"
        )
    unused = tuple(path for path in checkpoint.weights if path not in joined.paths) if key is None else ()
    return Choice(" + ".join(joined.paths), joined.fit, unused)


def expected_by(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a network's state dict."""
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def pair_by_order(weights: Mapping[str, Tensor], model: nn.Module, *, any_shape: bool = False) -> dict[str, Tensor]:
    """Gives weights the model's names by pairing both in order, for the same architecture with other names.

    Args:
        weights: Tensors by the file's names.
        model: The network.
        any_shape: Accept pairs of different shapes.

    Raises:
        LookalikeError: If there are more or fewer entries, or a pair differs in shape.
    """
    expected = {name: tensor for name, tensor in expected_by(model).items() if not name.endswith("num_batches_tracked")}
    unpaired = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    if len(expected) != len(unpaired) and len(expected_by(model)) == len(weights):  # the counters too have other names
        expected, unpaired = expected_by(model), dict(weights)
    if len(expected) != len(unpaired):
        raise LookalikeError(
            f"the weights have {len(unpaired)} entries and the model {len(expected)}: they cannot be paired"
        )
    paired = {}
    for (name, tensor), (file_name, value) in zip(expected.items(), unpaired.items(), strict=True):
        if tensor.shape != value.shape and not any_shape:
            raise LookalikeError(
                f"paired in order, {file_name!r} {tuple(value.shape)} would become {name!r} {tuple(tensor.shape)}"
            )
        paired[name] = value
    return paired


_CHOOSE = "choose one with --weights-key NAME (weights_key=)"


def _pick(
    checkpoint: Checkpoint, options: dict[str, Fit], closest: list[tuple[str, Fit]], key: str | None, network: str
) -> Choice:
    """Returns the only fit, or the one that the user named; without any, the closest."""
    if key is not None:
        return _requested(checkpoint, options, closest, key, network)
    full = {label: fit for label, fit in options.items() if not fit.missing} or options
    if not closest:
        raise LookalikeError(f"no weights in {_file_of(checkpoint)} can be paired with the {network} by order")
    if not full:
        label, fit = max(closest, key=lambda pair: pair[1].n_matching)
        return Choice(label, fit)
    label, fit = next(iter(full.items()))
    if any(not same_weights(fit.weights, rival.weights) for rival in full.values()):
        sets = {path: rival.weights for path, rival in full.items()}
        raise LookalikeError(f"{_file_of(checkpoint)} holds {_describe_sets(sets)} that fit the {network}; {_CHOOSE}")
    unused = [path for path in checkpoint.weights if path != TOP and not any(_is_within(name, path) for name in full)]
    return Choice(label, fit, (*unused, *fit.left_out))


def _is_within(label: str, path: str) -> bool:
    return label == path or label.startswith(path + ".")


def _requested(
    checkpoint: Checkpoint, options: dict[str, Fit], closest: list[tuple[str, Fit]], key: str, network: str
) -> Choice:
    """Returns the fit that the user named by its path, or by the end of it."""
    if key in options:
        return Choice(key, options[key])
    labels = [label for label in options if label.endswith("." + key)]
    if len(labels) == 1:
        return Choice(labels[0], options[labels[0]])
    below = {label: fit.weights for label, fit in options.items() if label.startswith(key + ".") or key == TOP}
    if below and key in checkpoint.weights:
        raise LookalikeError(
            f"{key!r} of {_file_of(checkpoint)} holds {_describe_sets(below)} that fit the {network}; {_CHOOSE}"
        )
    path = next(iter(_sets_named(checkpoint, key, {label: fit.weights for label, fit in options.items()})))
    return next(Choice(label, fit) for label, fit in closest if label == path)


def _sets_named(
    checkpoint: Checkpoint, key: str | None, further: Mapping[str, Mapping[str, Tensor]] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Returns the set of weights with this path or last name; all sets without a key."""
    sets = checkpoint.weights
    if key is None:
        return sets
    ends = [path for path in sets if path.endswith("." + key)]
    path = key if key in sets else ends[0] if len(ends) == 1 else None
    if path is None:
        available = {**sets, **(further or {})}
        raise LookalikeError(f"{_file_of(checkpoint)} holds no weights {key!r}; it holds {_describe_sets(available)}")
    return {path: sets[path]}


def _fit_by_order(tensors: Mapping[str, Tensor], model: nn.Module, checkpoint: Checkpoint) -> list[Fit]:
    try:
        return [compare(pair_by_order(tensors, model, any_shape=True), expected_by(model))]
    except LookalikeError:
        if len(checkpoint.weights) == 1:
            raise
        return []


def _file_of(checkpoint: Checkpoint) -> str:
    return f"the weights file {str(checkpoint.path)!r}"


def _describe_sets(sets: Mapping[str, Mapping[str, Tensor]]) -> str:
    described = [
        f"{path!r} ({sum(math.prod(tensor.shape) for tensor in tensors.values()):,} numbers in {len(tensors)} tensors)"
        for path, tensors in sets.items()
    ]
    count = f"{len(sets)} sets of weights: " if len(sets) > 1 else "the weights "
    return count + listing(described, _N_LISTED)
