"""Localisation: how much of a map's relevance is on the object, for images with a mask of the object.

For each measure, a map without any relation to the image scores as much as the object's share of the image.
"""

from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.metrics.maps import flat_maps


def relevance_mass(maps: Any, masks: Any, *, positive: bool = False) -> Tensor:
    """Returns the share of each map's absolute relevance that lies inside the object [N]; higher is better.

    Σ_inside |R| / Σ |R|, in [0, 1]: the relevance mass accuracy of Arras et al. 2022, with |R|. Co-12: coherence. For a
    map with equal relevance everywhere, it is the share of the image that the object covers.

    Args:
        maps: Relevance maps [N, H, W].
        masks: Whether a pixel belongs to the object [N, H, W].
        positive: Count only relevance in favour: max(R, 0) in place of |R|.

    Returns:
        NaN for a map without relevance, or an image without an object.

    Raises:
        LookalikeError: If the masks do not fit the maps.

    Example:
        >>> relevance_mass(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[True, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    relevance, inside = _checked(maps, masks)
    relevance = relevance.clamp_min(0) if positive else relevance.abs()
    total = relevance.sum(1)
    defined = (total > 0) & inside.any(1)
    return torch.where(defined, (relevance * inside).sum(1) / total, torch.nan)


def pointing_game(maps: Any, masks: Any) -> Tensor:
    """Returns 1 for each map whose most relevant pixel is inside the object, else 0 [N]; higher is better.

    The pointing game of Zhang et al. 2018. Co-12: coherence. Of several pixels with the largest relevance, the share
    inside counts.

    Args:
        maps: Relevance maps [N, H, W].
        masks: Whether a pixel belongs to the object [N, H, W].

    Returns:
        NaN for a map without positive relevance, or an image without an object.

    Raises:
        LookalikeError: If the masks do not fit the maps.

    Example:
        >>> pointing_game(torch.tensor([[[3.0, -9.0]]]), torch.tensor([[[True, False]]]))
        tensor([1.], dtype=torch.float64)
    """
    relevance, inside = _checked(maps, masks)
    largest = relevance.amax(1, keepdim=True)
    is_largest = relevance == largest
    hits = (is_largest & inside).sum(1) / is_largest.sum(1).double()
    return torch.where((largest[:, 0] > 0) & inside.any(1), hits, torch.nan)


def relevance_rank(maps: Any, masks: Any) -> Tensor:
    """Returns the share of the most relevant pixels that are inside the object [N]; higher is better.

    Of an object of K pixels, the K most relevant pixels are counted: the relevance rank accuracy of Arras et al. 2022.
    Co-12: coherence.

    Args:
        maps: Relevance maps [N, H, W].
        masks: Whether a pixel belongs to the object [N, H, W].

    Returns:
        NaN for a map without relevance, or an image without an object.

    Raises:
        LookalikeError: If the masks do not fit the maps.

    Example:
        >>> relevance_rank(torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[True, False, True]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    relevance, inside = _checked(maps, masks)
    size = inside.sum(1)
    last = (size - 1).clamp_min(0)[:, None]
    threshold = relevance.sort(dim=1, descending=True).values.gather(1, last)
    above, equal = relevance > threshold, relevance == threshold
    # of pixels that are equally relevant, as many count as there is room for, with their share inside
    room = (size - above.sum(1)).double()
    hits = (above & inside).sum(1) + room * (equal & inside).sum(1) / equal.sum(1)
    defined = (relevance != 0).any(1) & (size > 0)
    return torch.where(defined, hits / size.clamp_min(1), torch.nan)


def as_masks(masks: Tensor) -> Tensor:
    """Returns masks as booleans of the same shape; they may be numbers if only one of them is not 0.

    Raises:
        LookalikeError: If there are more values, as in a segmentation of several classes or a mask of soft edges.
    """
    if masks.dtype == torch.bool:
        return masks
    values = masks[masks != 0]
    if len(values) and not bool((values == values[0]).all()):
        shown = ", ".join(f"{value:g}" for value in masks.unique()[:5].tolist())
        raise LookalikeError(
            f"masks holds several values ({shown} and so on): give True where the object is, such as masks == 1 of a "
            "segmentation, or masks > 0.5 of soft edges"
        )
    return masks.bool()


def _checked(maps: Any, masks: Any) -> tuple[Tensor, Tensor]:
    """Returns maps and masks as rows [N, F].

    Raises:
        LookalikeError: If they do not fit each other.
    """
    relevance = flat_maps("maps", maps)
    inside = as_masks(checks.tensor("masks", masks)).flatten(1).to(relevance.device)
    if inside.shape != relevance.shape:
        raise checks.unfit("masks", inside, f"masks of {tuple(relevance.shape)[1]} pixels, as many as there are maps")
    return relevance, inside
