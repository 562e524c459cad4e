"""Diversity of prototypes: D_dvs (paper section 4.3.4, equation 4)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.model.similarity import LogL2

REFERENCE_EPSILON = 1e-4  # ε of the authors' code [ref]

_CELLS = 4_000_000  # most similarities among prototypes in memory


def diversity(
    similarities: Tensor, prototype_labels: Tensor | None = None, *, within: Literal["all", "class"] = "all"
) -> float:
    """Returns D_dvs in [0, 1]: how alike the prototypes are to the model itself; lower is better.

    The mean over prototypes of H(softmax(S_j)) / ln P, with S_j a prototype's similarities to all P, itself included
    [ref]. It is 1 if all prototypes are equal. It depends on the scale of the similarity, so ``evaluate`` first divides
    by the model's temperature. For ``log`` similarities, ε alone nearly determines it: compare only models with equal
    options.

    Args:
        similarities: The model's own similarity among its prototypes [P, P]; ghosted prototypes stay in.
        prototype_labels: The prototypes' classes [P], for ``within="class"``.
        within: ``"class"`` compares only prototypes of the same class, and divides by ln L_k [ours]; classes with a
            single prototype are left out.

    Raises:
        LookalikeError: If there are fewer than two prototypes to compare, or the matrix is not square.

    Example:
        >>> round(diversity(torch.zeros(4, 4)), 6)
        1.0
    """
    similarities = checks.tensor("similarities", similarities, kind="number")
    checks.one_of("within", within, ("all", "class"))
    if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
        raise LookalikeError(f"similarities among prototypes are a square matrix, not {tuple(similarities.shape)}")
    if prototype_labels is not None:
        prototype_labels = checks.tensor("prototype_labels", prototype_labels, (len(similarities),), kind="whole")
    s = similarities.double()
    if within == "all":
        if len(s) < 2:
            raise LookalikeError("diversity compares prototypes, and there is only one")
        return float(_normalised_entropies(s).mean())
    if prototype_labels is None:
        raise LookalikeError("diversity within classes needs the prototypes' classes")
    groups = [torch.nonzero(prototype_labels == k)[:, 0] for k in prototype_labels.unique()]
    entropies = [_normalised_entropies(s[group][:, group]) for group in groups if len(group) > 1]
    if not entropies:
        raise LookalikeError("diversity within classes is not defined: no class has more than one prototype")
    return float(torch.cat(entropies).mean())


def diversity_of(
    similarity: Callable[[Tensor], Tensor], vectors: Tensor, prototype_labels: Tensor | None = None
) -> float:
    """Returns D_dvs, as ``diversity`` does, with only some rows of the matrix [P, P] in memory at a time.

    Args:
        similarity: Returns similarities of embeddings [n, D] to all prototypes [n, P].
        vectors: The prototypes [P, D].
        prototype_labels: The prototypes' classes [P]: compares only prototypes of the same class.

    Raises:
        LookalikeError: If there are fewer than two prototypes to compare.
    """
    if len(vectors) < 2:
        raise LookalikeError("diversity compares prototypes, and there is only one")
    step = max(1, _CELLS // len(vectors))
    total, n = 0.0, 0
    for start in range(0, len(vectors), step):
        s = similarity(vectors[start : start + step]).double()
        if prototype_labels is None:
            entropies = _normalised_entropies(s)
        else:
            same = prototype_labels[start : start + step, None] == prototype_labels
            sizes = same.sum(1)
            has_others = sizes > 1
            entropies = _normalised_entropies(
                s[has_others].masked_fill(~same[has_others], -torch.inf), sizes[has_others]
            )
        total += float(entropies.sum())
        n += len(entropies)
    if not n:
        raise LookalikeError("diversity within classes is not defined: no class has more than one prototype")
    return total / n


@keeps_torch_settings
@torch.no_grad()
def reference_diversity(prototypes: Tensor, epsilon: float = REFERENCE_EPSILON) -> tuple[float, float]:
    """Returns D_dvs as the authors' code computes it for KMEx, and the smallest value possible with this ε [ref].

    The similarity is always ``log-l2``, ln((d + 1) / (d + ε)), of unscaled distances: the figure depends on the scale
    of the embedding. Prototypes that are infinitely far apart reach the smallest value.

    Args:
        prototypes: Prototypes [P, D].
        epsilon: ε, 1e-4 in the authors' code.

    Raises:
        LookalikeError: If there are fewer than two prototypes.

    Example:
        >>> value, floor = reference_diversity(1e6 * torch.eye(50))
        >>> round(value, 4), round(floor, 4)
        (0.0127, 0.0127)
    """
    prototypes = checks.tensor("prototypes", prototypes, ("P", "D"), kind="number")
    epsilon = checks.number("epsilon", epsilon, above=0, below=1)
    similarity, n = LogL2(epsilon, scale=1.0), len(prototypes)
    value = diversity_of(lambda vectors: similarity(vectors, prototypes), prototypes)
    total = 1 / epsilon + n - 1  # softmax weights: 1/ε for a prototype itself, 1 for each other
    floor = (math.log(total) - (1 / epsilon) * math.log(1 / epsilon) / total) / math.log(n)
    return value, floor


def _normalised_entropies(s: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Returns the entropy of each row's softmax, divided by its maximum.

    Args:
        s: Similarities [n, P].
        sizes: Number of finite similarities in each row [n], the others being −∞; None if all are finite.
    """
    if bool(s.isnan().any()) or bool((s == torch.inf).any()):
        raise LookalikeError("the similarities of prototypes have NaN or infinite values, so they have no diversity")
    log_p = s.log_softmax(1)
    entropy = -(log_p.exp() * log_p).nan_to_num(0.0).sum(1)
    maximum = math.log(s.shape[1]) if sizes is None else sizes.double().log()
    return (entropy / maximum).clamp(0, 1)
