"""Reads a model's inputs in batches, with the labels and names that the caller gave or that come with the data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data import InputBatch
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.model.class_labels import labels_in_model
from lookalike.model.prototype_model import PrototypeModel


def labelled_batches(
    model: PrototypeModel, inputs: Any, labels: Sequence[int] | None, names: Sequence[str] | None, batch_size: int
) -> Iterator[InputBatch]:
    """Yields batches of inputs, with the labels and names that the caller gave or that come with the data.

    Labels that come with the data are used only if the data have class names, and all of them are the model's.

    Raises:
        LookalikeError: If the number of labels or names is not the number of inputs.
    """
    batches: Iterable[InputBatch] = model.read_inputs(inputs, batch_size)
    counts = {name: len(values) for name, values in (("labels", labels), ("names", names)) if values is not None}
    if isinstance(inputs, Tensor | np.ndarray):  # in memory already; other data are counted as they are read
        batches = list(batches)
        _check_counts(counts, sum(n_rows(batch.inputs) for batch in batches), is_all=True)
    first = 0
    for batch in batches:
        rows = n_rows(batch.inputs)
        _check_counts(counts, first + rows)
        batch_labels = None
        if batch.labels is not None and batch.class_names is not None:
            batch_labels = _labels_by_name(batch.labels, batch.class_names, model)
        if labels is not None:
            batch_labels = [int(label) for label in labels[first : first + rows]]
        batch_names: list[str | None] | None = batch.names
        if names is not None:
            batch_names = list(names[first : first + rows])
        for start in range(0, rows, batch_size):
            chunk = slice(start, start + batch_size)
            yield InputBatch(
                take_rows(batch.inputs, chunk),
                None if batch_names is None else batch_names[chunk],
                None if batch_labels is None else batch_labels[chunk],
            )
        first += rows
    _check_counts(counts, first, is_all=True)


def _labels_by_name(labels: Any, names: Sequence[str], model: PrototypeModel) -> list[int] | None:
    """Returns labels in the model's numbering; None if the data have a class that the model does not have."""
    of_data = checks.class_indices("labels", labels, len(names))
    try:
        numbers: list[int] = labels_in_model(of_data.numpy(), names, model.class_names, "given").tolist()
    except LookalikeError:
        return None
    return numbers


def _check_counts(counts: Mapping[str, int], n_inputs: int, is_all: bool = False) -> None:
    """Checks that there are as many labels and names as inputs, of which there may be more to come.

    Raises:
        LookalikeError: If there are not.
    """
    for name, count in counts.items():
        if n_inputs > count or (is_all and n_inputs < count):
            raise LookalikeError(f"there are {'' if is_all else 'at least '}{n_inputs} inputs and {count} {name}")
