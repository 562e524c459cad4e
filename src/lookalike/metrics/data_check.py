"""Checks the data of an evaluation: are test images leaked, and are the training data the model's own?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.data import Batches, TrainingRecord
from lookalike.embedding import EmbeddingStore
from lookalike.model import PrototypeModel

# relative to the mean distance: half precision at conversion changes distances by about 1%, other images by far more
_TOLERANCE = 0.05
_PAIRS = 4096  # of an embedding and a prototype at once


@dataclass(frozen=True)
class DataCheck:
    """What is known about the data of an evaluation.

    Attributes:
        training_data: ``"same"`` if the given training data are those the model was made from, ``"other"`` if they are
            not, None if there are none or nobody can tell.
        n_leaked: Number of test samples that are also training images of the model.
        n_test: Number of test samples.
        is_calibration: Whether the test data are those that the model was calibrated with, by their fingerprints.
    """

    training_data: str | None
    n_leaked: int
    n_test: int
    is_calibration: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Returns warnings for the reader of the figures; an empty list if all is well."""
        warnings = []
        if self.n_leaked:
            warnings.append(
                f"{self.n_leaked:,} of {self.n_test:,} test images are training images of the model: "
                "its accuracy on them says nothing about new images. 'lookalike audit DATA --model MODEL' lists them; "
                "take them out and evaluate again."
            )
        if self.is_calibration:
            warnings.append(
                "The test images are those that the model was calibrated with: its calibration on them says nothing "
                "about new images."
            )
        if self.training_data == "other":
            warnings.append(
                "The training data given are not those that the model was made from: what is said about its prototypes "
                "and its embedding holds for the data given, not for those it was made from."
            )
        return warnings


def check_data(
    model: PrototypeModel,
    test: Batches | None,
    test_store: EmbeddingStore,
    train: Batches | None,
    train_store: EmbeddingStore | None,
) -> DataCheck:
    """Compares the data of an evaluation with the model's record of its training data.

    Args:
        model: The model.
        test: The test data; None if there are only embeddings.
        test_store: Their embeddings.
        train: The given training data; None if there are none, or only embeddings.
        train_store: Their embeddings, or None.
    """
    return DataCheck(
        None if train_store is None else _compare_training_data(model, train, train_store),
        _count_leaked(model, test, test_store),
        len(test_store),
        _is_calibration(model, test, test_store),
    )


def _is_calibration(model: PrototypeModel, test: Batches | None, store: EmbeddingStore) -> bool:
    data = None if model.doubt is None else model.doubt.facts.data
    return TrainingRecord(data).has_fingerprint_of(test, store.info.get("data")) is True


def _count_leaked(model: PrototypeModel, test: Batches | None, store: EmbeddingStore) -> int:
    record = model.training_record
    keys = None if test is None or record.keys is None else test.content_keys()
    if keys is not None and record.keys is not None:  # for files, the contents decide, not names and sizes
        return int(np.isin(keys, record.keys).sum())
    if record.includes(test, store.info.get("data")):
        return len(store)
    # the same samples in another container have another fingerprint, and the same distances to the prototypes
    is_same = record.n_samples == len(store) and _compare_training_data(model, test, store) == "same"
    return len(store) if is_same else 0


def _compare_training_data(model: PrototypeModel, train: Batches | None, store: EmbeddingStore) -> str | None:
    """Compares contents or fingerprints and, where these cannot decide, distances to the prototypes.

    A loader and a pair of arrays with the same images have different fingerprints. But each prototype stores the
    numbers and distances of its nearest training samples: in the same data, these samples have the same distances.
    """
    record = model.training_record
    model_keys = record.keys
    keys = None if train is None or model_keys is None else train.content_keys()
    if keys is not None and model_keys is not None:  # for files, the contents decide, not names and sizes
        return "same" if np.array_equal(keys, model_keys) else "other"
    if record.has_fingerprint_of(train, store.info.get("data")):
        return "same"
    nearest, distances = model.prototypes.nearest.cpu(), model.prototypes.distances.cpu()
    if record.fingerprint is None or record.joined or not (nearest >= 0).any():
        return None
    if record.n_samples not in (None, len(store)):
        return "other"
    prototype, rank = torch.nonzero(nearest >= 0, as_tuple=True)
    order = np.argsort(store.indices)
    sample_numbers = nearest[prototype, rank].numpy()
    position = np.searchsorted(store.indices, sample_numbers, sorter=order)
    rows = order[position.clip(max=len(order) - 1)]
    if not np.array_equal(store.indices[rows], sample_numbers):
        return "other"
    positions = model.prototypes.positions
    patch = torch.zeros_like(rank) if positions is None else positions.cpu()[prototype, rank]
    measured = _paired_distances(model, store, rows, prototype, patch)
    expected = distances[prototype, rank]
    largest_error = float((measured - expected).abs().max())
    return "same" if largest_error <= _TOLERANCE * float(expected.mean()) + 1e-6 else "other"


@torch.no_grad()
def _paired_distances(
    model: PrototypeModel, store: EmbeddingStore, rows: np.ndarray, prototypes: Tensor, patch: Tensor
) -> Tensor:
    """Returns the distance [n] between each row and its prototype, in the space in which prototypes are clustered.

    Args:
        model: The model.
        store: Training embeddings.
        rows: Rows of the store [n].
        prototypes: One prototype per row [n].
        patch: Which patch of each row [n]; 0 for whole images.
    """
    vectors, distances = model.similarity.project(model.prototypes.vectors), []
    for start in range(0, len(rows), _PAIRS):  # a matrix of all rows and prototypes would not fit into memory
        chunk = slice(start, start + _PAIRS)
        z = torch.from_numpy(np.array(store.embeddings[rows[chunk]])).to(vectors)
        of_patch = model.patches_of(z)[torch.arange(len(z)), patch[chunk].to(z.device)]
        distances.append(
            (model.similarity.project(of_patch) - vectors[prototypes[chunk].to(z.device)]).norm(dim=1).cpu()
        )
    return torch.cat(distances)
