"""Matches the outputs of a classifier with the classes of a prototype model."""

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
    quote_names,
    read_class_order,
)
from lookalike.encoder.cut import Encoder
from lookalike.encoder.outputs import Outputs

_WAY_OUT = "name the outputs in their order with --class-order (class_order=)"


@dataclass(frozen=True)
class ClassMap:
    """A mapping from the outputs of a classifier to the classes of a prototype model.

    Attributes:
        classes: The model's class for each of the n outputs [n]; K for outputs that are no class of the model. None if
            the outputs cannot be matched.
        n_classes: K, the number of the model's classes.
        basis: How they were matched: by ``"names"``, or by ``"position"``, where output k is class k.
        note: Why they could not be matched, or what was assumed.
    """

    classes: Tensor | None
    n_classes: int
    basis: Literal["names", "position"] | None
    note: str = ""


def map_classes(outputs: Outputs, class_names: Sequence[str]) -> ClassMap:
    """Matches a classifier's outputs with a model's classes: by name if both have names, else by position.

    The model may have fewer classes than the classifier. If only some names match, there is no match.
    """
    n, k = outputs.n_classes, len(class_names)
    by_position = ClassMap(torch.arange(n), k, "position") if n == k else None
    sizes = f"the black box has {n} classes and the model {k}"
    if n < k:
        sizes = f"is this the right checkpoint for these data? {sizes}"
    if outputs.names is None:
        return by_position or _unmatched(k, f"{sizes}, and its outputs have no names: {_WAY_OUT}")
    match = match_names(class_names, outputs.names)
    if match.complete:
        classes = torch.full((n,), k)
        classes[torch.tensor(match.positions)] = torch.arange(k)
        return ClassMap(classes, k, "names")
    names_note = f"the outputs' names are {quote_names(outputs.names)}"
    if match.ambiguous:
        ambiguous = quote_names(match.ambiguous)
        return _unmatched(k, f"the classes {ambiguous} fit several outputs; {names_note}: {_WAY_OUT}")
    if len(match.missing) < k:
        return _unmatched(
            k,
            f"the classes {quote_names(match.missing)} are not among the black box's outputs; {names_note}: {_WAY_OUT}",
        )
    if by_position is None:
        return _unmatched(k, f"{sizes}, and none has the same name; {names_note}: {_WAY_OUT}")
    if are_numbers(class_names):  # labels without names number the outputs
        return by_position
    note = (
        f"output k of the black box is taken for class k: {names_note}, and the classes' {quote_names(class_names)}; "
        f"if they are in another order, {_WAY_OUT}"
    )
    return ClassMap(by_position.classes, k, "position", note)


def ordered(encoder: Encoder, class_order: ClassOrder, class_names: Sequence[str] | None) -> Encoder:
    """Returns an encoder with the output names of ``class_order``; the same encoder without a class order.

    Args:
        encoder: A classifier, cut at its head.
        class_order: The names of the outputs, in any form that ``read_class_order`` reads.
        class_names: The names of the data's classes, or None.

    Raises:
        LookalikeError: If there is not one name per output, or a class of the data is not among the names.
    """
    if class_order is None:
        return encoder
    if encoder.outputs is None:
        raise LookalikeError("a class order was given, but the encoder has no class scores whose order could matter")
    output_names = read_class_order(class_order, class_names)
    assert output_names is not None  # None only without a class order
    outputs = check_class_order(encoder.outputs, output_names)
    if class_names is not None and not are_numbers(class_names):
        match = match_names(class_names, output_names)
        if not match.complete:
            raise LookalikeError(
                f"the class order does not name the classes {quote_names(match.missing or match.ambiguous)} once each; "
                f"it has {quote_names(output_names)}"
            )
    return encoder.with_outputs(outputs)


def _unmatched(n_classes: int, note: str) -> ClassMap:
    return ClassMap(None, n_classes, None, note)
