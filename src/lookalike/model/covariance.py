"""A shrunk within-class covariance and its inverse square root, for the similarity ``mahalanobis``."""

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.model.shrinkage import FEW_PER_DIMENSION, least_confusing_shrinkage


def estimate_shrinkage(embeddings: np.ndarray, labels: np.ndarray, residuals: np.ndarray) -> float:
    """Returns how far to shrink the within-class covariance: Ledoit and Wolf's estimate, or one by leaving out.

    Args:
        embeddings: [N, D].
        labels: Their classes [N].
        residuals: The embeddings minus the mean of their class [N, D].
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    shrinkage = float(ledoit_wolf_shrinkage(residuals, assume_centered=True))
    n, dim = residuals.shape
    return least_confusing_shrinkage(embeddings, labels, shrinkage) if n < FEW_PER_DIMENSION * dim else shrinkage


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
    mean_variance = float(np.square(residuals, dtype=np.float64).sum()) / (n * dim)
    if not mean_variance > 0:
        return np.eye(dim)  # every class is a single point: no direction is known to matter less
    if n < dim and shrinkage > 0:
        return _in_the_span(residuals, shrinkage, mean_variance)
    covariance = (residuals.T @ residuals / n).astype(np.float64)
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


def _in_the_span(residuals: np.ndarray, shrinkage: float, mean_variance: float) -> np.ndarray:
    """Returns the symmetric T for fewer residuals than dimensions, without decomposing a matrix [D, D].

    In the directions V [r, D] of the residuals' span, C has the variances (1 − s) λ + s μ. In all others it has s μ.
    """
    _, singular, directions = np.linalg.svd(residuals.astype(np.float64), full_matrices=False)
    outside = shrinkage * mean_variance
    within = (1 - shrinkage) * np.square(singular) / len(residuals) + outside
    transform: np.ndarray = (directions.T * (within**-0.5 - outside**-0.5)) @ directions
    transform.flat[:: len(transform) + 1] += outside**-0.5
    return transform
