"""The terms of the baselines' losses, as functions of tensors (paper, appendix A.2).

N samples, K classes, P prototypes, D dimensions. Each function returns a scalar to minimise, not yet weighted.
"""

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.model.similarity import squared_distances

_ENTROPY_FLOOR = 1e-12  # keeps the logarithm of a zero probability finite


def cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """Returns −mean_i ln softmax(scores_i)[y_i], for class scores [N, K] and classes y [N]."""
    return nn.functional.cross_entropy(scores, y)


def clustering(distances: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    """Returns mean_i min_{j: c(j) = y_i} d_ij: samples move towards a prototype of their class (ProtoPNet) [paper].

    Args:
        distances: Squared distances d [N, P].
        y: The samples' classes [N].
        labels: The prototypes' classes [P].
    """
    return distances.masked_fill(labels != y[:, None], torch.inf).min(1).values.mean()


def separation(distances: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    """Returns −mean_i min_{j: c(j) ≠ y_i} d_ij: samples move away from prototypes of other classes (ProtoPNet) [paper].

    Args:
        distances: Squared distances d [N, P].
        y: The samples' classes [N].
        labels: The prototypes' classes [P].
    """
    return -distances.masked_fill(labels == y[:, None], torch.inf).min(1).values.mean()


def off_class_sparsity(weight: Tensor, labels: Tensor) -> Tensor:
    """Returns Σ_k Σ_{j: c(j) ≠ k} |w_kj|: few prototypes vote for or against other classes (ProtoPNet) [paper].

    Args:
        weight: Weights of the linear head [K, P].
        labels: The prototypes' classes [P].
    """
    classes = torch.arange(len(weight), device=weight.device)
    return weight.abs().masked_fill(classes[:, None] == labels, 0).sum()


def reconstruction(images: Tensor, reconstructed: Tensor) -> Tensor:
    """Returns the mean squared error over all values: FLINT's input fidelity, ProtoVAE's reconstruction [paper]."""
    return nn.functional.mse_loss(reconstructed, images)


def output_fidelity(scores: Tensor, predictor_scores: Tensor) -> Tensor:
    """Returns −mean_i Σ_k softmax(f_i)_k ln softmax(g_i)_k: the interpreter g predicts what f predicts (FLINT) [paper].

    No gradient reaches f's scores; the caller detaches the hidden layers that g reads.

    Args:
        scores: Class scores of the interpreter g [N, K].
        predictor_scores: Class scores of the predictor f [N, K].
    """
    return nn.functional.cross_entropy(scores, predictor_scores.detach().softmax(1))


def conciseness(attributes: Tensor) -> Tensor:
    """Returns mean |Φ|, for attributes Φ [N, P]: few attributes are active (FLINT) [paper]."""
    return attributes.abs().mean()


def attribute_entropy(attributes: Tensor) -> Tensor:
    """Returns mean_i H(softmax |Φ_i|), for attributes Φ [N, P]: each sample has few attributes (FLINT) [paper]."""
    return _entropy(attributes.abs().softmax(1)).mean()


def attribute_diversity(attributes: Tensor) -> Tensor:
    """Returns −H(softmax mean_i |Φ_i|), for attributes Φ [N, P]: a batch has many attributes (FLINT) [paper]."""
    return -_entropy(attributes.abs().mean(0).softmax(0))


def divergence_from_prototypes(
    mean: Tensor, log_variance: Tensor, prototypes: Tensor, similarities: Tensor, y: Tensor, labels: Tensor
) -> Tensor:
    """Returns mean_i Σ_{j: c(j) = y_i} s_ij KL_ij / Σ_{j: c(j) = y_i} s_ij, KL_ij = KL(N(μ_i, σ_i²) ‖ N(p_j, I)) / D.

    Each sample's Gaussian moves towards those of its class's prototypes, weighted by similarity (ProtoVAE) [paper]. The
    divergence is per dimension, so that its weight is comparable between latent spaces [ref].

    Args:
        mean: μ [N, D].
        log_variance: ln σ² [N, D].
        prototypes: p [P, D].
        similarities: s, positive [N, P].
        y: The samples' classes [N].
        labels: The prototypes' classes [P].
    """
    variance_terms = (log_variance.exp() - 1 - log_variance).sum(1, keepdim=True)
    kl = 0.5 * (variance_terms + squared_distances(mean, prototypes)) / mean.shape[1]
    weight = similarities.masked_fill(labels != y[:, None], 0)
    return ((weight * kl).sum(1) / weight.sum(1)).mean()


def orthonormality(prototypes: Tensor, labels: Tensor) -> Tensor:
    """Returns (1/K) Σ_k ‖P̄_k P̄_kᵀ − I‖_F, with the centred prototypes P̄_k of class k [L_k, D] (ProtoVAE) [paper].

    Args:
        prototypes: Prototype vectors [P, D].
        labels: Their classes [P].

    Raises:
        LookalikeError: If there are no prototypes.
    """
    if not len(prototypes):
        raise LookalikeError("there are no prototypes")
    terms = []
    for k in labels.unique():
        vectors = prototypes[labels == k]
        centred = vectors - vectors.mean(0)
        eye = torch.eye(len(centred), dtype=centred.dtype, device=centred.device)
        terms.append(torch.linalg.matrix_norm(centred @ centred.T - eye))
    return torch.stack(terms).mean()


def _entropy(probabilities: Tensor) -> Tensor:
    """Returns Shannon entropies along the last axis, in nats."""
    return -(probabilities * probabilities.clamp_min(_ENTROPY_FLOOR).log()).sum(-1)
