"""What a conversion costs: the converted model beside its black box on the same samples."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike.embedding import EmbeddingStore, embed
from lookalike.metrics.black_box import find_black_box
from lookalike.metrics.context import aligned_labels
from lookalike.metrics.faithfulness import accuracy, agreement
from lookalike.metrics.transparency import activation_counts, ghosting
from lookalike.model import PrototypeModel

_ROWS = 8192  # embeddings compared at a time


@dataclass(frozen=True)
class Comparison:
    """A converted model beside its black box.

    Attributes:
        n_samples: On how many samples.
        accuracy: Of the converted model.
        black_box_accuracy: None where it cannot be told which of the black box's outputs is which class.
        agreement: The share of samples on which both predict the same; None likewise.
        notes: What is to be known about the black box, in sentences: why it was not compared with, what was assumed,
            whether it is no better than chance.
    """

    n_samples: int
    accuracy: float
    black_box_accuracy: float | None
    agreement: float | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def compare(model: PrototypeModel, data: Any, **options: Any) -> Comparison:
    """Compares a converted model with its black box, from one pass over the data.

    Args:
        model: The converted model.
        data: Samples with labels, or an ``EmbeddingStore`` of them.
        **options: For ``embed``: ``batch_size``, ``num_workers``, ``on_error``, ``progress``.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    store = data if isinstance(data, EmbeddingStore) else embed(model, data, **options)
    labels = aligned_labels(store, model, "test")
    predictions = predict_store(model, store)
    found, standing = find_black_box(model, None, None), None
    if found.box is not None:
        standing = found.box.stand_beside(model, labels, store, None)
    own = accuracy(predictions, labels)
    if standing is None or standing.predictions is None:
        lacking = [f"the black box is not compared with: {found.lacking}"] if found.lacking else []
        notes = lacking if standing is None else standing.notes
        return Comparison(len(store), own, None, None, notes)
    return Comparison(
        len(store),
        own,
        accuracy(standing.predictions, labels),
        agreement(predictions, standing.predictions),
        standing.notes,
    )


@torch.no_grad()
def store_ghosting(model: PrototypeModel, store: EmbeddingStore) -> float:
    """Returns D_tsp on stored training embeddings (paper, equation 1)."""
    _check(model, store)
    owners, counts = model.prototypes.labels, torch.zeros(len(model.prototypes), dtype=torch.int64)
    labels = torch.from_numpy(np.asarray(store.labels)).to(model.device)
    for z, y in zip(_parts(model, store), labels.split(_ROWS), strict=True):
        counts += activation_counts(model.similarities_of(z), y, owners)
    return ghosting(counts)


@torch.no_grad()
def predict_store(model: PrototypeModel, store: EmbeddingStore) -> Tensor:
    """Returns the predicted classes [N] of stored embeddings."""
    _check(model, store)
    return torch.cat([model.scores_of(z).argmax(1).cpu() for z in _parts(model, store)])


def _check(model: PrototypeModel, store: EmbeddingStore) -> None:
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.instance("store", store, EmbeddingStore, "an EmbeddingStore")


def _parts(model: PrototypeModel, store: EmbeddingStore) -> Iterator[Tensor]:
    for rows in store.parts(_ROWS):
        yield torch.from_numpy(np.array(store.embeddings[rows])).to(model.device)
