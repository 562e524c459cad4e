"""The autograd functions of the engine: an operation with a rule, and values with another derivative than their own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.operations import Call
from lookalike.relevance.rules import Rule


class Ruled(torch.autograd.Function):
    """A linear operation with a rule as its backward."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, call: Call, rule: Rule, first: bool) -> Tensor:  # noqa: ARG004
        """Returns the values."""
        ctx.call, ctx.rule, ctx.first = call, rule, first
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the rule's gradient."""
        call, rule = ctx.call, ctx.rule
        found = rule.relevance(call, call.output * gradient) if ctx.first else rule.propagate(call, gradient)
        if call.session.targets_left < 2:
            ctx.call = None  # the memory serves the layers before it
        return found, None, None, None


class Rescaled(torch.autograd.Function):
    """Gives values that were computed elsewhere, with a factor in place of their derivative."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, values: Tensor, factor: Tensor | float) -> Tensor:  # noqa: ARG004
        """Returns the values."""
        ctx.factor = factor
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the rule's gradient."""
        return gradient * ctx.factor, None, None


def rescaled(source: Tensor, values: Tensor, factor: Tensor | float) -> Tensor:
    """Returns ``values`` with ``factor`` for their derivative after ``source``."""
    out: Tensor = Rescaled.apply(source, values, factor)
    return out


class Passed(torch.autograd.Function):
    """Gives values that were computed elsewhere, with the gradient of their source."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004
        """Returns the values."""
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        """Returns the gradient as it is."""
        return gradient, None


def passed(source: Tensor, values: Tensor) -> Tensor:
    """Returns ``values``, whose gradient goes to ``source`` unchanged; both have one shape."""
    out: Tensor = Passed.apply(source, values)
    return out


class LeftPixels(torch.autograd.Function):
    """Turns a gradient g behind the pixels into the relevance x ⊙ g before them."""

    @staticmethod
    def forward(ctx: Any, source: Tensor) -> Tensor:
        """Returns the values."""
        values = source.detach()
        ctx.values = values
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Returns relevance."""
        return ctx.values * gradient  # type: ignore[no-any-return]


def left_pixels(source: Tensor) -> Tensor:
    """Returns the values of pixels, from which on relevance is gradient × input."""
    out: Tensor = LeftPixels.apply(source)
    return out


class Spread(torch.autograd.Function):
    """A linear operation on pixels: each output's relevance goes evenly to the pixels that it mixes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, run: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """Returns the values."""
        ctx.run, ctx.like = run, [source.detach() for source in sources]
        return values.detach()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        """Returns relevance."""
        with torch.enable_grad():
            ones = [torch.ones_like(source).requires_grad_() for source in ctx.like]
            total = ctx.run(*ones)
        counts = total.detach()
        share = torch.where(counts == 0, 0, relevance / torch.where(counts == 0, 1, counts))
        return None, None, *torch.autograd.grad(total, ones, share)


def spread(values: Tensor, run: Callable[..., Tensor], sources: list[Tensor]) -> Tensor:
    """Returns ``values = run(*sources)``, whose relevance is spread evenly over what ``run`` mixes."""
    out: Tensor = Spread.apply(values, run, *sources)
    return out
