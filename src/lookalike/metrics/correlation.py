"""Signed agreement of two relevance maps: their Pearson correlation over the pixels."""

from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.relevance.stability import correlations_of


def explanation_correlation(maps: Tensor, black_box_maps: Tensor) -> Tensor:
    """Returns the correlation of a model's signed maps with its black box's, image by image [ours]; higher is better.

    D_fth compares absolute values, so it cannot tell a map from its negative. Pearson's correlation over the pixels of
    an image is sensitive to the sign and ignores the scale.

    Args:
        maps: The model's relevance per pixel [N, H, W].
        black_box_maps: The black box's relevance per pixel [N, H, W].

    Returns:
        float64 [N] in [−1, 1]; NaN for an image if one of its two maps is constant.

    Raises:
        LookalikeError: If shapes differ, or a map is not finite.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[1.0, -2.0], [0.0, 5.0]]])
        >>> same, negative = (round(float(explanation_correlation(maps, scale * maps)), 6) for scale in (3, -1))
        >>> same, negative
        (1.0, -1.0)
    """
    maps = checks.tensor("maps", maps, ("N", "H", "W"), kind="number", empty=False)
    black_box_maps = checks.tensor("black_box_maps", black_box_maps, ("N", "H", "W"), kind="number", empty=False)
    if maps.shape != black_box_maps.shape:
        raise LookalikeError(f"the maps have shapes {tuple(maps.shape)} and {tuple(black_box_maps.shape)}")
    if not bool(maps.isfinite().all() and black_box_maps.isfinite().all()):
        raise LookalikeError("a relevance map has NaN or infinite values")
    return correlations_of(maps.flatten(1), black_box_maps.flatten(1))
