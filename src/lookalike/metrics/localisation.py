"""Localisation: the share of relevance on the object, for images with a mask of the object."""

from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike.metrics.maps import flat_maps


def relevance_mass(maps: Any, masks: Any) -> Tensor:
    """Returns the share of each map's absolute relevance that lies inside the object [N]; higher is better.

    Σ_inside |R| / Σ |R|, in [0, 1]: the relevance mass accuracy of Arras et al. 2022, with |R|. Co-12: coherence. For a
    map with equal relevance everywhere, it is the share of the image that the object covers.

    Args:
        maps: Relevance maps [N, H, W].
        masks: Whether a pixel belongs to the object [N, H, W].

    Returns:
        NaN for a map without relevance, or an image without an object.

    Raises:
        LookalikeError: If the masks do not fit the maps.

    Example:
        >>> relevance_mass(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[True, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    relevance = flat_maps("maps", maps).abs()
    inside = checks.tensor("masks", masks).flatten(1).to(relevance.device).bool()
    if inside.shape != relevance.shape:
        raise checks.unfit("masks", inside, f"masks of {tuple(relevance.shape)[1]} pixels, as many as there are maps")
    total = relevance.sum(1)
    defined = (total > 0) & inside.any(1)
    return torch.where(defined, (relevance * inside).sum(1) / total, torch.nan)
