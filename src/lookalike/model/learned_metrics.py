"""Similarities by a metric that is learned: from the training embeddings, or from the black box's head [ours]."""

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.model.covariance import RootInSpan, estimate_shrinkage, inverse_root
from lookalike.model.similarity import SIMILARITIES, Similarity, euclidean_distances, not_fitted, within_class_residuals


class _LearnedMetric(Similarity):
    """−‖T(z − p)‖ with a linear map T that ``fit`` learns.

    Attributes:
        transform: T [D, D]; None before ``fit``.
    """

    transform: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("transform", None)

    def project(self, embeddings: Tensor) -> Tensor:
        return embeddings @ self._fitted().to(embeddings.dtype).T

    def unproject(self, points: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.solve(self._fitted().double(), points.double().T)
        return inverse.T.to(points.dtype)

    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        prototypes = prototypes.to(embeddings.dtype)
        offset = prototypes.detach().mean(0)  # subtracted before the map, as T may stretch a common offset a lot
        return -euclidean_distances(self.project(embeddings - offset), self.project(prototypes - offset))

    def _fitted(self) -> Tensor:
        if self.transform is None:
            raise not_fitted(self)
        return self.transform


@SIMILARITIES.register("mahalanobis")
class Mahalanobis(_LearnedMetric):
    """−‖T(z − p)‖, where TᵀT is the inverse of the pooled within-class covariance of the training embeddings [ours].

    The covariance is shrunk towards a multiple of the identity, so that it can always be inverted. With a shrinkage of
    1 it is that multiple, and the similarity is ``l2`` up to a factor.

    Args:
        shrinkage: Amount of shrinkage in [0, 1]; None estimates it as Ledoit and Wolf (2004) do; with fewer than ten
            embeddings per dimension, it classifies each embedding without itself and takes the best.
        max_samples: Largest number of training embeddings to estimate from; larger sets are sampled evenly.
    """

    fits_to = "sample"
    falls_with_distance = True

    def __init__(self, shrinkage: float | None = None, max_samples: int = 100_000) -> None:
        super().__init__()
        self.shrinkage = None if shrinkage is None else checks.number("shrinkage", shrinkage, least=0, most=1)
        self.max_samples = checks.whole_number("max_samples", max_samples, 1)
        self.fit_samples = self.max_samples

    @override
    def fit(self, embeddings: np.ndarray, labels: np.ndarray, head_weight: Tensor | None = None) -> Self:
        residuals = self._fit_shrinkage(embeddings, labels)
        transform = inverse_root(residuals, self.shrinkage or 0.0)
        self.transform = torch.from_numpy(transform).to(_dtype_of(embeddings))
        return self

    @override
    def fit_and_project(
        self, train: np.ndarray, labels: np.ndarray, head_weight: Tensor | None, embeddings: Tensor
    ) -> Tensor:
        if len(train) >= train.shape[1]:
            return super().fit_and_project(train, labels, head_weight, embeddings)
        residuals = self._fit_shrinkage(train, labels)
        if not self.shrinkage:
            return super().fit_and_project(train, labels, head_weight, embeddings)
        root = RootInSpan.of(residuals, self.shrinkage)
        return torch.from_numpy(root.apply(embeddings.numpy())).to(embeddings.dtype)

    def _fit_shrinkage(self, embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Estimates the shrinkage, if it was not given; returns the embeddings minus the mean of their class [N, D]."""
        step = -(-len(embeddings) // self.max_samples)
        embeddings, labels = embeddings[::step], labels[::step]
        residuals = within_class_residuals(embeddings, labels)
        if self.shrinkage is None:
            self.shrinkage = estimate_shrinkage(embeddings, labels, residuals)
        return residuals

    @override
    def options(self) -> dict[str, Any]:
        return {"shrinkage": self.shrinkage, "max_samples": self.max_samples}


@SIMILARITIES.register("head")
class HeadMetric(_LearnedMetric):
    """−‖T(z − p)‖, where TᵀT = αI + WᵀW and W are the centred weights of the black box's head [ours].

    Directions in which the black box distinguishes classes count more. W has the rows of the head minus their mean,
    because the mean row changes all class scores alike.

    Args:
        alpha: α as a multiple of the mean eigenvalue of WᵀW, so that its effect is the same for any network.
    """

    fits_to = "head"
    falls_with_distance = True

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        self.alpha = checks.number("alpha", alpha, above=0)

    @override
    def fit(self, embeddings: np.ndarray, labels: np.ndarray, head_weight: Tensor | None = None) -> Self:
        if head_weight is None:
            raise LookalikeError(
                "the similarity 'head' needs the weights of a black box's linear head, and there is none; "
                "use 'mahalanobis', which learns its metric from the embeddings alone"
            )
        if head_weight.shape[1] != embeddings.shape[1]:
            raise LookalikeError(
                f"the head takes {head_weight.shape[1]} features and the embeddings have {embeddings.shape[1]}"
            )
        weight = head_weight.detach().double().cpu()
        if len(weight) > 1:
            weight = weight - weight.mean(0)
        metric = weight.T @ weight
        mean_eigenvalue = metric.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        metric = metric + self.alpha * mean_eigenvalue * torch.eye(len(metric), dtype=torch.float64)
        transform = torch.linalg.cholesky(metric).T
        self.transform = transform.to(_dtype_of(embeddings))
        return self

    @override
    def options(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


def _dtype_of(embeddings: np.ndarray) -> torch.dtype:
    """Returns the dtype to compute in: float64 for float64 embeddings, else float32."""
    return torch.float64 if embeddings.dtype == np.float64 else torch.float32
