"""Where a session's embeddings come from: given ones, or the data, which are embedded once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.conversion.options import Reading
from lookalike.conversion.steps import as_batches, check_finite
from lookalike.data import Batches, DataBundle, load_for_model
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.checking import check_store
from lookalike.encoder import Encoder
from lookalike.model import PrototypeModel
from lookalike.model.class_labels import labels_in_model

_TRAINING_PARTS = ("training", "audited")
HELD_OUT_SHARE = 5  # every fifth training sample judges edits, if there are no validation data


class EditOptions(TypedDict, total=False):
    """Options of ``PrototypeModel.edit``; ``EditSession`` documents each."""

    embeddings: EmbeddingStore | None
    validation: Any
    test: Any
    who: str
    seed: int
    progress: bool | None


@dataclass(frozen=True, eq=False)
class Source:
    """Embedded data, with labels as the model numbers its classes.

    Attributes:
        store: The embeddings.
        labels: Classes [N].
        batches: The data; None if only their embeddings were given.
    """

    store: EmbeddingStore
    labels: np.ndarray
    batches: Batches | None


def source_of(
    model: PrototypeModel,
    data: Any,
    embeddings: EmbeddingStore | None = None,
    *,
    part: str = "training",
    progress: bool | None = None,
) -> Source:
    """Embeds data, or checks the embeddings that were given.

    Args:
        model: The model whose encoder embeds them.
        data: Data as for ``convert``, an ``EmbeddingStore``, or a ``DataBundle``: its training part to learn from or
            to audit, its test part otherwise.
        embeddings: Embeddings of these data, so that they need not be embedded again.
        part: Name of the data in messages.
        progress: Show a progress bar.

    Raises:
        LookalikeError: If the data have other classes than the model, or the embeddings are not theirs.
    """
    if isinstance(data, str | Path) and part not in _TRAINING_PARTS:
        data = load_for_model(data, model.preprocessing, model.training_record)
    if isinstance(data, DataBundle):
        data = data.train if part in _TRAINING_PARTS else data.test
    if isinstance(data, str | Path) and model.preprocessing is None:
        raise LookalikeError(f"the model does not say how to prepare the images of {str(data)!r}; give a data set")
    batches = None if isinstance(data, EmbeddingStore) else as_batches(data, Reading(), model.preprocessing, part=part)
    store = data if isinstance(data, EmbeddingStore) else embeddings
    if not isinstance(model.encoder, Encoder):
        if store is None:
            raise LookalikeError(f"a {type(model.encoder).__name__} cannot embed data; give their EmbeddingStore")
    elif store is None:
        store = embed(model.encoder, batches, progress=progress)
    else:
        check_store(store, model.encoder, batches)
    check_finite(store)
    if part == "training":
        _check_same_data(model, store, batches)
    names = store.class_names or (None if batches is None else batches.class_names)
    return Source(store, labels_in_model(store.labels, names, model.class_names, part), batches)


def read_images(source: Source, samples: np.ndarray) -> Tensor:
    """Returns some of the data's images as inputs of the network [n, C, H, W].

    Raises:
        LookalikeError: If they cannot be read again, or are not images of one size.
    """
    if source.batches is None or not source.batches.can_fetch:
        raise LookalikeError("the images themselves are needed: give the data, not only their embeddings")
    inputs = source.batches.fetch(samples)
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise LookalikeError("the data are not images of one size, so no part of them can be put on another")
    return inputs


def _check_same_data(model: PrototypeModel, store: EmbeddingStore, batches: Batches | None) -> None:
    """Checks that the training data are those of the conversion: prototypes name their samples by number.

    Raises:
        LookalikeError: If they are others.
    """
    record, fingerprint = model.training_record, store.info.get("data") if batches is None else None
    if record.is_all_of(batches, len(store), len(store.skipped), known=fingerprint) is not False:
        return
    if record.joined:
        difference = f"of {len(store):,} samples" if record.n_samples != len(store) else "with other files"
        number = "" if record.n_samples is None else f"{record.n_samples:,} samples, "
        raise LookalikeError(
            f"the model was made from {number}its updates included; the training data are {difference}. Give all "
            "of them, in the same order"
        )
    raise LookalikeError(
        "the training data are not those that the model was converted with, so the numbers of its prototypes' "
        "samples mean other images; give the same data (and validation=... for others to judge edits on)"
    )


def held_out_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns every fifth row of each class, drawn by a seed [N]; a class of fewer than five gives none."""
    seed = checks.seed("seed", seed)
    rng = np.random.default_rng([seed, 0x0ED17])
    held_out = np.zeros(len(labels), dtype=bool)
    for k in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == k))
        held_out[rows[: len(rows) // HELD_OUT_SHARE]] = True
    return held_out
