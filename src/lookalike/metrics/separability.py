"""Embedding diagnosis: is a black box's embedding separable enough to be converted?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.model.similarity import euclidean_distances

_CELLS = 8_000_000  # distances at a time


@dataclass(frozen=True)
class ClassSeparability:
    """How one class lies in the embedding.

    Attributes:
        label: The class.
        n: Number of its samples. All of them are compared with the prototypes.
        silhouette: Mean silhouette of a random part of its samples, among such parts of all classes, in [−1, 1]; above
            0 they are nearer to their own class than to the nearest other one on average. NaN where it is not defined.
        margin: Mean of (d_rival − d_own) / (d_rival + d_own), over the distances to the nearest prototype of another
            class and of the own, in [−1, 1].
        overlap: The share of samples nearer to another class's prototype than to any of their own.
        rival: The class that is the nearest other one most often; None with a single class.
    """

    label: int
    n: int
    silhouette: float
    margin: float
    overlap: float
    rival: int | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


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
    """Diagnoses an embedding class by class: margin and overlap on all samples, the silhouette on a random part.

    The silhouette compares all pairs of samples, so that all of them are too many.

    Args:
        embeddings: Training embeddings [N, D].
        labels: Their classes [N].
        prototypes: [P, D].
        prototype_labels: Their classes [P].
        per_class: The most samples of a class in the silhouette.
        seed: Seed for drawing these.
        project: Maps embeddings and prototypes into the space in which they are compared.

    Raises:
        LookalikeError: If there are no samples.
    """
    checks.whole_number("per_class", per_class, 1)
    checks.seed("seed", seed)
    prototypes = checks.tensor("prototypes", prototypes, ("P", "D"), kind="number", empty=False)
    prototype_labels = checks.tensor("prototype_labels", prototype_labels, (len(prototypes),), kind="whole")
    if not isinstance(embeddings, np.ndarray):
        embeddings = checks.tensor("embeddings", embeddings, kind="number")
    if embeddings.ndim != 2 or embeddings.shape[1] != prototypes.shape[1]:
        raise checks.unfit("embeddings", embeddings, f"embeddings [N, {prototypes.shape[1]}]")
    labels = checks.tensor("labels", labels, (len(embeddings),), kind="whole").cpu()
    if not len(labels):
        raise LookalikeError("there are no samples to compare")
    centres, owners = project(prototypes), prototype_labels

    def projected(rows: slice | np.ndarray) -> Tensor:
        part = embeddings[rows]
        return project(torch.as_tensor(np.array(part) if isinstance(part, np.ndarray) else part).to(prototypes))

    step = max(256, _CELLS // len(centres))
    parts = [slice(start, start + step) for start in range(0, len(labels), step)]
    found = [_nearest(projected(rows), labels[rows].to(owners.device), centres, owners) for rows in parts]
    own, rival, rival_class = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    silhouettes = _silhouettes(projected, labels.numpy(), per_class, seed)
    return [
        _of_class(k, labels == k, own, rival, rival_class, silhouettes.get(k, float("nan")))
        for k in labels.unique().tolist()
    ]


def _nearest(z: Tensor, y: Tensor, centres: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the distances [n] to the nearest prototype of the own and of another class, and that other class."""
    distances = euclidean_distances(z, centres)
    same = y[:, None] == owners
    own = distances.masked_fill(~same, torch.inf).amin(1)
    rival, winner = distances.masked_fill(same, torch.inf).min(1)
    return own, rival, owners[winner]


def _silhouettes(
    projected: Callable[[np.ndarray], Tensor], labels: np.ndarray, per_class: int, seed: int
) -> dict[int, float]:
    """Returns the mean silhouette of each class's random part; nothing where it is not defined."""
    from sklearn.metrics import silhouette_samples

    rng = np.random.default_rng(seed)
    present = np.unique(labels)
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in present]))
    if not 1 < len(present) < len(rows):
        return {}
    values = silhouette_samples(projected(rows).double().cpu().numpy(), labels[rows])
    return {int(k): float(values[labels[rows] == k].mean()) for k in present}


def _of_class(
    k: int, mine: Tensor, own: Tensor, rival: Tensor, rival_class: Tensor, silhouette: float
) -> ClassSeparability:
    own, rival, rival_class = own[mine], rival[mine], rival_class[mine]
    known = rival.isfinite() & own.isfinite()
    margins = torch.where(known, (rival - own) / (rival + own).clamp_min(1e-30), torch.nan)
    rivals = rival_class[rival.isfinite()]
    return ClassSeparability(
        label=k,
        n=len(own),
        silhouette=silhouette,
        margin=float(margins.mean()),
        overlap=float((rival < own).double().mean()),
        rival=int(rivals.mode().values) if len(rivals) else None,
    )
