"""Accumulates the mean of a figure over images."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverImages(Metric):
    """Accumulates a figure over images, in states of constant size; images without the figure (NaN) are left out."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    n: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Adds the values of some images [n]."""
        self.total += values.nansum().to(self.total.device)
        self.n += int((~values.isnan()).sum())

    def compute(self) -> Tensor:
        """Returns the mean; NaN if no image has the figure."""
        return self.total / self.n
