"""How far to shrink a within-class covariance that few samples estimate, for the similarity ``mahalanobis``.

The estimate of Ledoit and Wolf (2004) minimises the error of the covariance's entries, which is not what classifies
well. With fewer samples than ten per dimension it shrinks too little: directions count as constant only because few
samples were seen. So each amount is judged as in regularised discriminant analysis (Friedman, 1989): each sample is
left out in turn and classified by the others, in closed form.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lookalike.doubt import least_log_loss

FEW_PER_DIMENSION = 10  # samples: with more, the estimates of Ledoit and Wolf and by leaving out classify alike [ours]
_AMOUNTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)  # 1 is the Euclidean distance
_MOST_LEFT_OUT = 500  # samples; more hardly change the choice
_MOST_SCORES = 100_000  # left-out samples × classes, but at least 100 samples
_LEAST_LEFT_OUT = 100
_LEAST_GAIN = 1e-3  # of log loss per sample: less is rounding where all amounts separate the classes
_NEGLIGIBLE = 1e-10  # of the largest variance: a direction below is numerical noise


def least_confusing_shrinkage(embeddings: np.ndarray, labels: np.ndarray, first: float) -> float:
    """Returns the amount of shrinkage whose distance to the class means classifies left-out samples best.

    "Best" is the least log loss of a softmax over the negative distances, at the temperature that suits it best.

    Args:
        embeddings: Training embeddings [N, D].
        labels: Their classes [N].
        first: An amount that stays unless another is better, such as Ledoit and Wolf's.
    """
    left_out = _LeftOut.of(embeddings, labels)
    if left_out is None:
        return first
    amounts = [amount for amount in (first, *_AMOUNTS) if amount > 0]
    losses = {amount: least_log_loss(-left_out.distances(amount), left_out.own) for amount in amounts}
    best = min(losses, key=lambda amount: losses[amount])
    return best if losses[best] < losses.get(first, np.inf) - _LEAST_GAIN else first


@dataclass(frozen=True)
class _LeftOut:
    """Samples to leave out, in the directions V [r, D] of the variance within classes.

    With the residuals R [N, D], their scatter is RᵀR = Vᵀ diag(λ) V. Without a residual r of a class of n_k samples, it
    is RᵀR − n_k / (n_k − 1) r rᵀ: of rank one less, so that its inverse follows by the formula of Sherman and Morrison.

    Attributes:
        scatter: λ [r].
        samples: V z of the samples left out [n, r].
        residuals: V r of these [n, r].
        means: V m of the class means [K, r].
        outside: The part of ‖z − m‖² outside these directions [n, K].
        own: The class of each sample left out, as an index [n].
        growth: n_k / (n_k − 1) of each sample left out [n].
        n_samples: N.
        mean_variances: The mean variance of a direction without each sample [n].
    """

    scatter: np.ndarray
    samples: np.ndarray
    residuals: np.ndarray
    means: np.ndarray
    outside: np.ndarray
    own: np.ndarray
    growth: np.ndarray
    n_samples: int
    mean_variances: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, labels: np.ndarray) -> Self | None:
        """Prepares samples; None with one class, or where nothing varies within classes."""
        classes, own = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            return None
        n, dim = embeddings.shape
        counts = np.bincount(own)
        z = np.asarray(embeddings, np.float64 if embeddings.dtype == np.float64 else np.float32)
        z = z - z.mean(0)  # a common offset would cost digits
        means = np.stack([z[own == k].mean(0) for k in range(len(classes))])
        residuals = z - means[own]
        total = float(np.square(residuals, dtype=np.float64).sum())
        lengths = np.square(residuals, dtype=np.float64).sum(1)
        growth = counts[own] / np.maximum(counts[own] - 1, 1)
        mean_variances = (total - growth * lengths) / (max(n - 1, 1) * dim)
        usable = np.flatnonzero((counts[own] > 1) & (mean_variances > _NEGLIGIBLE * total / (n * dim)))
        if not len(usable):
            return None
        most = min(_MOST_LEFT_OUT, max(_LEAST_LEFT_OUT, _MOST_SCORES // len(classes)))
        rows = usable[:: -(-len(usable) // most)]
        scatter, directions = _decompose(residuals)
        left, middles = z[rows].astype(np.float64), means.astype(np.float64)
        projected, projected_means = left @ directions.T, middles @ directions.T
        outside = _squares(left, middles) - _squares(projected, projected_means)
        return cls(
            scatter, projected, residuals[rows] @ directions.T, projected_means, outside.clip(0), own[rows],
            growth[rows], n, mean_variances[rows],
        )  # fmt: skip

    def distances(self, amount: float) -> np.ndarray:
        """Returns the distances [n, K] of the samples to the class means, with an amount of shrinkage above 0."""
        n = self.n_samples - 1
        floor = amount * self.mean_variances[:, None]
        weights = 1 / ((1 - amount) * self.scatter / n + floor)  # [n, r]
        weighted, weighted_residuals = weights * self.samples, weights * self.residuals
        inside = (weighted * self.samples).sum(1, keepdims=True) - 2 * weighted @ self.means.T
        squares = inside + weights @ np.square(self.means).T + self.outside / floor
        products = (weighted_residuals * self.samples).sum(1, keepdims=True) - weighted_residuals @ self.means.T
        lengths = (weighted_residuals * self.residuals).sum(1)
        rows = np.arange(len(self.own))
        # without the sample, the mean of its own class is farther away: z − m = n_k / (n_k − 1) r
        squares[rows, self.own] = self.growth**2 * lengths
        products[rows, self.own] = self.growth * lengths
        removed = (1 - amount) / n * self.growth
        squares += (removed / (1 - removed * lengths))[:, None] * np.square(products)
        distances: np.ndarray = np.sqrt(squares.clip(0))
        return distances


def _decompose(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scatter λ [r] along the directions V [r, D] in which residuals [N, D] vary."""
    n, dim = residuals.shape
    is_flat = n < dim  # then the eigenvectors of the smaller R Rᵀ give the directions
    gram = (residuals @ residuals.T if is_flat else residuals.T @ residuals).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    is_kept = values > _NEGLIGIBLE * values[-1]
    values, vectors = values[is_kept], vectors[:, is_kept]
    directions = (vectors / np.sqrt(values)).T @ residuals.astype(np.float64) if is_flat else vectors.T
    return values, directions


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns squared Euclidean distances [n, K] between the rows of ``a`` and ``b``."""
    squares: np.ndarray = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
    return squares
