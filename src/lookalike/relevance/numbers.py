"""Values that leave torch in a forward pass as numbers or arrays, and how much of the output goes by them.

The engine follows tensors. To it, ``x * float(x.mean())`` is x times a constant, and so it is to the map. Whether that
matters is measured on the first image x and a slightly different one x′::

    f(x)                  its numbers are kept
    f(x′)                 with its own numbers
    f(x′ | numbers of x)  the network as the engine sees it

    share = ‖f(x′) − f(x′ | numbers of x)‖ / ‖f(x′) − f(x)‖

Values that are only printed, checked or compared have the share 0, as has a factor that is the same for all images.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core.draws import seeded
from lookalike._core.untouched import FunctionMode
from lookalike.relevance.names import LEAVES_AS_ARRAY, LEAVES_AS_VALUE, LEFT, known_function
from lookalike.relevance.result import Relevance, RuleUse

_REPLAYED = (LEAVES_AS_VALUE | LEAVES_AS_ARRAY) - {"__dlpack__"}  # memory that is handed out belongs to its pass
_STEP = 0.01  # of the image's spread: small, so that branches stay the same, and far above float32's rounding
_NEGLIGIBLE = 1e-3  # shares below this are rounding


class _Leaving(FunctionMode):
    """Keeps the values that leave torch during a pass, or gives those of an earlier pass in their place.

    Args:
        earlier: The values of an earlier pass, in order; None keeps those of this one.

    Attributes:
        values: The values of this pass.
    """

    def __init__(self, earlier: list[Any] | None = None) -> None:
        super().__init__()
        self.values: list[Any] = []
        self._earlier = None if earlier is None else deque(earlier)

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if known_function(func).raw not in _REPLAYED:
            return value
        if self._earlier:
            value = self._earlier.popleft()
        copy = value.copy() if hasattr(value, "copy") else value  # an array or a list may be changed later
        self.values.append(copy)
        return value


@torch.no_grad()
def share_by_numbers(images: Tensor, run: Callable[[Tensor], Tensor]) -> float:
    """Returns the share of the output's change, from 0 to 1, that goes by values outside torch.

    Args:
        images: The first image [1, …], or a batch if the network accepts only batches of its size.
        run: Runs the network; returns scores or embeddings [n, D].
    """
    images = images.detach()
    spread = float(images.std(correction=0)) or 1.0
    generator = seeded(0)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
    moved = images + _STEP * spread * noise
    with _Leaving() as kept:
        before = run(images.clone())
    after = run(moved.clone())
    with _Leaving(kept.values):
        followed = run(moved.clone())
    change, unseen = float((after - before).norm()), float((after - followed).norm())
    if unseen <= _NEGLIGIBLE * change:
        return 0.0
    return min(unseen / change, 1.0) if change > 0 else 1.0


def share_on_one(images: Tensor, run: Callable[[Tensor], Tensor]) -> float:
    """Returns the share for the first image, or for all if the network does not accept one alone."""
    with contextlib.suppress(RuntimeError, AssertionError):
        return share_by_numbers(images[:1], run)
    return share_by_numbers(images, run)


def with_numbers(relevance: Relevance, left: dict[str, str], share: float) -> Relevance:
    """Returns maps that say by which operations values left torch, and how much of the output goes by them.

    Args:
        relevance: The maps.
        left: Operations by which values left torch → where.
        share: How much of the output's change goes by these values, above 0.
    """
    if set(left) & set(relevance.without_rule):  # the rule table tells already where they came back
        return relevance
    uses = [RuleUse(name, where, LEFT, 1) for name, where in left.items()]
    name = ", ".join(f"{use.operation!r} (after {use.where})" for use in uses)
    shares = {**relevance.unruled_by, name: torch.full_like(relevance.residual, share)}
    return replace(relevance, rules=[*relevance.rules, *uses], unruled_by=shares)
