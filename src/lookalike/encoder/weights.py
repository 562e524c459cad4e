"""Weights from files into networks: which set of them, under which names, and what is said when they do not fit."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, first_line, listing
from lookalike.encoder.checkpoint import Checkpoint, read_checkpoint, unread_refusal
from lookalike.encoder.contents import TOP
from lookalike.encoder.fitting import Fit, fits, measure, same_weights
from lookalike.encoder.parts import join_parts

_LISTED = 6


@dataclass(frozen=True)
class Choice:
    """A set of weights that was chosen for a network.

    Attributes:
        label: Its place in the file.
        fit: How it fits the network.
        others: What else the file holds and was not taken; empty where the set was asked for by name.
    """

    label: str
    fit: Fit
    others: tuple[str, ...] = ()


def read_weights(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Reads a state dict from a checkpoint of any kind that ``read_checkpoint`` reads, without running anything.

    Args:
        path: The file, or a folder of shards.
        key: Which set of weights, where the file holds several, e.g. ``"state_dict_ema"``.

    Raises:
        LookalikeError: If the file is not read, or it is not clear which of its weights are meant.
    """
    checkpoint = read_checkpoint(path)
    sets = _selected(checkpoint, key)
    if len(sets) > 1:
        raise LookalikeError(f"{_named(checkpoint)} holds {_listed(sets)}; {_ASK}")
    path_within, tensors = next(iter(sets.items()))
    if path_within in checkpoint.unread:
        raise unread_refusal(checkpoint.path, checkpoint.unread[path_within])
    return {name: tensor.clone() for name, tensor in tensors.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Loads weights into a model, whatever prefix their names have.

    Raises:
        LookalikeError: If names, shapes or types do not match; it lists what is missing, unexpected or different.
    """
    load_fit(model, fits(weights, expected_by(model))[0], source)


def load_fit(model: nn.Module, fit: Fit, source: str) -> None:
    """Loads weights that were compared with a network.

    Raises:
        LookalikeError: As ``load_weights``.
    """
    expected = expected_by(model)
    if not fit.is_full:
        reshaped = [
            f"{name} {tuple(fit.weights[name].shape)} instead of {tuple(expected[name].shape)}" for name in fit.reshaped
        ]
        problems = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape", reshaped))
        listed = "; ".join(f"{what}: {listing(list(names), _LISTED)}" for what, names in problems if names)
        raise LookalikeError(f"{source} do not fit the {type(model).__name__}: {listed}")
    typed = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in fit.weights.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if typed:
        raise LookalikeError(
            f"{source} do not fit the {type(model).__name__}: these are no floating-point numbers, as after "
            f"quantisation: {listing(typed, _LISTED)}; give the weights before it"
        )
    weights = OrderedDict(fit.weights)
    # names and shapes are those of the layers as they are now: MNASNet refuses weights that do not say their version
    weights._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    try:
        model.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        first = first_line(error)
        raise LookalikeError(f"{source} cannot be put into the {type(model).__name__}: {first}") from error


def choose_weights(
    checkpoint: Checkpoint, model: nn.Module, key: str | None = None, *, by_order: bool = False
) -> Choice:
    """Chooses the set of weights that fits a network, up to the number of classes.

    Args:
        checkpoint: What the file holds.
        model: The network.
        key: Which set of weights; None takes the only one that fits.
        by_order: Pair names by their order.

    Returns:
        The set that fits; if none does, the one that comes closest.

    Raises:
        LookalikeError: If several fit, there is none of that name, or weights cannot be paired by order.
    """
    if by_order and not checkpoint.is_ordered:
        raise LookalikeError(
            f"{_named(checkpoint)} keeps no order of its own, as safetensors sorts names: its weights cannot be paired "
            "by order; give the file that torch.save wrote"
        )
    expected = expected_by(model)
    options: dict[str, Fit] = {}
    closest: list[tuple[str, Fit]] = []
    for path, tensors in checkpoint.weights.items():
        ways = _paired(tensors, model, checkpoint) if by_order else fits(tensors, expected)
        closest += [(path, way) for way in ways[:1]]
        fitting = [way for way in ways if way.is_full or way.sizes(expected)]
        if not fitting:
            fitting = [way for way in ways if way.missing_module(expected)]
        whole = [way for way in fitting if not way.left_out][:1]
        for way in whole or fitting:
            taken = {name: id(tensor) for name, tensor in way.weights.items()}
            if any(taken == {name: id(tensor) for name, tensor in other.weights.items()} for other in options.values()):
                continue  # the same tensors, found in another way
            below = way.prefix.removesuffix(".") if way.left_out else ""
            options.setdefault(".".join(text for text in (path if path != TOP else "", below) if text) or TOP, way)
    network = type(model).__name__
    if not by_order and all(way.missing for label, way in options.items() if key in (None, label)):
        joined = _joined(checkpoint, key, expected, network)
        if joined is not None:
            return joined
    choice = _one_of(checkpoint, options, closest, key, network)
    unread = next((kinds for path, kinds in checkpoint.unread.items() if _within(choice.label, path)), None)
    if unread and (choice.fit.missing or not choice.fit.n_matching):
        raise unread_refusal(checkpoint.path, unread)
    return choice


def _joined(checkpoint: Checkpoint, key: str | None, expected: Mapping[str, Tensor], network: str) -> Choice | None:
    """Takes the parts of a network that are separate sets in the file: all of them, or those below a key."""
    sets = checkpoint.weights
    if key is not None:
        sets = {path: tensors for path, tensors in sets.items() if path.startswith(key + ".")}
    groups = join_parts(sets, expected)
    if not groups:
        return None
    parts = groups[0]
    if len(groups) > 1:
        keys = ", ".join(repr(group.paths[0].rpartition(".")[0]) for group in groups)
        raise LookalikeError(f"{_named(checkpoint)} holds the parts of the {network} more than once, in {keys}; {_ASK}")
    if parts.rivals:
        raise LookalikeError(
            f"{_named(checkpoint)} holds the {network} in parts ({', '.join(map(repr, parts.paths))}), and two sets "
            f"for one of them: {' and '.join(map(repr, parts.rivals))}; save the parts that belong together to a file"
        )
    others = tuple(path for path in checkpoint.weights if path not in parts.paths) if key is None else ()
    return Choice(" + ".join(parts.paths), parts.fit, others)


def expected_by(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a network's state dict."""
    return {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def pair_by_order(weights: Mapping[str, Tensor], model: nn.Module, *, any_shape: bool = False) -> dict[str, Tensor]:
    """Names weights as the model does, pairing both in order; for files of one architecture under other names.

    Args:
        weights: Tensors by the file's names.
        model: The network.
        any_shape: Do not compare shapes.

    Raises:
        LookalikeError: If there are more or fewer entries, or a pair differs in shape.
    """
    state = {name: tensor for name, tensor in expected_by(model).items() if not name.endswith("num_batches_tracked")}
    given = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    if len(state) != len(given) and len(expected_by(model)) == len(weights):  # the counters have other names too
        state, given = expected_by(model), dict(weights)
    if len(state) != len(given):
        raise LookalikeError(f"the weights have {len(given)} entries and the model {len(state)}: they cannot be paired")
    paired = {}
    for (name, tensor), (other, value) in zip(state.items(), given.items(), strict=True):
        if tensor.shape != value.shape and not any_shape:
            raise LookalikeError(
                f"paired in order, {other!r} {tuple(value.shape)} would become {name!r} {tuple(tensor.shape)}"
            )
        paired[name] = value
    return paired


_ASK = "choose one with --weights-key NAME (weights_key=)"


def _one_of(
    checkpoint: Checkpoint, options: dict[str, Fit], closest: list[tuple[str, Fit]], key: str | None, network: str
) -> Choice:
    if key is not None:
        return _asked_for(checkpoint, options, closest, key, network)
    full = {label: fit for label, fit in options.items() if not fit.missing} or options
    if not closest:
        raise LookalikeError(f"no weights in {_named(checkpoint)} can be paired with the {network} by order")
    if not full:
        label, fit = max(closest, key=lambda pair: pair[1].n_matching)
        return Choice(label, fit)
    label, fit = next(iter(full.items()))
    if any(not same_weights(fit.weights, other.weights) for other in full.values()):
        sets = {name: other.weights for name, other in full.items()}
        raise LookalikeError(f"{_named(checkpoint)} holds {_listed(sets)} that fit the {network}; {_ASK}")
    others = [path for path in checkpoint.weights if path != TOP and not any(_within(name, path) for name in full)]
    return Choice(label, fit, (*others, *fit.left_out))


def _within(label: str, path: str) -> bool:
    return label == path or label.startswith(path + ".")


def _asked_for(
    checkpoint: Checkpoint, options: dict[str, Fit], closest: list[tuple[str, Fit]], key: str, network: str
) -> Choice:
    if key in options:
        return Choice(key, options[key])
    labels = [label for label in options if label.endswith("." + key)]
    if len(labels) == 1:
        return Choice(labels[0], options[labels[0]])
    below = {label: fit.weights for label, fit in options.items() if label.startswith(key + ".") or key == TOP}
    if below and key in checkpoint.weights:
        raise LookalikeError(f"{key!r} of {_named(checkpoint)} holds {_listed(below)} that fit the {network}; {_ASK}")
    path = next(iter(_selected(checkpoint, key, {label: fit.weights for label, fit in options.items()})))
    return next(Choice(label, fit) for label, fit in closest if label == path)


def _selected(
    checkpoint: Checkpoint, key: str | None, further: Mapping[str, Mapping[str, Tensor]] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Returns the sets of weights of a name; all of them without a name."""
    sets = checkpoint.weights
    if key is None:
        return sets
    ends = [path for path in sets if path.endswith("." + key)]
    path = key if key in sets else ends[0] if len(ends) == 1 else None
    if path is None:
        known = {**sets, **(further or {})}
        raise LookalikeError(f"{_named(checkpoint)} holds no weights {key!r}; it holds {_listed(known)}")
    return {path: sets[path]}


def _paired(tensors: Mapping[str, Tensor], model: nn.Module, checkpoint: Checkpoint) -> list[Fit]:
    try:
        return [measure(pair_by_order(tensors, model, any_shape=True), expected_by(model))]
    except LookalikeError:
        if len(checkpoint.weights) == 1:
            raise
        return []


def _named(checkpoint: Checkpoint) -> str:
    return f"the weights file {str(checkpoint.path)!r}"


def _listed(sets: Mapping[str, Mapping[str, Tensor]]) -> str:
    described = [
        f"{path!r} ({sum(math.prod(tensor.shape) for tensor in tensors.values()):,} numbers in {len(tensors)} tensors)"
        for path, tensors in sets.items()
    ]
    count = f"{len(sets)} sets of weights: " if len(sets) > 1 else "the weights "
    return count + listing(described, _LISTED)
