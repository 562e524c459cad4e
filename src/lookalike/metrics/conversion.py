"""Compares a converted model with its black box on the same samples: the accuracy that the conversion costs."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.untouched import keeps_torch_settings
from lookalike.embedding import EmbeddingStore, embed
from lookalike.metrics.black_box import find_black_box
from lookalike.metrics.class_order import untested_notes
from lookalike.metrics.context import aligned_labels, check_given_store, rows_of, rows_per_batch
from lookalike.metrics.faithfulness import accuracy, agreement
from lookalike.metrics.transparency import activation_counts, ghosting
from lookalike.model import PrototypeModel
from lookalike.model.class_labels import labels_in_model


@dataclass(frozen=True)
class Comparison:
    """Comparison of a converted model with its black box.

    Attributes:
        n_samples: Number of samples.
        accuracy: Accuracy of the converted model.
        black_box_accuracy: Accuracy of the black box; None if nobody can tell which of its outputs is which class.
        agreement: Share of samples on which both predict the same class; None in the same case.
        notes: Sentences about the black box (why it is missing, what was assumed, whether it is no better than chance)
            and about classes without a test image.
        tells_why: Whether the notes say why there is no black box.
    """

    n_samples: int
    accuracy: float
    black_box_accuracy: float | None
    agreement: float | None
    notes: list[str] = field(default_factory=list)
    tells_why: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; the notes speak for themselves."""
        return {name: value for name, value in asdict(self).items() if name != "tells_why"}


def compare(model: PrototypeModel, data: Any, **options: Any) -> Comparison:
    """Compares a converted model with its black box, from one pass over the data.

    Args:
        model: The converted model.
        data: Samples with labels, or an ``EmbeddingStore`` of them.
        **options: Options of ``embed``: ``batch_size``, ``num_workers``, ``on_error``, ``progress``.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    if isinstance(data, EmbeddingStore):
        check_given_store(data, model)
    store = data if isinstance(data, EmbeddingStore) else embed(model, data, **options)
    labels = aligned_labels(store, model, "test")
    predictions = predict_store(model, store)
    match, standing = find_black_box(model, None, None), None
    if match.box is not None:
        standing = match.box.compare_with_labels(model, labels, store, None)
    model_accuracy = accuracy(predictions, labels)
    of_classes = untested_notes(labels, model.class_names)
    if standing is None or standing.predictions is None:
        reasons = [f"the black box is not compared with: {match.reason}"] if match.reason else []
        notes = reasons if standing is None else standing.notes
        return Comparison(len(store), model_accuracy, None, None, [*notes, *of_classes], tells_why=bool(notes))
    return Comparison(
        len(store),
        model_accuracy,
        accuracy(standing.predictions, labels),
        agreement(predictions, standing.predictions),
        [*standing.notes, *of_classes],
    )


@keeps_torch_settings
@torch.no_grad()
def store_ghosting(model: PrototypeModel, store: EmbeddingStore) -> float:
    """Returns D_tsp on stored training embeddings (paper, equation 1)."""
    _check_arguments(model, store)
    owners, counts = model.prototypes.labels, torch.zeros(len(model.prototypes), dtype=torch.int64)
    matched = labels_in_model(store.labels, store.class_names, model.class_names, "training")
    labels = torch.from_numpy(matched).to(model.device)
    for rows in store.parts(rows_per_batch(model)):
        patches = model.patches_of(rows_of(store, rows, model.device))
        similarities = model.similarities_of(patches.flatten(0, 1))
        counts += activation_counts(similarities, labels[rows].repeat_interleave(patches.shape[1]), owners)
    return ghosting(counts)


@keeps_torch_settings
@torch.no_grad()
def predict_store(model: PrototypeModel, store: EmbeddingStore) -> Tensor:
    """Returns the predicted classes [N] of stored embeddings."""
    _check_arguments(model, store)
    parts = store.parts(rows_per_batch(model))
    return torch.cat([model.scores_of(rows_of(store, rows, model.device)).argmax(1).cpu() for rows in parts])


def _check_arguments(model: PrototypeModel, store: EmbeddingStore) -> None:
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.instance("store", store, EmbeddingStore, "an EmbeddingStore")
