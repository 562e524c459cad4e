"""Finds the class names of a data set, in the order of its labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Subset

from lookalike._core.names import text_of


def class_names_of(data: Any) -> list[str] | None:
    """Returns the class names, by label; None if the data set does not have them, or they are not certain.

    ``class_to_idx`` is preferred to ``classes``, whose order is not always that of the labels. If a
    ``target_transform`` changes the labels, the names follow; the names of merged classes are joined by commas.
    """
    while isinstance(data, Subset):
        data = data.dataset
    if isinstance(data, ConcatDataset):
        names_of_each = [class_names_of(dataset) for dataset in data.datasets]
        return names_of_each[0] if all(names == names_of_each[0] for names in names_of_each) else None
    label_of_name = _class_to_idx(data)
    if label_of_name is None:
        names = _classes_or_features(data)
    else:
        names = _names_by_label((k, name) for name, k in label_of_name.items())
    transform = getattr(data, "target_transform", None)
    return names if names is None or transform is None else _transformed_names(names, transform)


def _class_to_idx(data: Any) -> dict[str, int] | None:
    label_of_name = getattr(data, "class_to_idx", None)
    if not isinstance(label_of_name, Mapping) or not label_of_name:
        return None
    if not all(isinstance(k, int) and not isinstance(k, bool) for k in label_of_name.values()):
        return None
    return {text_of(str(name)): int(k) for name, k in label_of_name.items()}


def _classes_or_features(data: Any) -> list[str] | None:
    """Returns torchvision's ``classes``, or the names in ``features["label"]`` of a Hugging Face data set."""
    names = getattr(data, "classes", None)
    if names is None:
        names = getattr(getattr(getattr(data, "features", None), "get", lambda _: None)("label"), "names", None)
    return (
        [text_of(str(name)) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else None
    )


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
