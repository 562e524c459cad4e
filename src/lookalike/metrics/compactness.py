"""Compactness of relevance maps: sparseness and complexity. Co-12: compactness."""

from typing import Any

import torch
from torch import Tensor

from lookalike.metrics.maps import flat_maps


def sparseness(maps: Any) -> Tensor:
    """Returns the Gini index of each map's absolute relevance [N], in [0, 1); higher is more compact.

    Σ_i (2i − F − 1) a_(i) / (F Σ a), with a_(1) ≤ … ≤ a_(F) the absolute relevance of the F pixels (Chalasani et al.
    2020; Quantus: ``Sparseness``). 0: all pixels have the same relevance; 1 − 1/F: one pixel has all of it.
    Co-12: compactness.

    Args:
        maps: Relevance maps [N, H, W].

    Returns:
        NaN for a map without relevance.

    Example:
        >>> sparseness(torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, -2]]))
        tensor([0.0000, 0.7500], dtype=torch.float64)
    """
    sizes = flat_maps("maps", maps).abs().sort(dim=1).values
    n, total = sizes.shape[1], sizes.sum(1)
    weights = 2 * torch.arange(1, n + 1, device=sizes.device, dtype=sizes.dtype) - n - 1
    return torch.where(total > 0, sizes @ weights / (n * total), torch.nan)


def complexity(maps: Any) -> Tensor:
    """Returns the entropy of each map's shares of absolute relevance [N], in nats, in [0, ln F]; lower is more compact.

    −Σ r ln r, with r = |R| / Σ|R| over the F pixels (Bhatt et al. 2020; Quantus: ``Complexity``). 0: one pixel
    has all relevance; ln F: all pixels have the same. Co-12: compactness.

    Args:
        maps: Relevance maps [N, H, W].

    Returns:
        NaN for a map without relevance.

    Example:
        >>> complexity(torch.tensor([[1.0, -1], [0, 3]]))
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    sizes = flat_maps("maps", maps).abs()
    total = sizes.sum(1, keepdim=True)
    shares = sizes / torch.where(total > 0, total, torch.nan)
    entropies: Tensor = torch.special.entr(shares).sum(1)
    return entropies
