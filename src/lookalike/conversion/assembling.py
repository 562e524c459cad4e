"""The last step of every conversion: prototypes become a model that remembers the images that it was made from."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike._core.profiling import step
from lookalike._core.provenance import versions
from lookalike.conversion.options import Settings
from lookalike.conversion.out_of_core import bytes_of, streamed_classes
from lookalike.data import Batches, Preprocessing
from lookalike.embedding import EmbeddingStore
from lookalike.embedding.trial import TRIAL
from lookalike.encoder import Encoder
from lookalike.model import PrototypeModel
from lookalike.model.classifier import TransparentClassifier
from lookalike.model.images import Origin, read_prototype_images, read_prototype_names, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity


@dataclass(frozen=True)
class ModelPieces:
    """What a prototype model consists of.

    Attributes:
        encoder: Maps inputs to embeddings.
        prototypes: The prototypes, with their nearest training samples.
        similarity: Compares embeddings with prototypes.
        classifier: Turns similarities into class scores.
    """

    encoder: Encoder
    prototypes: Prototypes
    similarity: Similarity
    classifier: TransparentClassifier


def assemble(
    pieces: ModelPieces,
    batches: Batches | None,
    preprocessing: Preprocessing | None,
    settings: Settings,
    provenance: Mapping[str, Any],
    started: float,
) -> PrototypeModel:
    """Makes the model, with its prototypes' images and names read from the training data.

    Args:
        pieces: What it consists of.
        batches: The training data; None if there are only stored embeddings.
        preprocessing: What images go through before the model, if it is known.
        settings: The options of the conversion.
        provenance: What the conversion records; the split and the time are added.
        started: When the conversion began, by ``time.perf_counter``.
    """
    with step("read the prototypes' images"):
        images, value_range = read_prototype_images(
            batches, pieces.prototypes, settings.gallery.n_images, preprocessing
        )
        names = read_prototype_names(batches, pieces.prototypes)
    with step("remember the training images"):
        split, keys = record_of(batches)
    return PrototypeModel(
        pieces.encoder,
        pieces.prototypes,
        pieces.similarity,
        pieces.classifier,
        preprocessing=preprocessing,
        origin=Origin(
            images=images,
            value_range=value_range,
            provenance={**provenance, "split": split, "convert_seconds": round(time.perf_counter() - started, 3)},
            training_keys=keys,
            training_names=names,
        ),
    )


def embeddings_record(store: EmbeddingStore) -> dict[str, Any]:
    """Returns what a model records about its training embeddings."""
    return {
        "n_samples": len(store),
        "skipped": len(store.skipped),
        "next_sample": store.next_index,
        "precision": store.info.get("precision", "float32"),
        "precision_effect": store.info.get("precision_effect"),
        **({TRIAL: store.info[TRIAL]} if TRIAL in store.info else {}),
        "fingerprints": {key: store.info.get(key) for key in ("weights", "data", "transform")},
        "versions": versions(),
    }


def memory_record(labels: np.ndarray, n_dimensions: int, class_names: list[str], settings: Settings) -> dict[str, Any]:
    """Returns what a model records about the memory of its clustering: the limit, and classes clustered in parts.

    Args:
        labels: Labels of what was clustered [n].
        n_dimensions: Its dimensions.
        class_names: The names of the classes.
        settings: The options of the conversion.
    """
    limit = settings.clustering.memory_limit
    large = streamed_classes(np.bincount(labels), n_dimensions, limit)
    return {"clustered_in_parts": [class_names[k] for k in large], "memory_limit": bytes_of(limit)}
