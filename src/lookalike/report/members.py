"""The training images behind each prototype, and those of other classes that look most like it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike.embedding import EmbeddingStore
from lookalike.metrics.context import aligned_labels
from lookalike.model import PrototypeModel

_ROWS = 8192  # embeddings compared with the prototypes at once


class Member(NamedTuple):
    """A training image that stands behind a prototype, or that it takes from another class.

    Attributes:
        number: Number of the image in the training data.
        label: Its class.
        distance: Its distance from the prototype.
    """

    number: int
    label: int
    distance: float


@dataclass(frozen=True)
class Members:
    """The training images of one prototype, nearest first.

    Attributes:
        own: Images of its class that look more like it than like the other prototypes of the class.
        taken: Images of other classes that look more like it than like any other prototype.
        n_own: Number of images of ``own``, of which only the nearest are listed.
        n_taken: Number of images of ``taken``, likewise.
    """

    own: list[Member]
    taken: list[Member]
    n_own: int
    n_taken: int


@torch.no_grad()
def members_of_prototypes(model: PrototypeModel, train: EmbeddingStore, most: int) -> list[Members]:
    """Returns the training images of each prototype, by the rules of its count and its purity.

    Args:
        model: A model whose prototypes are of whole images.
        train: Embeddings of its training data.
        most: Largest number of images to list of each kind.
    """
    labels = aligned_labels(train, model, "training")
    own, own_distances, nearest, distances = (torch.cat(parts) for parts in zip(*_compare(model, train), strict=True))
    is_taken = model.prototypes.labels.cpu()[nearest] != labels

    def listed(rows: Tensor, of: Tensor) -> list[Member]:
        order = rows[of[rows].argsort(stable=True)][:most].tolist()
        return [Member(int(train.indices[row]), int(labels[row]), float(of[row])) for row in order]

    members = []
    for j in range(len(model.prototypes)):
        own_rows = torch.nonzero(own == j)[:, 0]
        taken_rows = torch.nonzero(is_taken & (nearest == j))[:, 0]
        both = listed(own_rows, own_distances), listed(taken_rows, distances)
        members.append(Members(*both, len(own_rows), len(taken_rows)))
    return members


def _compare(model: PrototypeModel, train: EmbeddingStore) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Returns of each part of the images the prototype of their class, the one of all, and the distances from both."""
    prototype_labels, labels = model.prototypes.labels.cpu(), aligned_labels(train, model, "training")
    compared = []
    for rows in train.parts(_ROWS):
        z = torch.from_numpy(np.array(train.embeddings[rows])).to(model.device)
        similarities, distances = model.similarities_of(z).cpu(), model.distances_of(z).cpu()
        is_of_class = prototype_labels == labels[rows, None]
        own = similarities.masked_fill(~is_of_class, -torch.inf).argmax(1)
        own[~is_of_class.any(1)] = -1  # a class without prototypes
        nearest = similarities.argmax(1)
        of_own, of_nearest = (distances.gather(1, which.clamp_min(0)[:, None])[:, 0] for which in (own, nearest))
        compared.append((own, of_own, nearest, of_nearest))
    return compared
