"""ROAD: remove pixels by noisy linear imputation and see whether the prediction stays. Co-12: correctness."""

from collections.abc import Callable, Mapping, Sequence
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
    """How many images keep their class while their most relevant pixels are imputed.

    Attributes:
        percentages: How many of the pixels are imputed, in percent [S].
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
    advance: Callable[[int], object] | None = None,
) -> RoadCurve:
    """Imputes the most relevant pixels and counts the images that keep their class; fewer is better.

    Share of images with argmax f(x_p) = c, x_p with the p% most relevant pixels replaced by noisy linear imputation
    (Rong et al. 2022; Quantus: ``ROAD``), in [0, 1]. Co-12: correctness. Imputed pixels tell the network less about
    which pixels are missing than black ones do. A random order is the reference.

    Args:
        score: Maps inputs to class scores [n, K].
        inputs: Images [N, C, H, W].
        relevance: Per pixel [N, H, W]; None takes a random order.
        classes: c per image [N]; None takes what is predicted for the whole image.
        percentages: Of pixels, each above 0 and below 100.
        noise: Standard deviation of the normal noise on imputed pixels, in the inputs' own unit.
        seed: For the noise and the random order.
        batch_size: The most rows that pass through the model at once.
        advance: Is called with the number of rows done.

    Raises:
        LookalikeError: If shapes do not fit, or an option is out of range.
    """
    checks.seed("seed", seed)
    checks.number("noise", noise, least=0)
    steps = tuple(checks.number("percentages", one, above=0, below=100) for one in percentages)
    if not steps:
        raise LookalikeError("percentages must not be empty")
    shape = checked_images(score, inputs, relevance, batch_size)
    n, n_pixels = len(inputs), shape[0] * shape[1]
    order = random_relevance(n, shape, seed) if relevance is None else relevance
    ranks = ranks_of(order).view(n, *shape).cpu()
    followed = (
        torch.cat([score(part).argmax(1) for part in inputs.split(batch_size)])
        if classes is None
        else checks.tensor("classes", classes, (n,), kind="whole").to(inputs.device)
    )
    kept = torch.zeros(n, len(steps), dtype=torch.bool)
    for column, percentage in enumerate(steps):
        removed = ranks < int(n_pixels * percentage / 100)
        for start in range(0, n, batch_size):
            rows = range(start, min(start + batch_size, n))
            filled = [_noisy(inputs[row], removed[row], noise, (seed, row, column)) for row in rows]
            predicted = score(torch.stack(filled)).argmax(1)
            kept[rows.start : rows.stop, column] = (predicted == followed[rows.start : rows.stop]).cpu()
            if advance is not None:
                advance(len(rows))
    return RoadCurve(steps, kept, {"noise": noise, "seed": seed, "random_order": relevance is None})


def impute(image: Tensor, removed: Tensor) -> Tensor:
    """Returns an image [C, H, W] whose removed pixels [H, W] are the weighted means of their eight neighbours.

    Direct neighbours have weight 1/6, diagonal ones 1/12; at the edge the weights of those that are there are scaled
    up to 1 (Rong et al. 2022, equation 4). A removed pixel's neighbours may be removed too: a sparse system of one
    equation per removed pixel is solved. If all pixels are removed, they become the image's mean.

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
    gone = removed.cpu().numpy()
    values = image.detach().cpu().double().numpy()
    at_row, at_column = np.nonzero(gone)
    number = np.full(gone.shape, -1)
    number[gone] = np.arange(len(at_row))
    diagonal = np.zeros(len(at_row))
    known = np.zeros((len(at_row), len(values)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, right, weight in _NEIGHBOURS:
        row, column = at_row + down, at_column + right
        there = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
        row, column = row[there], column[there]
        diagonal[there] += weight
        other = number[row, column]
        unknown = other >= 0
        entries.append((there[unknown], other[unknown], np.full(int(unknown.sum()), -weight)))
        known[there[~unknown]] += weight * values[:, row[~unknown], column[~unknown]].T
    entries.append((np.arange(len(at_row)), np.arange(len(at_row)), diagonal))
    rows, columns, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    solved = splu(csc_matrix((weights, (rows, columns)), shape=(len(at_row), len(at_row)))).solve(known)
    filled = image.clone()
    filled[:, removed.to(image.device)] = torch.from_numpy(solved.T.copy()).to(image)
    return filled


def _noisy(image: Tensor, removed: Tensor, noise: float, seed: tuple[int, int, int]) -> Tensor:
    """Returns an imputed image with normal noise on the imputed pixels."""
    filled = impute(image, removed)
    if noise:
        drawn = np.random.default_rng(seed).standard_normal((len(image), int(removed.sum())))
        filled[:, removed.to(image.device)] += noise * torch.from_numpy(drawn).to(image)
    return filled
