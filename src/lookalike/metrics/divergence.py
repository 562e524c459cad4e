"""Faithfulness of explanations: D_fth (paper section 4.3.2, equations 2 and 3)."""

from typing import Literal

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

Magnitude = Literal["absolute", "positive"]
Direction = Literal["model", "black-box", "symmetric"]

MAGNITUDES = ("absolute", "positive")
DIRECTIONS = ("model", "black-box", "symmetric")
FLOOR = 1e-12  # far below 1 / F of any image: it changes hardly more than the shares that are zero


def relevance_shares(maps: Tensor, magnitude: Magnitude = "absolute", floor: float = FLOOR) -> Tensor:
    """Returns each pixel's share of its map's relevance (equation 2): r = |R| / Σ|R|, with a floor on each share.

    Args:
        maps: Relevance per pixel [N, H, W].
        magnitude: ``"absolute"`` takes |R| [ours]; ``"positive"`` sets negative relevance to zero.
        floor: The smallest share; it keeps the logarithm finite [ours].

    Returns:
        float64 [N, H·W]; each row sums to one. A map without relevance gets equal shares.

    Raises:
        LookalikeError: If the magnitude is unknown, or a map is not finite.

    Example:
        >>> relevance_shares(torch.tensor([[[1.0, -3.0]]]))
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    checks.one_of("magnitude", magnitude, MAGNITUDES)
    checks.number("floor", floor, above=0, below=1)
    maps = checks.tensor("maps", maps, ("N", "H", "W"), kind="number", empty=False)
    if not bool(maps.isfinite().all()):
        raise LookalikeError("a relevance map has NaN or infinite values")
    values = maps.double().flatten(1)
    values = values.abs() if magnitude == "absolute" else values.clamp_min(0)
    values = values / values.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    total = values.sum(1, keepdim=True)
    shares = torch.where(total > 0, values / total.clamp_min(1e-300), 1 / values.shape[1]).clamp_min(floor)
    return shares / shares.sum(1, keepdim=True)


def explanation_divergence(
    maps: Tensor,
    black_box_maps: Tensor,
    *,
    direction: Direction = "model",
    magnitude: Magnitude = "absolute",
    floor: float = FLOOR,
) -> Tensor:
    """Returns D_fth image by image (equation 3): divergence of a model's maps from its black box's; lower is better.

    KL(r ‖ b) = Σ r ln(r / b) in nats, over the pixels' shares r of the model's map and b of the black box's. It is 0
    only if all shares are equal.

    Args:
        maps: The model's relevance per pixel [N, H, W].
        black_box_maps: The black box's relevance per pixel [N, H, W].
        direction: ``"model"`` is KL(model ‖ black box) [ours]; ``"black-box"`` is KL(black box ‖ model);
            ``"symmetric"`` is their mean.
        magnitude: See ``relevance_shares``.
        floor: See ``relevance_shares``.

    Returns:
        float64 [N]; D_fth is its mean. NaN if either map has no relevance, such as that of a probability that
        rounds to 1 in float32: there is nothing to compare.

    Raises:
        LookalikeError: If shapes differ, or an option is unknown.
    """
    checks.one_of("direction", direction, DIRECTIONS)
    maps = checks.tensor("maps", maps, kind="number")
    black_box_maps = checks.tensor("black_box_maps", black_box_maps, kind="number")
    if maps.shape != black_box_maps.shape:
        raise LookalikeError(f"the maps have shapes {tuple(maps.shape)} and {tuple(black_box_maps.shape)}")
    r = relevance_shares(maps, magnitude, floor)
    b = relevance_shares(black_box_maps, magnitude, floor)
    ratio = (r / b).log()
    forward, backward = (r * ratio).sum(1), (-b * ratio).sum(1)
    divergence = {"model": forward, "black-box": backward, "symmetric": (forward + backward) / 2}[direction]
    empty = without_relevance(maps, magnitude) | without_relevance(black_box_maps, magnitude)
    return divergence.clamp_min(0).masked_fill(empty, torch.nan)  # a negative value is a rounding error


def without_relevance(maps: Tensor, magnitude: Magnitude = "absolute") -> Tensor:
    """Returns which maps [N, H, W] have no relevance at any pixel [N].

    Example:
        >>> without_relevance(torch.tensor([[[0.0, 0.0]], [[0.0, -1.0]]])).tolist()
        [True, False]
    """
    values = maps.flatten(1)
    return ~(values != 0 if magnitude == "absolute" else values > 0).any(1)
