"""Checks and small computations that the measures of relevance maps share."""

from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError


def flat_maps(name: str, maps: Any) -> Tensor:
    """Flattens maps [N, …] to rows in double precision [N, F].

    Raises:
        LookalikeError: If they are not a tensor of numbers with at least one map, or a value is not finite.
    """
    tensor = checks.tensor(name, maps, kind="number")
    if tensor.ndim < 2 or not tensor.numel():
        raise checks.unfit(name, tensor, "maps [N, H, W]")
    rows: Tensor = tensor.flatten(1).double()
    if not bool(rows.isfinite().all()):
        bad = int(torch.nonzero(~rows.isfinite().all(1))[0, 0])
        raise LookalikeError(f"{name}: map {bad} has values that are not finite")
    return rows


def mean_of_finite(values: Tensor) -> float:
    """Returns the mean of the finite values; NaN if there are none."""
    return float(values[values.isfinite()].double().mean())
