"""Checks that a network embeds each image independently of its batch and of chance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lookalike._core.errors import LookalikeError
from lookalike.encoder.calls import n_rows, take_rows

_ROUNDING = 1e-2  # relative to the largest value; covers reduced precision on GPUs


@torch.no_grad()
def check_one_image_at_a_time(embed: Callable[[Any], Tensor], inputs: Any) -> None:
    """Checks that an image's embedding depends on that image alone, and is the same every time.

    Args:
        embed: Returns embeddings [n, D].
        inputs: One or a few rows.

    Raises:
        LookalikeError: If an embedding depends on chance or on the other rows of the batch.
    """
    single = take_rows(inputs, slice(0, 1))
    try:
        first, repeated = embed(single), embed(single)
        batched = embed(inputs if _has_other_row(inputs) else tree_map(_with_different_row, single))[:1]
    except (RuntimeError, AssertionError, ValueError):
        return  # the network only runs with one batch size
    if _differ(first, repeated):
        raise LookalikeError(
            "the network gives another embedding for the same image each time (dropout that is always on, or other "
            "chance): make it deterministic in eval mode, e.g. F.dropout(x, p, self.training)"
        )
    if _differ(first, batched):
        raise LookalikeError(
            "an image's embedding depends on the other images of its batch (a batch norm without running statistics?): "
            "such a network is no function of one image; give its norms running statistics (track_running_stats=True)"
        )


def _has_other_row(inputs: Any) -> bool:
    """Says whether the second row differs from the first: two equal ones could not show that they are mixed."""
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return n_rows(inputs) > 1 and any(not torch.equal(leaf[0], leaf[1]) for leaf in tensors)


def _with_different_row(leaf: Any) -> Any:
    """Returns a row and, below it, one with different values."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.cat([leaf, leaf.flip(-1) * 2 + 1 if leaf.is_floating_point() else leaf])


def _differ(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not bool(a.isfinite().all()):
        return False
    scale = float(a.abs().max().clamp_min(1e-12))
    return float((a - b).abs().max()) > _ROUNDING * scale
