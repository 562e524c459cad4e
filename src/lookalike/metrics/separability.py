"""Diagnosis of an embedding: are its classes separated well enough for prototypes?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.embedding.silhouette import silhouettes
from lookalike.model.similarity import euclidean_distances

_CELLS = 8_000_000  # most distances in memory
_MOST_COMPARED = 30_000  # samples of which all pairs are compared


@dataclass(frozen=True)
class ClassSeparability:
    """How well one class is separated from the others in the embedding.

    Attributes:
        label: The class.
        n: Number of its samples. All of them are compared with the prototypes.
        silhouette: Mean silhouette of a random subset of its samples, among such subsets of all classes, in [−1, 1];
            above 0, they are nearer to their own class than to the nearest other class on average. NaN if undefined.
        margin: Mean of (d_rival − d_own) / (d_rival + d_own), in [−1, 1], with the distances to the nearest prototype
            of another class and of the sample's own class.
        overlap: Share of samples that are nearer to another class's prototype than to any of their own class.
        rival: The other class that is most often the nearest one; None with a single class.
        also_rival: Other classes that are the nearest one as often.
    """

    label: int
    n: int
    silhouette: float
    margin: float
    overlap: float
    rival: int | None
    also_rival: list[int] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@keeps_torch_settings
@torch.no_grad()
def separability(
    embeddings: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    prototypes: Tensor,
    prototype_labels: Tensor,
    *,
    per_class: int = 300,
    seed: int = 0,
    project: Callable[[Tensor], Tensor] = lambda z: z,
) -> list[ClassSeparability]:
    """Diagnoses an embedding class by class: margin and overlap on all samples, the silhouette on a random subset.

    The silhouette compares all pairs of samples, which is too slow on all of them.

    Args:
        embeddings: Training embeddings [N, D].
        labels: Their classes [N].
        prototypes: Prototypes [P, D].
        prototype_labels: Their classes [P].
        per_class: Maximum number of samples per class for the silhouette; with more than 30,000 in all, each class has
            fewer.
        seed: Seed for drawing these samples.
        project: Maps embeddings and prototypes into the space in which they are compared.

    Raises:
        LookalikeError: If there are no samples.
    """
    per_class = checks.whole_number("per_class", per_class, 1)
    seed = checks.seed("seed", seed)
    prototypes = checks.tensor("prototypes", prototypes, ("P", "D"), kind="number", empty=False)
    prototype_labels = checks.tensor("prototype_labels", prototype_labels, (len(prototypes),), kind="whole")
    if not isinstance(embeddings, np.ndarray):
        embeddings = checks.tensor("embeddings", embeddings, kind="number")
    if embeddings.ndim != 2 or embeddings.shape[1] != prototypes.shape[1]:
        raise checks.unfit("embeddings", embeddings, f"embeddings [N, {prototypes.shape[1]}]")
    labels = checks.tensor("labels", labels, (len(embeddings),), kind="whole").cpu()
    if not len(labels):
        raise LookalikeError("there are no samples to compare")
    projected_prototypes, class_of_prototype = project(prototypes), prototype_labels

    def projected(rows: slice | np.ndarray) -> Tensor:
        batch = embeddings[rows]
        return project(torch.as_tensor(np.array(batch) if isinstance(batch, np.ndarray) else batch).to(prototypes))

    step = max(256, _CELLS // len(projected_prototypes))
    slices = [slice(start, start + step) for start in range(0, len(labels), step)]
    distances = [
        _nearest(projected(rows), labels[rows].to(class_of_prototype.device), projected_prototypes, class_of_prototype)
        for rows in slices
    ]
    own_distance, rival_distance, rival_class = (torch.cat(column).cpu() for column in zip(*distances, strict=True))
    means = _silhouettes(projected, labels.numpy(), per_class, seed)
    return [
        _class_separability(k, labels == k, own_distance, rival_distance, rival_class, means.get(k, float("nan")))
        for k in labels.unique().tolist()
    ]


def _nearest(z: Tensor, y: Tensor, prototypes: Tensor, class_of_prototype: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the distances [n] to the nearest prototype of the own and of another class, and that class [n]."""
    distances = euclidean_distances(z, prototypes)
    same = y[:, None] == class_of_prototype
    own_distance = distances.masked_fill(~same, torch.inf).amin(1)
    rival_distance, rival_prototype = distances.masked_fill(same, torch.inf).min(1)
    return own_distance, rival_distance, class_of_prototype[rival_prototype]


def _silhouettes(
    projected: Callable[[np.ndarray], Tensor], labels: np.ndarray, per_class: int, seed: int
) -> dict[int, float]:
    """Returns the mean silhouette of a random subset of each class; empty if it is undefined."""
    rng = np.random.default_rng(seed)
    present = np.unique(labels)
    per_class = max(2, min(per_class, _MOST_COMPARED // len(present)))
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in present]))
    if not 1 < len(present) < len(rows):
        return {}
    values = silhouettes(projected(rows), labels[rows])
    return {int(k): float(values[labels[rows] == k].mean()) for k in present}


def _class_separability(
    k: int, members: Tensor, own_distance: Tensor, rival_distance: Tensor, rival_class: Tensor, silhouette: float
) -> ClassSeparability:
    own_distance, rival_distance, rival_class = own_distance[members], rival_distance[members], rival_class[members]
    defined = rival_distance.isfinite() & own_distance.isfinite()
    margins = torch.where(
        defined, (rival_distance - own_distance) / (rival_distance + own_distance).clamp_min(1e-30), torch.nan
    )
    rival_classes, counts = rival_class[rival_distance.isfinite()].unique(return_counts=True)
    rivals: list[int] = rival_classes[counts == counts.max()].tolist() if len(counts) else []
    return ClassSeparability(
        label=k,
        n=len(own_distance),
        silhouette=silhouette,
        margin=float(margins.mean()),
        overlap=float((rival_distance < own_distance).double().mean()),
        rival=rivals[0] if rivals else None,
        also_rival=rivals[1:],
    )
