"""ROAD: how often a prediction survives noisy linear imputation of its most relevant pixels. Co-12: correctness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.perturbation import checked_images, random_relevance, ranks_of
from lookalike.metrics.robustness import Scorer

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
# an imputed pixel is the weighted mean of its eight neighbours: direct ones 1/6, diagonal ones 1/12
_NEIGHBOURS = tuple(
    (down, right, 1 / 6 if 0 in (down, right) else 1 / 12)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
)


@dataclass(frozen=True)
class RoadCurve:
    """Share of images that keep their predicted class against the percentage of imputed pixels.

    Attributes:
        percentages: Percentages of imputed pixels [S].
        kept: Whether each image keeps its class [N, S].
        options: Noise, seed, and whether the order was random.
    """

    percentages: tuple[float, ...]
    kept: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """The share of images that keep their class [S]."""
        return self.kept.double().mean(0)

    @property
    def score(self) -> float:
        """The mean over the percentages, in [0, 1]; lower is better."""
        return float(self.mean.mean())


@keeps_torch_settings
@torch.no_grad()
def road(
    score: Scorer,
    inputs: Tensor,
    relevance: Tensor | None,
    *,
    classes: Tensor | None = None,
    percentages: Sequence[float] = PERCENTAGES,
    noise: float = 0.01,
    seed: int = 0,
    batch_size: int = 256,
) -> RoadCurve:
    """Imputes the most relevant pixels and counts the images that keep their class; fewer is better.

    Share of images with argmax f(x_p) = c, x_p with the p% most relevant pixels replaced by noisy linear imputation
    (Rong et al. 2022; Quantus: ``ROAD``), in [0, 1]. Co-12: correctness. Unlike black pixels,
    imputed ones hardly reveal to the network which pixels were removed. Compare it with a random order.

    Args:
        score: Maps inputs to class scores [n, K].
        inputs: Images [N, C, H, W].
        relevance: Relevance per pixel [N, H, W]; None takes a random order.
        classes: Class c per image [N]; None takes the class predicted for the full image.
        percentages: Percentages of pixels to impute, each above 0 and below 100.
        noise: Standard deviation of the normal noise on imputed pixels, in the units of the inputs.
        seed: Seed of the noise and the random order.
        batch_size: Most rows that pass through the model at once.

    Raises:
        LookalikeError: If the shapes do not fit, or an option is out of range.
    """
    seed = checks.seed("seed", seed)
    checks.number("noise", noise, least=0)
    steps = tuple(checks.number("percentages", percentage, above=0, below=100) for percentage in percentages)
    if not steps:
        raise LookalikeError("percentages must not be empty")
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    shape = checked_images(score, inputs, relevance)
    n, n_pixels = len(inputs), shape[0] * shape[1]
    order = random_relevance(n, shape, seed) if relevance is None else relevance
    ranks = ranks_of(order).view(n, *shape).cpu()
    target_classes = (
        torch.cat([score(batch).argmax(1) for batch in inputs.split(batch_size)])
        if classes is None
        else checks.tensor("classes", classes, (n,), kind="whole").to(inputs.device)
    )
    keeps_class = torch.zeros(n, len(steps), dtype=torch.bool)
    for column, percentage in enumerate(steps):
        removed = ranks < int(n_pixels * percentage / 100)
        for start in range(0, n, batch_size):
            rows = range(start, min(start + batch_size, n))
            imputed = [_impute_with_noise(inputs[row], removed[row], noise, (seed, row, column)) for row in rows]
            predicted = score(torch.stack(imputed)).argmax(1)
            keeps_class[rows.start : rows.stop, column] = (predicted == target_classes[rows.start : rows.stop]).cpu()
    return RoadCurve(steps, keeps_class, {"noise": noise, "seed": seed, "random_order": relevance is None})


def impute(image: Tensor, removed: Tensor) -> Tensor:
    """Replaces the removed pixels [H, W] of an image [C, H, W] by weighted means of their eight neighbours.

    Direct neighbours have weight 1/6, diagonal ones 1/12; at the edge of the image the weights of the existing
    neighbours are scaled up to sum to 1 (Rong et al. 2022, equation 4). The neighbours of a removed pixel may be
    removed too, so all removed pixels x_i are solved for together::

        (Σ_j w_ij) x_i − Σ_{j removed} w_ij x_j = Σ_{j present} w_ij x_j      for each removed pixel i

    This sparse system has one row per removed pixel. If all pixels are removed, they become the image's mean.

    Example:
        >>> image = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 9.0, 3.0], [1.0, 2.0, 3.0]]])
        >>> removed = torch.zeros(3, 3, dtype=torch.bool)
        >>> removed[1, 1] = True
        >>> round(float(impute(image, removed)[0, 1, 1]), 6)
        2.0
    """
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    if not bool(removed.any()):
        return image.clone()
    if bool(removed.all()):
        return image.mean((1, 2), keepdim=True).expand_as(image).clone()
    height, width = removed.shape
    removed_array = removed.cpu().numpy()
    values = image.detach().cpu().double().numpy()
    at_row, at_column = np.nonzero(removed_array)
    equation_of_pixel = np.full(removed_array.shape, -1)
    equation_of_pixel[removed_array] = np.arange(len(at_row))
    diagonal = np.zeros(len(at_row))
    right_side = np.zeros((len(at_row), len(values)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, right, weight in _NEIGHBOURS:
        row, column = at_row + down, at_column + right
        inside = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
        row, column = row[inside], column[inside]
        diagonal[inside] += weight
        neighbour = equation_of_pixel[row, column]
        is_removed = neighbour >= 0
        entries.append((inside[is_removed], neighbour[is_removed], np.full(int(is_removed.sum()), -weight)))
        right_side[inside[~is_removed]] += weight * values[:, row[~is_removed], column[~is_removed]].T
    entries.append((np.arange(len(at_row)), np.arange(len(at_row)), diagonal))
    rows, columns, weights = (np.concatenate(columns_of_entries) for columns_of_entries in zip(*entries, strict=True))
    solution = splu(csc_matrix((weights, (rows, columns)), shape=(len(at_row), len(at_row)))).solve(right_side)
    filled = image.clone()
    filled[:, removed.to(image.device)] = torch.from_numpy(solution.T.copy()).to(image)
    return filled


def _impute_with_noise(image: Tensor, removed: Tensor, noise: float, seed: tuple[int, int, int]) -> Tensor:
    """Imputes an image and adds normal noise to the imputed pixels."""
    filled = impute(image, removed)
    if noise:
        normal = np.random.default_rng(seed).standard_normal((len(image), int(removed.sum())))
        filled[:, removed.to(image.device)] += noise * torch.from_numpy(normal).to(image)
    return filled
