"""The start of PRP: the relevance of an embedding's channels for its similarity to a prototype.

Sources: ``share`` is Gautam et al. 2023 [ref]; ``neuralized`` follows Kauffmann et al. 2022; the normalisation of
``gradient`` and ``neuralized``, and the contrasts of similarities without distances, are [ours].
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.model import PrototypeModel

PrpRule = Literal["share", "gradient", "neuralized"]
PRP_RULES: tuple[PrpRule, ...] = ("share", "gradient", "neuralized")
DEFAULT_RULE: PrpRule = "neuralized"  # the best of the three in the comparison of docs/results/prp-rules.md
_ONLY_CLASS_RULE: PrpRule = "gradient"

Contrast = Callable[[Tensor, Tensor, Tensor], Tensor]  # z, p, q [n, D] → [n, D]


def prp_rule(model: PrototypeModel, rule: PrpRule | None) -> PrpRule:
    """Returns the rule that PRP applies to a model's similarities.

    Args:
        model: The prototype model.
        rule: The rule; None takes ``neuralized``, or ``gradient`` if all prototypes have the same class, as there is no
            rival then.

    Raises:
        LookalikeError: If the rule is unknown, or it is ``neuralized`` and there is no rival.
    """
    one_class = len(model.prototypes.labels.unique()) < 2
    if rule is None:
        return _ONLY_CLASS_RULE if one_class else DEFAULT_RULE
    checks.one_of("rule", rule, PRP_RULES)
    if rule == "neuralized" and one_class:
        raise LookalikeError(
            "rule 'neuralized' compares a prototype with its strongest rival of another class, and all prototypes are "
            "of one class; take rule='gradient' or 'share'"
        )
    return rule


def channel_relevance(model: PrototypeModel, z: Tensor, prototypes: Tensor, rule: PrpRule) -> Tensor:
    """Returns the relevance of each channel for the similarity to one prototype per embedding [n, D].

    Args:
        model: The prototype model.
        z: Embeddings [n, D].
        prototypes: Index of the prototype to explain, per embedding [n].
        rule: With ``"share"``, each row sums to 1. With the others, the absolute values sum to 1, and channels that
            speak against the prototype are negative. In a model of patches, all relevance is that of the most similar
            patch.
    """
    if not model.has_patches:
        return _CHANNEL_RULES[rule](model, z, prototypes)
    patches = model.patches_of(z)
    rows = torch.arange(len(z), device=z.device)
    nearest = model.evidence_of(z)[rows, :, prototypes].argmax(1)
    relevance = torch.zeros_like(patches)
    relevance[rows, nearest] = _CHANNEL_RULES[rule](model, patches[rows, nearest], prototypes)
    return relevance.flatten(1)


def _share(model: PrototypeModel, z: Tensor, prototypes: Tensor) -> Tensor:
    """Returns shares in proportion to 1 / ((z_c − p_c)² + 1e-12) [ref]."""
    closeness = 1 / ((z - model.prototypes.vectors[prototypes].to(z.dtype)).square() + 1e-12)
    return closeness / closeness.sum(1, keepdim=True)


def _gradient(model: PrototypeModel, z: Tensor, prototypes: Tensor) -> Tensor:
    """Returns z_c ∂s/∂z_c, normalised."""
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        similarity = model.similarities_of(leaf).gather(1, prototypes[:, None]).sum()
        (gradient,) = torch.autograd.grad(similarity, leaf)
    return _normalised(z * gradient)


def _neuralized(model: PrototypeModel, z: Tensor, prototypes: Tensor) -> Tensor:
    """Returns contributions to the lead over q, the most similar prototype of another class, normalised."""
    vectors, labels = model.prototypes.vectors.to(z.dtype), model.prototypes.labels
    similarities = model.similarities_of(z).to(z.dtype)
    rivals = similarities.masked_fill(labels[None, :] == labels[prototypes][:, None], -torch.inf)
    p, q = vectors[prototypes], vectors[rivals.argmax(1)]
    contrast = _CONTRASTS.get(model.similarity.name)
    return _normalised(_distance_contrast(model, z, p, q) if contrast is None else contrast(z, p, q))


def _distance_contrast(model: PrototypeModel, z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Returns the channels' contributions to ‖T(z − q)‖² − ‖T(z − p)‖² = Σ_c 2 (TᵀT(p − q))_c (z_c − (p_c + q_c) / 2).

    T is the linear map to the space in which the prototypes are clustered: the identity for most similarities.
    """
    project = model.similarity.project
    # T is only known as a function: the gradient of Tz · T(p − q) with respect to z is TᵀT(p − q)
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        (direction,) = torch.autograd.grad((project(leaf) * project(p - q).detach()).sum(), leaf)
    return 2 * direction * (z - (p + q) / 2)


def _l1_contrast(z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return (z - q).abs() - (z - p).abs()


def _dot_contrast(z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return z * (p - q)


def _cosine_contrast(z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize
    return unit(z) * (unit(p) - unit(q))


def _ned_contrast(z: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Returns contributions to NED, Cov(z, p) / (Var z + Var p) − ½; a covariance is a sum over channels."""

    def covariances(prototype: Tensor) -> Tensor:
        a, b = z - z.mean(1, keepdim=True), prototype - prototype.mean(1, keepdim=True)
        spread = (a.square() + b.square()).sum(1, keepdim=True)
        return a * b / spread.clamp_min(torch.finfo(z.dtype).tiny)

    return covariances(p) - covariances(q)


def _normalised(relevance: Tensor) -> Tensor:
    """Scales relevance so that its absolute values sum to one.

    Dividing by the plain sum would flip all signs if the sum is negative, as it is when the rival is nearer.
    """
    return relevance / relevance.abs().sum(1, keepdim=True).clamp_min(1e-30)


_CONTRASTS: dict[str, Contrast] = {
    "l1": _l1_contrast,
    "dot": _dot_contrast,
    "cosine": _cosine_contrast,
    "ned": _ned_contrast,
}

_CHANNEL_RULES: dict[PrpRule, Callable[[PrototypeModel, Tensor, Tensor], Tensor]] = {
    "share": _share,
    "gradient": _gradient,
    "neuralized": _neuralized,
}
