"""A shrunk within-class covariance and its inverse square root, for the similarity ``mahalanobis``."""

from dataclasses import dataclass

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.model.shrinkage import FEW_PER_DIMENSION, least_confusing_shrinkage

_ROWS = 4_096  # multiplied in the precision of the data, before their sum is added to a total in double precision


def estimate_shrinkage(embeddings: np.ndarray, labels: np.ndarray, residuals: np.ndarray) -> float:
    """Returns how far to shrink the within-class covariance: Ledoit and Wolf's estimate, or one by leaving out.

    Args:
        embeddings: [N, D].
        labels: Their classes [N].
        residuals: The embeddings minus the mean of their class [N, D].
    """
    shrinkage = ledoit_wolf(residuals)
    n, dim = residuals.shape
    return least_confusing_shrinkage(embeddings, labels, shrinkage) if n < FEW_PER_DIMENSION * dim else shrinkage


def ledoit_wolf(residuals: np.ndarray) -> float:
    """Returns the amount of shrinkage of Ledoit and Wolf (2004) for points X [n, D] whose mean is 0.

    It is the variance of the covariance S = XᵀX/n about the true one, as a share of the distance of S from a multiple
    of the identity. Both need little of X: Σ‖x‖², Σ‖x‖⁴ and ‖XᵀX‖² = ‖XXᵀ‖², the smaller of which is formed.

    Example:
        >>> ledoit_wolf(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]]))
        0.640625
    """
    n, dim = residuals.shape
    if dim == 1:
        return 0.0  # a multiple of the identity already
    blocks = np.split(residuals, range(_ROWS, n, _ROWS))
    squared_norms = np.concatenate([np.square(block, dtype=np.float64).sum(1) for block in blocks])
    products = _sum_of_outer_products(residuals.T if n < dim else residuals)
    squared_covariance = float(np.square(products).sum()) / n**2
    mean_variance = float(squared_norms.sum()) / (n * dim)
    distance = squared_covariance - dim * mean_variance**2
    variance = min((float(np.square(squared_norms).mean()) - squared_covariance) / n, distance)
    return variance / distance if variance > 0 else 0.0


def inverse_root(residuals: np.ndarray, shrinkage: float) -> np.ndarray:
    """Returns T [D, D] with TᵀT = C⁻¹, where C is the residuals' covariance, shrunk towards a multiple of the identity.

    Args:
        residuals: Embeddings minus the mean of their class [N, D].
        shrinkage: Amount of shrinkage s in [0, 1].

    Returns:
        T, float64.

    Raises:
        LookalikeError: If the covariance cannot be inverted.
    """
    n, dim = residuals.shape
    if n < dim and shrinkage > 0:
        return RootInSpan.of(residuals, shrinkage).dense()
    covariance = _sum_of_outer_products(residuals) / n
    mean_variance = float(np.trace(covariance)) / dim
    if not mean_variance > 0:
        return np.eye(dim)  # every class is a single point: no direction is known to matter less
    covariance *= 1 - shrinkage
    covariance.flat[:: dim + 1] += shrinkage * mean_variance
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise LookalikeError(
            f"the within-class covariance cannot be inverted with shrinkage={shrinkage}: "
            "some direction of the embedding never varies; use a larger shrinkage, or None"
        ) from error
    from scipy.linalg import solve_triangular

    inverse: np.ndarray = solve_triangular(lower, np.eye(dim), lower=True)  # TᵀT = (L Lᵀ)⁻¹ for T = L⁻¹
    return inverse


@dataclass(frozen=True)
class RootInSpan:
    """The symmetric T of ``inverse_root`` for fewer residuals X than dimensions: T = α·I − Xᵀ M X.

    Attributes:
        scale: α.
        residuals: X [n, D], float64.
        core: M [n, n], symmetric.
    """

    scale: float
    residuals: np.ndarray
    core: np.ndarray

    @classmethod
    def of(cls, residuals: np.ndarray, shrinkage: float) -> "RootInSpan":
        """Returns T, for an amount of shrinkage above 0.

        Only XXᵀ = U Λ Uᵀ [n, n] is decomposed. With v = Xᵀu/√λ, C has the variance w = (1 − s) λ/n + s μ in the
        direction v, and o = s μ outside the span. So T = o^-½ I + Σ (w^-½ − o^-½) v vᵀ, in which λ cancels:
        (w^-½ − o^-½) / λ = −(1 − s)/n / (√w √o (√w + √o)). No direction is divided by its length.
        """
        n, dim = residuals.shape
        residuals = residuals.astype(np.float64)
        products = residuals @ residuals.T
        outside = shrinkage * float(products.trace()) / (n * dim)
        if not outside > 0:  # every class is a single point: no direction is known to matter less
            return cls(1.0, residuals, np.zeros_like(products))
        eigenvalues, directions = np.linalg.eigh(products)
        share = (1 - shrinkage) / n
        within, root = np.sqrt(share * eigenvalues.clip(0) + outside), float(np.sqrt(outside))
        core = (directions * (share / (within * root * (within + root)))) @ directions.T
        return cls(1 / root, residuals, core)

    def dense(self) -> np.ndarray:
        """Returns T [D, D]."""
        transform: np.ndarray = -(self.residuals.T @ (self.core @ self.residuals))
        transform.flat[:: len(transform) + 1] += self.scale
        return transform

    def apply(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns T z of embeddings [N, D], without forming T."""
        mapped: np.ndarray = self.scale * embeddings.astype(np.float64)
        mapped -= ((embeddings @ self.residuals.T) @ self.core) @ self.residuals
        return mapped


def _sum_of_outer_products(rows: np.ndarray) -> np.ndarray:
    """Returns XᵀX [D, D], float64, of X [n, D]."""
    total = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        total += block.T @ block
    return total
