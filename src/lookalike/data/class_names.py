"""The names of a data set's classes, by the numbers that its samples carry."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from lookalike._core.names import text_of


def class_names_of(data: Any) -> list[str] | None:
    """Returns the names of the classes, by label; None if the data set does not tell them, or not for certain.

    ``class_to_idx`` goes before ``classes``, whose order is not always that of the labels, and what a
    ``target_transform`` makes of a label is that label's name. Labels that it merges have their names joined.
    """
    while isinstance(data, Subset):
        data = data.dataset
    if isinstance(data, ConcatDataset):
        parts = [class_names_of(part) for part in data.datasets]
        return parts[0] if all(names == parts[0] for names in parts) else None
    numbers = _numbers(data)
    names = _listed(data) if numbers is None else _without_gaps((k, name) for name, k in numbers.items())
    transform = getattr(data, "target_transform", None)
    return names if names is None or transform is None else _transformed(names, transform)


def _numbers(data: Any) -> dict[str, int] | None:
    numbers = getattr(data, "class_to_idx", None)
    if not isinstance(numbers, Mapping) or not numbers:
        return None
    if not all(isinstance(k, int) and not isinstance(k, bool) for k in numbers.values()):
        return None
    return {text_of(str(name)): int(k) for name, k in numbers.items()}


def _listed(data: Any) -> list[str] | None:
    names = getattr(data, "classes", None)
    if names is None:
        names = getattr(getattr(getattr(data, "features", None), "get", lambda _: None)("label"), "names", None)
    return (
        [text_of(str(name)) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else None
    )


def _transformed(names: Sequence[str], transform: Callable[[Any], Any]) -> list[str] | None:
    try:
        labels = [int(transform(k)) for k in range(len(names))]
    except Exception:  # a user's function, made for other labels
        return None
    return _without_gaps(zip(labels, names, strict=True))


def _without_gaps(pairs: Iterable[tuple[int, str]]) -> list[str] | None:
    by_label: dict[int, list[str]] = {}
    for label, name in pairs:
        by_label.setdefault(label, []).append(name)
    if set(by_label) != set(range(len(by_label))):
        return None
    return [", ".join(by_label[k]) for k in range(len(by_label))]
