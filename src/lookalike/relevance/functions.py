"""The engine's autograd functions: values computed elsewhere, with a relevance rule in place of the derivative.

All of them return given values in the forward pass. They differ in the backward pass, which carries g = R / a in place
of a gradient (see ``engine``)::

    function              backward returns
    LinearWithRule        g, or R at the first layer, by a rule of ``rules``
    WithFactor            factor ⊙ g
    MaxPool2d             g, at the largest values
    PassedThrough         its argument, unchanged
    EndOfPixelDomain      R = x ⊙ g
    EvenSpread            R, spread evenly over the pixels that a linear operation mixes
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lookalike.relevance.operations import Call
from lookalike.relevance.rules import Rule
from lookalike.relevance.signs import cannot_be_negative as is_known_not_negative


class LinearWithRule(torch.autograd.Function):
    """A linear operation whose backward is a relevance rule."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, call: Call, rule: Rule, first: bool) -> Tensor:
        """Returns the operation's output, computed before."""
        ctx.call, ctx.rule, ctx.first, ctx.cannot_be_negative = call, rule, first, call.is_rectified
        return call.output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns g at the input; at the first layer, whose inputs are pixels, R itself."""
        call, rule = ctx.call, ctx.rule
        at_input = rule.relevance(call, call.output * gradient) if ctx.first else rule.propagate(call, gradient)
        if call.session.targets_left < 2:
            ctx.call = None  # frees memory for the layers before it, as no other target comes
        return at_input, None, None, None


class WithFactor(torch.autograd.Function):
    """Values with a given factor in place of their derivative."""

    @staticmethod
    def forward(ctx: Any, _source: Tensor, values: Tensor, factor: Tensor | float, cannot_be_negative: bool) -> Tensor:
        """Returns the values."""
        ctx.factor, ctx.cannot_be_negative = factor, cannot_be_negative
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient times the factor."""
        return gradient * ctx.factor, None, None, None


def with_factor(
    source: Tensor, values: Tensor, factor: Tensor | float, *, cannot_be_negative: bool | None = None
) -> Tensor:
    """Returns ``values``, with ``factor`` as their derivative with respect to ``source``.

    Args:
        source: The tensor that relevance goes to.
        values: The values.
        factor: Their derivative.
        cannot_be_negative: Whether the values are known to be at least 0; None if that holds if it does of the source.
    """
    if cannot_be_negative is None:
        cannot_be_negative = values is source and is_known_not_negative(source)
    out: Tensor = WithFactor.apply(source, values, factor, cannot_be_negative)
    return out


class MaxPool2d(torch.autograd.Function):
    """Maximum pooling with its gradient, for contiguous tensors on a CPU.

    With the channels last, torch's kernel takes a fifth of the time, and with the channels first its gradient does: so
    each gets its own layout. The values and the winners are the same.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, options: tuple[Any, ...]) -> Tensor:
        """Returns the largest values."""
        channels_last = source.contiguous(memory_format=torch.channels_last)
        values, winners = torch.ops.aten.max_pool2d_with_indices(channels_last, *options)
        ctx.like, ctx.options, ctx.winners = source.detach(), options, winners.contiguous()
        result: Tensor = values.contiguous()
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient at the winners."""
        arguments = gradient, ctx.like, *ctx.options, ctx.winners
        return torch.ops.aten.max_pool2d_with_indices_backward(*arguments), None


def max_pool2d(
    input: Tensor,  # torch's name
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # noqa: ARG001 - False
) -> Tensor:
    """Returns torch's maximum pooling."""
    kernel_size, padding, dilation = (
        [value] * 2 if isinstance(value, int) else list(value) for value in (kernel_size, padding, dilation)
    )
    stride = [stride] * 2 if isinstance(stride, int) else list(stride or kernel_size)
    out: Tensor = MaxPool2d.apply(input, (kernel_size, stride, padding, dilation, ceil_mode))
    return out


class PassedThrough(torch.autograd.Function):
    """Values whose gradient goes to their source unchanged."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, values: Tensor) -> Tensor:
        """Returns the values."""
        return values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient unchanged."""
        return gradient, None


def pass_through(source: Tensor, values: Tensor) -> Tensor:
    """Returns ``values``, whose gradient goes to ``source`` unchanged; both have the same shape."""
    out: Tensor = PassedThrough.apply(source, values)
    return out


class EndOfPixelDomain(torch.autograd.Function):
    """Turns g behind the pixel domain into R = x ⊙ g inside it."""

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


def end_pixel_domain(source: Tensor) -> Tensor:
    """Returns the values of pixels, behind which the backward pass carries g = R / a in place of R."""
    out: Tensor = EndOfPixelDomain.apply(source)
    return out


class EvenSpread(torch.autograd.Function):
    """A linear operation on pixels: each output's relevance is spread evenly over the pixels that it mixes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, run: Callable[..., Tensor], masks: list[Tensor], *_sources: Tensor) -> Tensor:
        """Returns the values."""
        ctx.run, ctx.masks = run, masks
        return values.detach()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        """Returns relevance at the pixels."""
        # on inputs of 1, the operation counts the pixels behind each output, and its gradient leads back to them
        with torch.enable_grad():
            unit_inputs = [mask.detach().requires_grad_() for mask in ctx.masks]
            total = ctx.run(*unit_inputs)
        counts = total.detach()
        share = torch.where(counts == 0, 0, relevance / torch.where(counts == 0, 1, counts))
        at_inputs = torch.autograd.grad(total, unit_inputs, share)
        return None, None, None, *(spread * mask for spread, mask in zip(at_inputs, ctx.masks, strict=True))


def spread_evenly(values: Tensor, run: Callable[..., Tensor], sources: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Returns ``values = run(*sources)``; their relevance is spread evenly over the pixels that ``run`` mixes.

    Args:
        values: The results.
        run: The operation.
        sources: Its arguments that are pixels.
        masks: 1 where these have a pixel and 0 elsewhere, of their shapes.
    """
    out: Tensor = EvenSpread.apply(values, run, masks, *sources)
    return out
