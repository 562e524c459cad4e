"""The two autograd functions of the engine: an operation with a rule, and values with a factor for a derivative."""

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
