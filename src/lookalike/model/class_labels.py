"""The classes of data in a model's numbering."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike._core.names import name_key, visible
from lookalike._core.wording import did_you_mean
from lookalike.encoder.class_names import are_numbers, match_names


def numbers_of(labels: Any, model_names: Sequence[str]) -> list[int]:
    """Returns the numbers of classes that are given by number or by name.

    Raises:
        LookalikeError: If one is no class of the model.

    Example:
        >>> numbers_of(["owl", "crow"], ["crow", "owl"]), numbers_of([1, 0], ["crow", "owl"])
        ([1, 0], [1, 0])
    """
    names = list(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        numbers: list[int] = checks.class_indices("labels", labels, len(model_names)).tolist()
        return numbers
    number_by_key = {name_key(name): number for number, name in enumerate(model_names)}
    unknown = [name for name in names if name_key(name) not in number_by_key]
    if unknown:
        raise LookalikeError(
            f"{visible(unknown[0])!r} is none of the model's classes: {listing(list(model_names), 8)}"
            f"{did_you_mean(unknown[0], model_names)}"
        )
    return [number_by_key[name_key(name)] for name in names]


def check_named(labels: np.ndarray, names: Sequence[str], part: str) -> None:
    """Checks that data have a name for each of their labels.

    Raises:
        LookalikeError: If not.
    """
    if len(labels) and int(labels.max()) >= len(names):
        raise LookalikeError(
            f"there is a label {int(labels.max())} in the {part} data, and there are only {len(names)} class names"
        )


def labels_in_model(
    labels: np.ndarray, names: Sequence[str] | None, model_names: Sequence[str], part: str
) -> np.ndarray:
    """Returns labels [N] in a model's numbering: matched by name if both have names, else as they are.

    Args:
        labels: Labels in the numbering of the data [N].
        names: Names of the data's classes; None if they have none. Those without samples do not matter.
        model_names: Names of the model's classes.
        part: What the data are, for messages, e.g. ``"test"``.

    Raises:
        LookalikeError: If the data have a class that the model does not have.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if names is not None:
        check_named(labels, names, part)
    if names is not None and list(names) != list(model_names):
        present = np.unique(labels)
        match = match_names([names[k] for k in present], model_names)
        if match.complete:
            numbers = np.full(len(names), -1)
            numbers[present] = match.positions
            renumbered: np.ndarray = numbers[labels]
            return renumbered
        if match.ambiguous:
            raise LookalikeError(
                f"the {part} data have two classes that may be '{visible(match.ambiguous[0])}', or the model has: "
                f"{listing(list(names), 8)}; {listing(list(model_names), 8)}"
            )
        if not are_numbers(model_names) or len(match.missing) < len(present) or len(names) != len(model_names):
            raise LookalikeError(
                f"the {part} data have a class '{visible(match.missing[0])}', which is none of the model's: "
                f"{listing(list(model_names), 8)}"
            )
        if not are_numbers(names):
            pairs = [
                f"{visible(name)!r} is {visible(number)!r}" for name, number in zip(names, model_names, strict=True)
            ]
            warn_of(
                f"the model's classes have numbers for names, and those of the {part} data are matched with them in "
                f"their order: {listing(pairs, 4)}; if that is another order, give numbers"
            )
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(model_names)):
        label = int(labels.min() if labels.min() < 0 else labels.max())
        raise LookalikeError(f"the {part} data have a class {label}; the model has {len(model_names)} classes from 0")
    return labels
