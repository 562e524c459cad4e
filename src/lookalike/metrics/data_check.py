"""Whether the data that a model is measured with are what they are taken for."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.model import PrototypeModel
from lookalike.model.similarity import euclidean_distances

# of the mean distance: half precision at conversion moves distances by 1% or so, other images by far more
_TOLERANCE = 0.05


@dataclass(frozen=True)
class DataCheck:
    """What is known about the data of an evaluation.

    Attributes:
        training_data: ``"same"`` if the training data given are those that the model was made from, ``"other"`` if
            they are not, None where there are none or nobody can tell.
        n_leaked: Number of test samples that are training images of the model.
        n_test: Number of test samples.
    """

    training_data: str | None
    n_leaked: int
    n_test: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Returns what a reader of the figures must know; nothing if all is well."""
        said = []
        if self.n_leaked:
            said.append(
                f"{self.n_leaked:,} of {self.n_test:,} test images are training images of the model: "
                "its accuracy on them says nothing about new images."
            )
        if self.training_data == "other":
            said.append(
                "The training data given are not those that the model was made from: what is said about its prototypes "
                "and its embedding holds for the data given, not for those it was made from."
            )
        return said


def check_data(
    model: PrototypeModel,
    test: Batches | None,
    test_store: EmbeddingStore,
    train: Batches | None,
    train_store: EmbeddingStore | None,
) -> DataCheck:
    """Compares the data of an evaluation with what the model remembers of its training data.

    Args:
        model: The model.
        test: The test data; None where only embeddings are at hand.
        test_store: Their embeddings.
        train: What was given as training data; None where that are only embeddings, or nothing.
        train_store: Their embeddings, or None.
    """
    return DataCheck(
        None if train_store is None else _same_training_data(model, train, train_store),
        _count_leaked(model, test, test_store),
        len(test_store),
    )


def _count_leaked(model: PrototypeModel, test: Batches | None, store: EmbeddingStore) -> int:
    record = model.training_record
    keys = None if test is None or record.keys is None else test.content_keys()
    if keys is not None and record.keys is not None:  # files: their contents decide, not their names and sizes
        return int(np.isin(keys, record.keys).sum())
    return len(store) if record.fingerprint is not None and store.info.get("data") == record.fingerprint else 0


def _same_training_data(model: PrototypeModel, train: Batches | None, store: EmbeddingStore) -> str | None:
    """Compares fingerprints and, where data came in another container, the samples that the model knows best.

    A loader and a pair of arrays with the same images have different fingerprints. But each prototype knows its
    nearest training samples by number, with their distances: the same samples are as far away again.
    """
    fingerprint, known = model.training_record.fingerprint, model.training_record.keys
    keys = None if train is None or known is None else train.content_keys()
    if keys is not None and known is not None:  # files: their contents decide, not their names and sizes
        return "same" if np.array_equal(keys, known) else "other"
    if fingerprint is not None and store.info.get("data") == fingerprint:
        return "same"
    nearest, distances = model.prototypes.nearest.cpu(), model.prototypes.distances.cpu()
    if fingerprint is None or "joined" in model.provenance or not (nearest >= 0).any():
        return None
    n_samples = model.provenance.get("n_samples")
    if n_samples is not None and n_samples != len(store):
        return "other"
    prototype, rank = torch.nonzero(nearest >= 0, as_tuple=True)
    order = np.argsort(store.indices)
    wanted = nearest[prototype, rank].numpy()
    position = np.searchsorted(store.indices, wanted, sorter=order)
    rows = order[position.clip(max=len(order) - 1)]
    if not np.array_equal(store.indices[rows], wanted):
        return "other"
    found = _paired_distances(model, store, rows, prototype)
    expected = distances[prototype, rank]
    apart = float((found - expected).abs().max())
    return "same" if apart <= _TOLERANCE * float(expected.mean()) + 1e-6 else "other"


@torch.no_grad()
def _paired_distances(model: PrototypeModel, store: EmbeddingStore, rows: np.ndarray, prototypes: Tensor) -> Tensor:
    """Returns the distance of each row [n] of a store to one prototype each [n], where the similarity clusters."""
    unique, position = np.unique(rows, return_inverse=True)
    z = torch.from_numpy(np.array(store.embeddings[unique])).to(model.device)
    project, vectors = model.similarity.project, model.prototypes.vectors
    among = euclidean_distances(project(z.to(vectors.dtype)), project(vectors)).cpu()
    return among[torch.from_numpy(position.reshape(-1)), prototypes]
