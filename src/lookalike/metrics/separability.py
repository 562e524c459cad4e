"""Embedding diagnosis: is a black box's embedding separable enough to be converted?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike import checks
from lookalike.errors import LookalikeError

_CELLS = 8_000_000  # distances at a time


@dataclass(frozen=True)
class ClassSeparability:
    """How one class lies in the embedding.

    Attributes:
        label: The class.
        n: How many samples were looked at.
        silhouette: Mean silhouette of its samples, in [−1, 1]; above 0 they lie nearer to their own class than to the
            nearest other one on average. NaN where it is not defined.
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
) -> list[ClassSeparability]:
    """Diagnoses an embedding class by class, on a random part of the samples.

    Args:
        embeddings: Training embeddings [N, D], in the space in which prototypes are compared.
        labels: Their classes [N].
        prototypes: [P, D], in the same space.
        prototype_labels: Their classes [P].
        per_class: The most samples of a class to look at.
        seed: For which.

    Raises:
        LookalikeError: If there are no samples.
    """
    from sklearn.metrics import silhouette_samples

    checks.whole_number("per_class", per_class, 1)
    checks.seed("seed", seed)
    prototypes = checks.tensor("prototypes", prototypes, ("P", "D"), kind="number", empty=False)
    prototype_labels = checks.tensor("prototype_labels", prototype_labels, (len(prototypes),), kind="whole")
    if not isinstance(embeddings, np.ndarray):
        embeddings = checks.tensor("embeddings", embeddings, kind="number")
    if embeddings.ndim != 2 or embeddings.shape[1] != prototypes.shape[1]:
        raise checks.unfit("embeddings", embeddings, f"embeddings [N, {prototypes.shape[1]}]")
    labels = checks.tensor("labels", labels, (len(embeddings),), kind="whole").cpu().numpy()
    if not len(labels):
        raise LookalikeError("there are no samples to compare")
    rng = np.random.default_rng(seed)
    present = np.unique(labels)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in present]  # a class at a time
    )
    rows.sort()
    z = torch.as_tensor(np.array(embeddings[rows]) if isinstance(embeddings, np.ndarray) else embeddings[rows])
    y, owners = torch.from_numpy(labels[rows]).to(prototype_labels.device), prototype_labels
    own, rival, winner = _nearest_own_and_rival(z.to(prototypes), y, prototypes, owners)
    margins = torch.where(rival.isfinite() & own.isfinite(), (rival - own) / (rival + own).clamp_min(1e-30), torch.nan)
    silhouettes = np.full(len(rows), np.nan)
    if 1 < len(present) < len(rows):
        silhouettes = silhouette_samples(z.double().numpy(), labels[rows])
    found = []
    for k in present:
        members = labels[rows] == k
        mine = torch.from_numpy(members).to(owners.device)
        rivals = owners[winner[mine & rival.isfinite()]]
        found.append(
            ClassSeparability(
                label=int(k),
                n=int(members.sum()),
                silhouette=float(silhouettes[members].mean()),
                margin=float(margins[mine].mean()),
                overlap=float((rival < own)[mine].double().mean()),
                rival=int(rivals.mode().values) if len(rivals) else None,
            )
        )
    return found


def _nearest_own_and_rival(
    z: Tensor, labels: Tensor, prototypes: Tensor, owners: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns distances to the nearest prototype of the own class and of another [n], and which that other one is."""
    columns = []
    step = max(1, _CELLS // len(prototypes))
    for rows, y in zip(z.split(step), labels.split(step), strict=True):
        distances = torch.cdist(rows, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
        same = y[:, None] == owners
        own = distances.masked_fill(~same, torch.inf).amin(1)
        columns.append((own, *distances.masked_fill_(same, torch.inf).min(1)))
    own, rival, winner = (torch.cat(column) for column in zip(*columns, strict=True))
    return own, rival, winner
