"""Finds the class names of a data set, in the order of its labels."""

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from lookalike._core.errors import LookalikeError, listing
from lookalike._core.names import text_of
from lookalike.data.samples import LABEL_KEYS


def class_names_of(data: Any) -> list[str] | None:
    """Returns the class names, by label; None if the data set does not have them, or they are not certain.

    ``class_to_idx`` is preferred to ``classes``, whose order is not always that of the labels. If a
    ``target_transform`` changes the labels, the names follow; the names of merged classes are joined by commas.
    """
    while isinstance(data, Subset):
        data = data.dataset
    if isinstance(data, ConcatDataset):
        return _names_of_parts([class_names_of(dataset) for dataset in data.datasets])
    label_of_name = _class_to_idx(data)
    if label_of_name is None:
        names = _classes_or_features(data)
    else:
        names = _names_by_label((k, name) for name, k in label_of_name.items())
    transform = getattr(data, "target_transform", None)
    return names if names is None or transform is None else _transformed_names(names, transform)


def _names_of_parts(names_of_each: list[list[str] | None]) -> list[str] | None:
    """Returns the class names that all parts of a data set have; None if they have none.

    Raises:
        LookalikeError: If the parts have other names: a label would mean another class in each.
    """
    first = names_of_each[0]
    if all(names == first for names in names_of_each):
        return first
    stated = [names for names in names_of_each if names is not None]
    if len(stated) < len(names_of_each):
        return None
    longest = max(stated, key=len)
    if all(names == longest[: len(names)] for names in stated):
        return longest
    for names in stated:
        # the same name at another label; names that are only spelled otherwise are no names to go by
        if any(name in longest and longest.index(name) != label for label, name in enumerate(names)):
            raise LookalikeError(
                f"the parts of the data number their classes in other ways ({listing(longest, 5)}; "
                f"{listing(names, 5)}), so that a label means another class in each: number them in one way"
            )
    return None


def _class_to_idx(data: Any) -> dict[str, int] | None:
    """Returns labels by name: of ``class_to_idx`` or another mapping, which may also be of names by label."""
    for attribute in ("class_to_idx", "classes", "class_names", "idx_to_class"):
        mapping = getattr(data, attribute, None)
        if isinstance(mapping, Mapping) and mapping:
            if _are_labels(mapping.values()):
                return {text_of(str(name)): int(k) for name, k in mapping.items()}
            if _are_labels(mapping.keys()):
                return {text_of(str(name)): int(k) for k, name in mapping.items()}
    return None


def _are_labels(values: Iterable[Any]) -> bool:
    return all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in values)


def _classes_or_features(data: Any) -> list[str] | None:
    """Returns torchvision's ``classes``, or ``class_names``, or the names in a Hugging Face data set's features."""
    features = getattr(getattr(data, "features", None), "get", lambda _: None)
    lists: list[Any] = [getattr(data, "classes", None), getattr(data, "class_names", None)]
    lists += [getattr(features(key), "names", None) for key in LABEL_KEYS]
    for names in lists:
        if isinstance(names, np.ndarray) or hasattr(names, "tolist"):  # also an index of pandas
            names = names.tolist()
        if isinstance(names, Sequence) and not isinstance(names, str):
            return [text_of(str(name)) for name in names]
    return None


def _transformed_names(names: Sequence[str], transform: Callable[[Any], Any]) -> list[str] | None:
    try:
        labels = [int(transform(k)) for k in range(len(names))]
    except Exception:  # the user's function may not accept every class's label
        return None
    return _names_by_label(zip(labels, names, strict=True))


def _names_by_label(pairs: Iterable[tuple[int, str]]) -> list[str] | None:
    """Returns the names in the order of their labels; None if the labels are not 0, 1, 2, … without a gap."""
    by_label: dict[int, list[str]] = {}
    for label, name in pairs:
        by_label.setdefault(label, []).append(name)
    if set(by_label) != set(range(len(by_label))):
        return None
    return [", ".join(by_label[k]) for k in range(len(by_label))]
