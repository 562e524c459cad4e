"""Builds a network for given weights: with their number of classes, and without its head if they have none."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike.encoder.checkpoint import Checkpoint, read_checkpoint
from lookalike.encoder.fitting import Fit, compare
from lookalike.encoder.untrained import check_missing
from lookalike.encoder.weights import Choice, choose_weights, expected_by, load_fit, pair_by_order
from lookalike.networks import without_head

_POSITIONS = re.compile(r"(^|\.)pos(ition)?_embed(ding)?s?\b")  # timm, torchvision, Hugging Face
CLASS_ARGUMENTS = ("num_classes", "n_classes", "num_labels")


@dataclass(frozen=True)
class UserWeights:
    """A user's checkpoint, and how to choose weights from it.

    Attributes:
        checkpoint: The content of the file.
        key: The path or name of a set of weights in it; None takes the only set that fits.
        by_order: Pair the weights with the network's by their order instead of by name.
    """

    checkpoint: Checkpoint
    key: str | None = None
    by_order: bool = False

    @classmethod
    def read(cls, path: str | Path, key: str | None = None, *, by_order: bool = False) -> "UserWeights":
        """Reads a checkpoint.

        Raises:
            LookalikeError: If it cannot be read.
        """
        return cls(read_checkpoint(path), key, by_order)

    def choose(self, model: nn.Module) -> Choice:
        """Chooses the set of weights for a network."""
        return choose_weights(self.checkpoint, model, self.key, by_order=self.by_order)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with loaded weights.

    Attributes:
        model: The network.
        args: The builder's arguments, including sizes that were read off the weights.
        removed_head: The name of the head that was removed because the weights lack it; None if it is there.
    """

    model: nn.Module
    args: dict[str, Any]
    removed_head: str | None = None


def load_network(
    build: Callable[[dict[str, Any]], nn.Module],
    args: Mapping[str, Any],
    user_weights: UserWeights,
    class_argument: str | None,
    *,
    channel_argument: str | None = None,
    size: Any = None,
) -> LoadedNetwork:
    """Builds a network and loads weights into it.

    Args:
        build: Builds the network from its arguments.
        args: The arguments that the user gave.
        user_weights: The weights.
        class_argument: Name of the builder's argument for the number of classes; if the user did not give it, the
            weights decide. None if the builder has no such argument.
        channel_argument: Name of its argument for the number of input channels, used in the same way.
        size: Height and width of the inputs, if the network itself does not say.

    Raises:
        LookalikeError: If the weights do not fit.

    Warns:
        LookalikeWarning: If the file holds weights that are not used, or lacks the head.
    """
    args = dict(args)
    model = build(args)
    choice = user_weights.choose(model)
    sizes = choice.fit.sizes(expected_by(model))
    sizes_read: dict[str, Any] = {}
    if class_argument is not None and "classes" in sizes and not any(name in args for name in CLASS_ARGUMENTS):
        sizes_read[class_argument] = sizes["classes"]
    if channel_argument is not None and "channels" in sizes and channel_argument not in args:
        sizes_read[channel_argument] = sizes["channels"]
    if sizes_read:
        args |= sizes_read
        model = build(args)
        choice = user_weights.choose(model)
    source = f"the weights in {str(user_weights.checkpoint.path)!r}"
    if choice.unused:
        _warn_of_unused(user_weights.checkpoint, choice)
    removed_head = _remove_missing_head(model, choice.fit, source, size)
    if removed_head is not None:
        weights = {name: tensor for name, tensor in choice.fit.weights.items() if name in model.state_dict()}
        load_fit(model, Fit(choice.fit.prefix, weights, (), (), (), ()), source)
        check_finite_weights(model, source)
        return LoadedNetwork(model, args, removed_head)
    adapted = () if class_argument is None else choice.fit.resized_head(expected_by(model))
    try:
        load_fit(model, choice.fit, source, adapted)
    except LookalikeError as error:
        raise LookalikeError(
            f"{error}{_image_size_hint(choice.fit, model)}{_hint(user_weights, choice, model)}"
        ) from None
    check_finite_weights(model, source)
    return LoadedNetwork(model, args)


def class_argument_of(function: Callable[..., Any]) -> str | None:
    """Returns the name of a builder's argument for the number of classes; None if it has none."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in CLASS_ARGUMENTS if name in names), None)


def check_finite_weights(model: nn.Module, source: str) -> None:
    """Checks that no weight is NaN or infinite; buffers may be, as masks are.

    Raises:
        LookalikeError: If one is; the message names the first.
    """
    not_finite = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if not_finite:
        raise LookalikeError(
            f"{source} hold NaN or infinite values, as after a training that failed: {listing(not_finite, 1)}; take an "
            "earlier checkpoint"
        )


def warn_without_head(source: str, head: str) -> None:
    """Warns that weights have no trained head, so that the network can only be used as an encoder."""
    warn_of(
        f"{source} have no trained head ({head}): they make an encoder, whose embedding is the head's input, and no "
        "black box"
    )


def _remove_missing_head(model: nn.Module, fit: Fit, source: str, size: Any) -> str | None:
    """Removes the head, with a warning, if it is all that the weights lack; returns its name, or None."""
    head = fit.missing_module(expected_by(model))
    if head is None:
        return None
    try:
        check_missing(model, fit.missing, source, size)
    except LookalikeError:
        return None  # loading reports it together with all other misfits
    without_head(model, head=head)
    warn_without_head(source, head)
    return head


def _warn_of_unused(checkpoint: Checkpoint, choice: Choice) -> None:
    unused = listing([repr(name) for name in choice.unused], 3)
    warn_of(
        f"of the weights in {str(checkpoint.path)!r}, {choice.label!r} fit the network and are used; {unused} are not"
    )


def _image_size_hint(fit: Fit, model: nn.Module) -> str:
    """Suggests the size of the images where position embeddings have another number of patches than the network's."""
    expected = expected_by(model)
    name = next((name for name in fit.reshaped if _POSITIONS.search(name)), None)
    if name is None:
        return ""
    given, own = tuple(fit.weights[name].shape), tuple(expected[name].shape)  # [1, tokens, D]
    if len(given) != 3 or len(own) != 3 or given[2] != own[2]:
        return ""  # another architecture
    argument = "img_size" if hasattr(model, "patch_embed") else "image_size"
    patch = next((tensor.shape[-1] for tensor in expected.values() if tensor.ndim == 4), None)
    side = _patches_per_side(given[1], own[1])
    size = "SIZE" if patch is None or side is None else side * patch
    return (
        f"; the position embeddings are of another image size than the network's: try --model-arg {argument}={size} "
        f"(model_args={{'{argument}': {size}}})"
    )


def _patches_per_side(*tokens: int) -> int | None:
    """Returns the side of the first square of patches, after as many other tokens in each; None if there is none."""
    for n_others in range(6):  # class and distillation tokens, and registers
        sides = [math.isqrt(max(n - n_others, 0)) for n in tokens]
        if all(side**2 == n - n_others for side, n in zip(sides, tokens, strict=True)):
            return sides[0]
    return None


def _hint(user_weights: UserWeights, choice: Choice, model: nn.Module) -> str:
    """Suggests what the user may have meant, for the end of an error message."""
    sets = user_weights.checkpoint.weights
    if choice.fit.is_full:
        return ""
    if len(sets) > 1 and user_weights.key is None:
        listed = ", ".join(repr(path) for path in list(sets)[:6])
        return f"; {choice.label!r} comes closest of {listed}: others can be chosen with --weights-key (weights_key=)"
    if choice.fit.missing_module(expected_by(model)):
        return (
            "; if that is the head and the checkpoint has none, give a network with nn.Identity() in its place, and "
            "--head output (head='output')"
        )
    sizes = choice.fit.sizes(expected_by(model))
    if sizes:  # all names fit: the order would change nothing
        of = " and ".join(f"{n:,} {name}" for name, n in sizes.items())
        return f"; the weights are those of a network of {of}: make such a network, or give the weights of this one"
    if user_weights.by_order or not user_weights.checkpoint.is_ordered:
        return ""
    try:
        fit_by_order = compare(pair_by_order(next(iter(sets.values())), model, any_shape=True), expected_by(model))
    except LookalikeError:
        return ""
    if not (fit_by_order.is_full or fit_by_order.sizes(expected_by(model))):
        return ""
    return "; all shapes fit in order, though: if it is the same architecture, use --weights-by-order (by_order=True)"
