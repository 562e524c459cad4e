"""Building a network for given weights: with their number of classes, and without a head that they do not have."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike.encoder.checkpoint import Checkpoint, read_checkpoint
from lookalike.encoder.fitting import Fit, measure
from lookalike.encoder.untrained import check_missing
from lookalike.encoder.weights import Choice, choose_weights, expected_by, load_fit, pair_by_order
from lookalike.networks import without_head

CLASS_ARGUMENTS = ("num_classes", "n_classes", "num_labels")


@dataclass(frozen=True)
class GivenWeights:
    """A checkpoint that a user gave, and how to take weights out of it.

    Attributes:
        checkpoint: What the file holds.
        key: Which set of weights; None takes the only one that fits.
        by_order: Pair them with the network's by their order.
    """

    checkpoint: Checkpoint
    key: str | None = None
    by_order: bool = False

    @classmethod
    def read(cls, path: str | Path, key: str | None = None, *, by_order: bool = False) -> "GivenWeights":
        """Reads a checkpoint.

        Raises:
            LookalikeError: If it is not read.
        """
        return cls(read_checkpoint(path), key, by_order)

    def choose(self, model: nn.Module) -> Choice:
        """Chooses the set of weights for a network."""
        return choose_weights(self.checkpoint, model, self.key, by_order=self.by_order)


@dataclass(frozen=True)
class Filled:
    """A network with given weights.

    Attributes:
        model: The network.
        args: Its builder's arguments, with the number of classes where the weights told it.
        without: The head that came off, as the weights do not have it.
    """

    model: nn.Module
    args: dict[str, Any]
    without: str | None = None


def fill(
    build: Callable[[dict[str, Any]], nn.Module],
    args: Mapping[str, Any],
    given: GivenWeights,
    class_argument: str | None,
    *,
    channel_argument: str | None = None,
    size: Any = None,
) -> Filled:
    """Builds a network and puts weights into it.

    Args:
        build: Makes the network of its arguments.
        args: Those that the user gave.
        given: The weights.
        class_argument: The builder's argument for the number of classes, which is then read off the weights.
        channel_argument: Its argument for the number of input channels, likewise.
        size: Height and width of its inputs, where the network itself does not say.

    Raises:
        LookalikeError: If the weights do not fit.

    Warns:
        LookalikeWarning: If the file holds more than was taken, or lacks the head.
    """
    args = dict(args)
    model = build(args)
    choice = given.choose(model)
    sizes = choice.fit.sizes(expected_by(model))
    read: dict[str, Any] = {}
    if class_argument is not None and "classes" in sizes and not any(name in args for name in CLASS_ARGUMENTS):
        read[class_argument] = sizes["classes"]
    if channel_argument is not None and "channels" in sizes and channel_argument not in args:
        read[channel_argument] = sizes["channels"]
    if read:
        args |= read
        model = build(args)
        choice = given.choose(model)
    source = f"the weights in {str(given.checkpoint.path)!r}"
    if choice.others:
        _tell_choice(given.checkpoint, choice)
    without = _take_missing_head_off(model, choice.fit, source, size)
    if without is not None:
        kept = {name: tensor for name, tensor in choice.fit.weights.items() if name in model.state_dict()}
        load_fit(model, Fit(choice.fit.prefix, kept, (), (), (), ()), source)
        check_finite_weights(model, source)
        return Filled(model, args, without)
    try:
        load_fit(model, choice.fit, source)
    except LookalikeError as error:
        raise LookalikeError(f"{error}{_hint(given, choice, model)}") from None
    check_finite_weights(model, source)
    return Filled(model, args)


def class_argument_of(function: Callable[..., Any]) -> str | None:
    """Returns the name of a builder's argument for the number of classes; None where it has none."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in CLASS_ARGUMENTS if name in names), None)


def check_finite_weights(model: nn.Module, source: str) -> None:
    """Checks that no weight is NaN or infinite; buffers may be, as masks are.

    Raises:
        LookalikeError: If one is; it names the first.
    """
    broken = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        raise LookalikeError(
            f"{source} hold NaN or infinite values, as after a training that failed: {listing(broken, 1)}; take an "
            "earlier checkpoint"
        )


def warn_without_head(source: str, head: str) -> None:
    """Warns that weights have no trained head."""
    warn_of(
        f"{source} have no trained head ({head}): they make an encoder, whose embedding is the head's input, and no "
        "black box"
    )


def _take_missing_head_off(model: nn.Module, fit: Fit, source: str, size: Any) -> str | None:
    head = fit.missing_module(expected_by(model))
    if head is None:
        return None
    try:
        check_missing(model, fit.missing, source, size)
    except LookalikeError:
        return None  # told with all other misfits
    without_head(model, head=head)
    warn_without_head(source, head)
    return head


def _tell_choice(checkpoint: Checkpoint, choice: Choice) -> None:
    others = listing([repr(name) for name in choice.others], 3)
    warn_of(
        f"of the weights in {str(checkpoint.path)!r}, {choice.label!r} fit the network and are taken; {others} are not"
    )


def _hint(given: GivenWeights, choice: Choice, model: nn.Module) -> str:
    """Says what else the user may have meant."""
    sets = given.checkpoint.weights
    if choice.fit.is_full:
        return ""
    if len(sets) > 1 and given.key is None:
        listed = ", ".join(repr(path) for path in list(sets)[:6])
        return f"; {choice.label!r} comes closest of {listed}: others can be chosen with --weights-key (weights_key=)"
    if choice.fit.missing_module(expected_by(model)):
        return (
            "; if that is the head and the checkpoint has none, give a network with nn.Identity() in its place, and "
            "--head output (head='output')"
        )
    if given.by_order or not given.checkpoint.is_ordered:
        return ""
    try:
        paired = measure(pair_by_order(next(iter(sets.values())), model, any_shape=True), expected_by(model))
    except LookalikeError:
        return ""
    if not (paired.is_full or paired.sizes(expected_by(model))):
        return ""
    return "; all shapes fit in order, though: if it is the same architecture, use --weights-by-order (by_order=True)"
