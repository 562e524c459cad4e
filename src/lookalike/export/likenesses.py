"""The most similar prototypes in a plain graph: their numbers, percentiles, and whether an input is unfamiliar."""

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike.export.order import StableOrder
from lookalike.model.prototypes import ENOUGH_SAMPLES, ROUNDING, Prototypes


def rows_of(table: Tensor, numbers: Tensor) -> Tensor:
    """Returns the rows of a table [P, …] with the given numbers [N, k]; [N, k, …].

    An embedding becomes one operation of ONNX, where indexing with a tensor becomes two slower ones. Small networks
    take little more time than twenty needless operations.
    """
    rows: Tensor = nn.functional.embedding(numbers, table if table.ndim > 1 else table[:, None])
    return rows if table.ndim > 1 else rows[..., 0]


def number_of_nearest(asked: int | None, prototypes: Prototypes) -> int:
    """Returns k, the number of prototypes in an answer; None takes 3, or all if there are fewer.

    Raises:
        LookalikeError: If there are fewer than k prototypes.
    """
    return checks.whole_number("n_nearest", min(3, len(prototypes)) if asked is None else asked, 1, len(prototypes))


class Likenesses(nn.Module):
    """Ranks prototypes by similarity, and places distances among those of the prototypes' own training samples.

    Args:
        prototypes: The prototypes.
        n_nearest: k, how many of them an answer has.
        order: How values are ordered.
    """

    quantiles: Tensor
    nan_if_unknown: Tensor
    familiar_up_to: Tensor

    def __init__(self, prototypes: Prototypes, n_nearest: int, order: StableOrder) -> None:
        super().__init__()
        self.n_nearest = n_nearest
        self.order = order
        familiar = prototypes.familiar_range()
        is_known = (familiar.counts >= ENOUGH_SAMPLES) & familiar.farthest.isfinite()
        is_unknown = prototypes.quantiles[:, 0].isnan()
        self.has_unknown = bool(is_unknown.any())
        # a percentile is how many of these a distance reaches: the 0th percentile is not counted
        self.register_buffer("quantiles", prototypes.quantiles[:, 1:].clone())
        self.register_buffer("nan_if_unknown", torch.where(is_unknown, torch.nan, 0.0))
        self.register_buffer("familiar_up_to", torch.where(is_known, familiar.farthest, torch.inf) * (1 + ROUNDING))

    def most_similar(self, similarities: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the k largest similarities and their prototypes; of equal ones the lower number, as ``explain``."""
        return self.order.largest(similarities, self.n_nearest)

    def percentiles(self, distances: Tensor, nearest: Tensor) -> Tensor:
        """Returns the percentiles of distances [N, k] to prototypes; NaN for a prototype without training samples."""
        reached = rows_of(self.quantiles, nearest) <= distances[..., None]  # [N, k, 100]
        percentiles = reached.to(distances.dtype).sum(-1)
        return percentiles + rows_of(self.nan_if_unknown, nearest) if self.has_unknown else percentiles

    def are_far(self, distances: Tensor, nearest: Tensor) -> Tensor:
        """Returns whether inputs [N] are farther from the first prototype than all training samples behind it."""
        return (distances > rows_of(self.familiar_up_to, nearest))[:, 0]
