"""How unfamiliar an input is: scores from the prototypes, and conformal p-values that make them a test.

A p-value p means: if the input is like the validation images, a score as high as this one has a probability of at most
p. Calling inputs with p ≤ α unfamiliar is wrong for at most a share α of familiar ones (Bates et al. 2023).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core.errors import LookalikeError
from lookalike._core.registry import Registry

NOVELTIES: "Registry[type[Novelty]]" = Registry("novelty score")

DEFAULT_NOVELTY = "joint"  # near the best on all data, see docs/results/doubt.md
_FAMILIAR = 0.95  # share of familiar inputs with a joint score's part below 1
_SMALLEST_UNIT = 1e-12  # all familiar inputs can be at their prototypes
_MOST_NEIGHBOURS = 2_000  # fitted points that are kept


class Novelty(nn.Module, ABC):
    """Scores how unfamiliar inputs are; higher is more unfamiliar.

    All points are in the space in which the similarity clusters. What is fitted is kept in buffers.

    Attributes:
        name: Name under which it is registered and saved.
    """

    name: ClassVar[str]

    def fit(self, points: Tensor, centres: Tensor) -> Self:  # noqa: ARG002 - some scores learn nothing
        """Learns what the score needs from familiar inputs that are not used for the threshold.

        Args:
            points: Their embeddings [m, D].
            centres: The prototypes [P, D].
        """
        return self

    @abstractmethod
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        """Scores embeddings.

        Args:
            points: Embeddings [N, D].
            centres: The prototypes [P, D].
            spreads: Median distance of each prototype's own training samples [P], from ``usable_spreads``.

        Returns:
            Scores [N].
        """


@NOVELTIES.register("distance")
class Distance(Novelty):
    """The distance to the nearest prototype."""

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        return _distances(points, centres).amin(1)


@NOVELTIES.register("percentile")
class Percentile(Novelty):
    """The distance to a prototype over the median distance of its training samples; the smallest counts [ours].

    It orders inputs as their percentiles do, and continues beyond the farthest training sample, where percentiles end.
    """

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        return (_distances(points, centres) / spreads).amin(1)


@NOVELTIES.register("mahalanobis")
class Mahalanobis(Novelty):
    """The squared Mahalanobis distance to the nearest prototype (Lee et al. 2018, with prototypes for class means).

    The covariance is that around the nearest prototype, shrunk by the estimate of Ledoit and Wolf (2004).
    """

    transform: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("transform", torch.zeros(0, 0))

    @override
    def fit(self, points: Tensor, centres: Tensor) -> Self:
        nearest = _distances(points, centres).argmin(1)
        self.transform = _whitening(points - centres[nearest]).matrix
        return self

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        offset = centres.mean(0)
        return _squared_distances((points - offset) @ self.transform, (centres - offset) @ self.transform)


@NOVELTIES.register("direction")
class Direction(Mahalanobis):
    """The squared Mahalanobis distance of the direction to the nearest prototype's (Mueller and Hein, 2025).

    All embeddings are given the length 1. A network that has never seen an image of a kind often gives it an embedding
    of unusual length, which then dominates all other differences. But an image that is unusual for its length alone,
    such as an overexposed one, passes.
    """

    @override
    def fit(self, points: Tensor, centres: Tensor) -> Self:
        return super().fit(_directions(points), _directions(centres))

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        return super().forward(_directions(points), _directions(centres), spreads)


@NOVELTIES.register("joint")
class Joint(Novelty):
    """The score ``direction`` plus a quarter of ``mahalanobis``, so that an unusual length counts too [ours].

    Each is first divided by the value that 5% of familiar inputs exceed. The estimate leaves each input out of the
    covariance, since the distances of inputs that it was fitted to are far too short.
    """

    # a weight of 1 tells photographs apart less well; with 0.1 or less, images of unusual contrast count as familiar
    share_of_points: ClassVar[float] = 0.25
    of_directions: Tensor
    of_points: Tensor
    rests: Tensor
    units: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("of_directions", torch.zeros(0, 0))
        self.register_buffer("of_points", torch.zeros(0, 0))
        self.register_buffer("rests", torch.ones(2))
        self.register_buffer("units", torch.ones(2))

    @override
    def fit(self, points: Tensor, centres: Tensor) -> Self:
        whitenings, units = [], []
        for p, c in ((_directions(points), _directions(centres)), (points, centres)):
            whitening = _whitening(p - c[_distances(p, c).argmin(1)])
            familiar = whitening.left_out(_squared_distances(whitening.of(p), whitening.of(c)))
            whitenings.append(whitening)
            units.append(torch.quantile(familiar.double(), _FAMILIAR))
        self.of_directions, self.of_points = (whitening.factor for whitening in whitenings)
        self.rests = torch.stack([whitening.rest for whitening in whitenings])
        self.units = torch.stack(units).clamp_min(_SMALLEST_UNIT).to(points)
        return self

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        of_directions = _Whitening(self.of_directions, self.rests[0])
        of_points = _Whitening(self.of_points, self.rests[1])
        offset = centres.mean(0)
        directions = _squared_distances(of_directions.of(_directions(points)), of_directions.of(_directions(centres)))
        distances = _squared_distances(of_points.of(points - offset), of_points.of(centres - offset))
        return directions / self.units[0] + self.share_of_points * distances / self.units[1]


@NOVELTIES.register("likelihood-ratio")
class LikelihoodRatio(Mahalanobis):
    """The Mahalanobis distance to the nearest prototype minus that to a background (Ren et al. 2021).

    The background is one Gaussian for all familiar inputs. Whatever is unusual for every class, such as a bright image,
    cancels.
    """

    background: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("background", torch.zeros(0, 0))
        self.register_buffer("mean", torch.zeros(0))

    @override
    def fit(self, points: Tensor, centres: Tensor) -> Self:
        super().fit(points, centres)
        self.mean = points.mean(0)
        self.background = _whitening(points - self.mean).matrix
        return self

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        of_prototype = super().forward(points, centres, spreads)
        return of_prototype - ((points - self.mean) @ self.background).square().sum(1)


@NOVELTIES.register("neighbours")
class Neighbours(Novelty):
    """The distance to the k-th nearest of the fitted points and the prototypes (after Sun et al. 2022).

    Embeddings are not normalised [ours]. Those of at most 2,000 validation images are kept with the model.
    """

    k: ClassVar[int] = 5
    points: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("points", torch.zeros(0, 0))

    @override
    def fit(self, points: Tensor, centres: Tensor) -> Self:
        step = -(-len(points) // _MOST_NEIGHBOURS)
        self.points = points[::step].clone()
        return self

    @override
    def forward(self, points: Tensor, centres: Tensor, spreads: Tensor) -> Tensor:
        known_points = torch.cat([self.points, centres])
        return _distances(points, known_points).topk(min(self.k, len(known_points)), dim=1, largest=False).values[:, -1]


def fit_novelty(name: str, points: Tensor, centres: Tensor) -> Novelty:
    """Creates a registered score and fits it to familiar inputs.

    Args:
        name: Its name.
        points: Embeddings of familiar inputs [m, D], in the space in which the similarity clusters.
        centres: The prototypes [P, D].

    Raises:
        LookalikeError: If no score has that name, or there are no inputs.
    """
    if not len(points):
        raise LookalikeError("there are no embeddings to fit the novelty score to")
    return NOVELTIES[name]().fit(points, centres)


def conformal_p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Returns the p-values of scores [N]: (1 + number of calibration scores that are at least as high) / (n + 1).

    Args:
        scores: [N]; higher is more unfamiliar.
        calibration: Scores of familiar inputs, sorted [n].

    Example:
        >>> conformal_p_values(np.array([0.5, 9.0]), np.arange(4.0))
        array([0.8, 0.2])
    """
    n = len(calibration)
    p_values: np.ndarray = (1 + n - np.searchsorted(calibration, scores, side="left")) / (n + 1)
    return p_values


def novelty_threshold(calibration: np.ndarray, false_alarm: float) -> float:
    """Returns the score beyond which an input is unfamiliar: that of p-values of at most ``false_alarm``.

    Args:
        calibration: Scores of familiar inputs, sorted [n].
        false_alarm: Largest share of familiar inputs that may be called unfamiliar.

    Returns:
        The threshold: scores above it are unfamiliar; ∞ if n is too small.

    Example:
        >>> novelty_threshold(np.arange(99.0), 0.01), novelty_threshold(np.arange(98.0), 0.01)
        (98.0, inf)
    """
    n = len(calibration)
    n_above = int(np.floor(round(false_alarm * (n + 1), 9))) - 1
    return float("inf") if n_above < 0 else float(calibration[n - 1 - n_above])


def _distances(points: Tensor, centres: Tensor) -> Tensor:
    """Returns Euclidean distances [N, P], without differences of large squares."""
    if torch.compiler.is_compiling():  # a file has no operation for cdist, and takes few inputs at a time
        return (points[:, None] - centres).square().sum(2).sqrt()
    offset = centres.mean(0)
    distances: Tensor = torch.cdist(points - offset, centres - offset, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _directions(points: Tensor) -> Tensor:
    """Returns points [N, D] with the length 1."""
    return nn.functional.normalize(points, dim=1)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Returns the squared distance to the nearest centre [N]."""
    return _distances(points, centres).amin(1).square()


def usable_spreads(spreads: Tensor) -> Tensor:
    """Returns the spreads [P] of prototypes with the median of the others where one is unknown or 0; 1 if all are."""
    is_usable = torch.isfinite(spreads) & (spreads > 0)
    typical_spread = spreads[is_usable].median() if bool(is_usable.any()) else spreads.new_ones(())
    return torch.where(is_usable, spreads, typical_spread)


class _Whitening(NamedTuple):
    """A linear map after which familiar inputs vary alike in all directions: W = rest · I − factorᵀ factor.

    W Wᵀ is the inverse of their shrunk covariance. Few inputs vary in few directions, r, and in all others as the
    shrinkage says: so W is kept and applied as r rows, not as a matrix [D, D].

    Attributes:
        factor: [r, D].
        rest: What all other directions are multiplied by.
        share: Share of one residual's square in the covariance.
    """

    factor: Tensor
    rest: Tensor
    share: float = 0.0

    def of(self, points: Tensor) -> Tensor:
        """Returns the images of points [N, D]."""
        return self.rest * points - (points @ self.factor.T) @ self.factor

    @property
    def matrix(self) -> Tensor:
        """W as a matrix [D, D]."""
        return self.of(torch.eye(self.factor.shape[1]).to(self.factor))

    def left_out(self, distances: Tensor) -> Tensor:
        """Returns what the squared distances [n] of fitted inputs would be if each were left out of the covariance.

        By the formula of Sherman and Morrison, with the shrinkage as it is.
        """
        left_out: Tensor = distances / (1 - self.share * distances).clamp_min(1e-6)
        return left_out


def _whitening(residuals: Tensor) -> _Whitening:
    """Returns the map by the residuals' shrunk covariance (1 − s) S + s μ I, from their singular vectors.

    The shrinkage s is that of Ledoit and Wolf (2004). It depends on lengths and singular values alone.
    """
    values = residuals.double().cpu()
    n, dim = values.shape
    _, singular, directions = torch.linalg.svd(values, full_matrices=False)
    variances = singular.square() / n
    mean_variance = float(variances.sum()) / dim
    if not mean_variance > 0:  # all inputs are the same point: no direction is known to vary
        return _Whitening(torch.zeros(1, dim).to(residuals), torch.ones(()).to(residuals))
    squares = float(variances.square().sum())
    spread = squares / dim - mean_variance**2  # of the variances around their mean
    of_estimate = (float(values.square().sum(1).square().mean()) - squares) / (n * dim)  # what is due to chance
    shrinkage = min(of_estimate, spread) / spread if min(of_estimate, spread) > 0 else 0.0
    shrunk = (1 - shrinkage) * variances + shrinkage * mean_variance
    shrunk = shrunk.clamp_min(float(shrunk.max()) * 1e-10)
    of_others = shrinkage * mean_variance if n < dim else float(shrunk.min())  # of n ≥ D there are none
    rest = max(of_others, float(shrunk.max()) * 1e-10) ** -0.5
    factor = (rest - shrunk.rsqrt()).clamp_min(0).sqrt()[:, None] * directions
    return _Whitening(factor.to(residuals).contiguous(), torch.tensor(rest).to(residuals), (1 - shrinkage) / n)
