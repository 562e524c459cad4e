"""Transparency: the share of prototypes that no training sample activates (paper section 4.3.1, equation 1)."""

from typing import Literal

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings

_ROWS = 16_384  # samples per batch


@keeps_torch_settings
@torch.no_grad()
def activation_counts(
    similarities: Tensor, labels: Tensor, prototype_labels: Tensor, scope: Literal["class", "all"] = "class"
) -> Tensor:
    """Counts how often each prototype is the most similar one for a training sample of its own class.

    Args:
        similarities: Similarities of the training samples to the prototypes [N, P].
        labels: The samples' classes [N].
        prototype_labels: The prototypes' classes [P].
        scope: Whether to compare only the prototypes of the sample's own ``"class"`` [ours], or ``"all"``.

    Returns:
        Counts [P].

    Raises:
        LookalikeError: If the scope is unknown.
    """
    checks.one_of("scope", scope, ("class", "all"))
    prototype_labels = checks.tensor("prototype_labels", prototype_labels, ("P",), kind="whole", empty=False)
    n_prototypes = len(prototype_labels)
    similarities = checks.tensor("similarities", similarities, ("N", n_prototypes), kind="number")
    if bool(similarities.isnan().any()):
        raise LookalikeError("similarities must not have NaN values: no prototype is the most similar one")
    labels = checks.tensor("labels", labels, (len(similarities),), kind="whole")
    if len(labels) and int(labels.min()) < 0:
        raise LookalikeError(f"labels are the numbers of classes, from 0, not {int(labels.min())}")
    counts = torch.zeros(n_prototypes, dtype=torch.int64)
    for s, y in zip(similarities.split(_ROWS), labels.split(_ROWS), strict=True):
        same_class = y[:, None] == prototype_labels
        nearest = (s.masked_fill(~same_class, -torch.inf) if scope == "class" else s).argmax(1)
        activated = nearest[prototype_labels[nearest] == y]
        counts += torch.bincount(activated.cpu(), minlength=n_prototypes)
    return counts


def ghosting(counts: Tensor) -> float:
    """Returns D_tsp, the share of prototypes that are never activated, in [0, 1]; lower is better.

    D_tsp = 1 − (1/P) Σ_j [some training sample of class c(j) activates prototype j]: our reading of equation 1
    [ours].

    Args:
        counts: Result of ``activation_counts`` [P].

    Raises:
        LookalikeError: If there are no prototypes.

    Example:
        >>> ghosting(torch.tensor([12, 0, 3, 5]))
        0.25
    """
    counts = checks.tensor("counts", counts, ("P",), kind="number")
    if not len(counts):
        raise LookalikeError("there are no prototypes")
    return float((counts == 0).double().mean())
