"""The head's own prototypes: a linear head already compares embeddings with one vector per class, its weights.

A class's score w_k · z + b_k is the similarity of the embedding to the prototype w_k under the dot product. So every
classifier with a linear head is a prototype model before any conversion, if a poor one: nothing says that a weight
lies near any image. As a ``PrototypeModel`` it has the same gallery, ghosting, diversity and report as its KMEx.

Source: the observation is that of the abstract of "Post-hoc Self-explanation of CNNs" (2026); the rest is [ours].
"""

import time
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike.conversion.assembling import ModelPieces, assemble, embeddings_record
from lookalike.conversion.options import Settings, refuse_options
from lookalike.conversion.steps import check_finite, class_names_of, cut_and_order, embed_or_check, open_data
from lookalike.conversion.survey import survey
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.encoder.calls import device_of, dtype_of, place
from lookalike.encoder.class_map import map_classes
from lookalike.encoder.head import CONVOLUTIONS, get_head
from lookalike.model import PrototypeModel
from lookalike.model.card import HEAD_METHOD
from lookalike.model.classifier import LinearHead
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import make_similarity

_CLUSTERING = (
    "advice",
    "working_folder",
    "similarity_options",
    "clusterer",
    "n_init",
    "memory_limit",
    "probabilities",
    "temperature",
)
_NOT_FOR_HEADS = dict.fromkeys(_CLUSTERING, "is an option of clustered prototypes: leave it out with level='head'")

_CHECKED, _TOLERANCE = 16, 0.02  # images, and probabilities, which networks in half precision round


def convert_head(model: nn.Module | LoadedClassifier, train: Any, settings: Settings) -> PrototypeModel:
    """Turns a classifier with a linear head into a prototype model with the head's weights; see ``lookalike.convert``.

    Raises:
        LookalikeError: If the head is not linear, its outputs are not the data's classes, or an option is one of
            clustering.
    """
    refuse_options(settings, _NOT_FOR_HEADS)
    started = time.perf_counter()
    batches, preprocessing = open_data(model, train, settings)
    encoder = cut_and_order(model, train, batches, settings)
    weight, bias = linear_head_of(encoder)
    store = embed_or_check(encoder, train, batches, settings, None)
    check_finite(store)
    class_names = class_names_of(settings, store)
    rows = _rows_of_classes(encoder, class_names)
    if batches is not None and batches.can_fetch and len(store):
        _check_weights(encoder, batches.fetch(store.indices[:_CHECKED].tolist()), weight, bias)
    n_classes = len(class_names)
    similarity = make_similarity("dot")
    learned = Prototypes(weight[rows].cpu().float().clone(), torch.arange(n_classes), class_names)
    prototypes = survey(
        learned, similarity, store.embeddings, store.labels, indices=store.indices,
        n_nearest=settings.gallery.n_nearest, nearest_from=settings.gallery.nearest_from, nearest_by="similarity",
    )  # fmt: skip
    classifier = LinearHead(
        torch.eye(n_classes, dtype=torch.float32), None if bias is None else bias[rows].cpu().float().clone()
    )
    provenance = {
        "method": HEAD_METHOD,
        "similarity": "dot",
        **embeddings_record(store),
    }
    pieces = ModelPieces(encoder, prototypes, similarity, classifier)
    return assemble(pieces, batches, preprocessing, settings, provenance, started)


def linear_head_of(encoder: Encoder) -> tuple[Tensor, Tensor | None]:
    """Returns the weights [C, D] of a classifier's head, and its biases [C] or None.

    Raises:
        LookalikeError: If the head is not one linear layer.
    """
    weight, head = (
        encoder.head_weight,
        None if encoder.head_name is None else get_head(encoder.model, encoder.head_name),
    )
    if weight is None or not isinstance(head, (nn.Linear, *CONVOLUTIONS)):
        kind = "no head" if head is None else f"a head of type {type(head).__name__}"
        raise LookalikeError(f"level='head' takes the weights of a linear head; this classifier has {kind}")
    if encoder.outputs is not None and len(weight) != encoder.outputs.n_columns:
        raise LookalikeError(
            f"the head {encoder.head_name!r} has {len(weight)} rows and the classifier {encoder.outputs.n_columns} "
            "class scores: something follows the head, and its weights are not the classes'"
        )
    return weight, None if head.bias is None else head.bias.detach()


def _check_weights(encoder: Encoder, inputs: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Checks on a few images that the head's weights alone give the classifier's answers.

    Raises:
        LookalikeError: If they do not: the head computes with others, or something follows it.
    """
    outputs = encoder.outputs
    if outputs is None or outputs.kind not in ("logits", "probabilities", "log-probabilities"):
        return
    with torch.no_grad():
        z, scores = encoder.embed_and_score(place(inputs, device_of(encoder.model), dtype_of(encoder.model)))
    assert scores is not None  # there are outputs
    by_weights = z.float().cpu() @ weight.float().cpu().T
    by_weights = by_weights if bias is None else by_weights + bias.float().cpu()
    expected, found = outputs.probabilities(scores.float().cpu()), by_weights.softmax(1)
    if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE):
        raise LookalikeError(
            f"the weights of the head {encoder.head_name!r} do not give the classifier's answers (its probabilities "
            f"differ by {float((found - expected).abs().max()):.2g}): the head computes with others, or something "
            "follows it; convert with level='image'"
        )


def _rows_of_classes(encoder: Encoder, class_names: list[str]) -> Tensor:
    """Returns which row of the head's weights is each class's [K].

    Raises:
        LookalikeError: If the outputs are not the classes.
    """
    outputs = encoder.outputs
    if outputs is None or outputs.n_columns < 2:
        raise LookalikeError("level='head' takes a head with an output per class; this one has a single output")
    matched = map_classes(outputs, class_names)
    if matched.classes is None:
        raise LookalikeError(f"the head's weights are not those of the data's classes: {matched.note}")
    rows = torch.full((len(class_names),), -1)
    for column, k in enumerate(matched.classes.tolist()):
        if k < len(class_names):
            rows[k] = column
    missing = torch.nonzero(rows < 0)[:, 0].tolist()
    if missing:
        raise LookalikeError(f"the head has no output for class {visible(class_names[missing[0]])!r}")
    return rows
