"""Which output of a classifier is which class of a prototype model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike.encoder.class_names import (
    ClassOrder,
    are_numbers,
    check_class_order,
    match_names,
    read_class_order,
    some_names,
)
from lookalike.encoder.cut import Encoder
from lookalike.encoder.outputs import Outputs

_WAY_OUT = "name the outputs in their order with --class-order (class_order=)"


@dataclass(frozen=True)
class ClassMap:
    """Which class of a model each output of a classifier is.

    Attributes:
        classes: The model's class for each of the classifier's [n]; K for one that the model does not have. None if it
            cannot be told.
        n_classes: K.
        basis: How it was found: by ``"names"``, or output k is taken for class k by ``"position"``.
        note: What is to be known about it: why it cannot be told, or what was assumed.
    """

    classes: Tensor | None
    n_classes: int
    basis: Literal["names", "position"] | None
    note: str = ""


def map_classes(outputs: Outputs, class_names: Sequence[str]) -> ClassMap:
    """Matches a classifier's outputs with a model's classes: by name where both have names, else by position.

    The model may have fewer classes than the classifier. Names of which only some match are not guessed at.
    """
    n, k = outputs.n_classes, len(class_names)
    by_position = ClassMap(torch.arange(n), k, "position") if n == k else None
    sizes = f"the black box has {n} classes and the model {k}"
    if outputs.names is None:
        return by_position or _unmatched(k, f"{sizes}, and its outputs have no names: {_WAY_OUT}")
    match = match_names(class_names, outputs.names)
    if match.complete:
        classes = torch.full((n,), k)
        classes[torch.tensor(match.positions)] = torch.arange(k)
        return ClassMap(classes, k, "names")
    shown = f"the outputs' names are {some_names(outputs.names)}"
    if match.ambiguous:
        return _unmatched(k, f"the classes {some_names(match.ambiguous)} fit several outputs; {shown}: {_WAY_OUT}")
    if len(match.missing) < k:
        return _unmatched(
            k, f"the classes {some_names(match.missing)} are not among the black box's outputs; {shown}: {_WAY_OUT}"
        )
    if by_position is None:
        return _unmatched(k, f"{sizes}, and none has the same name; {shown}: {_WAY_OUT}")
    if are_numbers(class_names):  # labels without names number the outputs
        return by_position
    note = (
        f"output k of the black box is taken for class k: {shown}, and the classes' {some_names(class_names)}; "
        f"if they are in another order, {_WAY_OUT}"
    )
    return ClassMap(by_position.classes, k, "position", note)


def ordered(encoder: Encoder, class_order: ClassOrder, class_names: Sequence[str] | None) -> Encoder:
    """Returns an encoder whose outputs have the names that a user gave them; the same one if there are none.

    Args:
        encoder: A classifier, cut at its head.
        class_order: See ``read_class_order``.
        class_names: The data's names, or None.

    Raises:
        LookalikeError: If these are not the names of as many classes as the classifier has, or lack one of the data's.
    """
    if class_order is None:
        return encoder
    if encoder.outputs is None:
        raise LookalikeError("a class order was given, but the encoder has no class scores whose order could matter")
    given = read_class_order(class_order, class_names)
    assert given is not None  # noqa: S101 - as class_order is not
    outputs = check_class_order(encoder.outputs, given)
    if class_names is not None and not are_numbers(class_names):
        match = match_names(class_names, given)
        if not match.complete:
            raise LookalikeError(
                f"the class order does not name the classes {some_names(match.missing or match.ambiguous)} once each; "
                f"it has {some_names(given)}"
            )
    return encoder.with_outputs(outputs)


def _unmatched(n_classes: int, note: str) -> ClassMap:
    return ClassMap(None, n_classes, None, note)
