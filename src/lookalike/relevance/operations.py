"""Linear layers and convolutions as the rules see them: y = A x + b, with the adjoint Aᵀ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lookalike.relevance.derived import DERIVED_WEIGHTS
from lookalike.relevance.signs import cannot_be_negative

STABILISER = 1e-6  # keeps denominators away from zero


def stabilised(values: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Moves values away from zero by ε: positive ones and zero upwards, negative ones downwards."""
    # copysign takes a fifth of the time of torch.where; adding 0 makes a negative zero positive
    return values + torch.copysign(values.new_full((), epsilon), values.detach() + 0.0)


@dataclass(frozen=True)
class Convolution:
    """The options of a convolution of any dimension, transposed or not."""

    output_axis: ClassVar[int] = 1

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns A x + b as the network computes it, to the bit."""
        options = (self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        return torch.convolution(x, weight, bias, *options)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns A x + b."""
        matrix = self._matrix_of_one_position(weight, x)
        if matrix is None:
            return self.run(x, weight, bias)
        return torch.nn.functional.linear(x.flatten(1), matrix, bias).view(len(x), -1, *x.shape[2:])

    def adjoint(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Returns Aᵀ r, of the shape of ``like``."""
        matrix = self._matrix_of_one_position(weight, like)
        if matrix is not None:
            return (r.flatten(1) @ matrix).view(like.shape)
        if self._is_of_patches(weight):
            return self._adjoint_of_patches(r, weight, like)
        options = (self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        at_input: Tensor = torch.ops.aten.convolution_backward(r, like, weight, None, *options, [True, False, False])[0]
        return at_input

    def _matrix_of_one_position(self, weight: Tensor, x: Tensor) -> Tensor | None:
        """Returns the weights [outputs, inputs] that count if inputs and outputs have one position; None if more.

        That is so deep in a network whose images are small, where a kernel of 3 × 3 sees one value and eight of the
        padding: torch's convolution takes three times as long as the product with the one matrix.
        """
        if self.transposed or self.groups > 1 or x.ndim != weight.ndim or any(size != 1 for size in x.shape[2:]):
            return None
        sizes = weight.shape[2:]
        if any(k % 2 == 0 or 2 * p != d * (k - 1) for p, d, k in zip(self.padding, self.dilation, sizes, strict=True)):
            return None
        return weight.flatten(2)[..., sizes.numel() // 2]  # the middle of the kernel

    def _is_of_patches(self, weight: Tensor) -> bool:
        """Returns whether the outputs' receptive fields do not overlap, as in the patch layer of a transformer."""
        plain = not self.transposed and self.groups == 1 and all(d == 1 for d in self.dilation)
        return plain and tuple(self.stride) == tuple(weight.shape[2:]) and not any(self.padding)

    def _adjoint_of_patches(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Returns Aᵀ r as one matrix product, in a quarter of the time of torch's convolution backward."""
        n_axes = weight.ndim - 2
        grid, size = r.shape[2:], weight.shape[2:]
        if size.numel() == 1:  # nothing to rearrange: without two copies of a map, in a quarter to a half of the time
            return torch.matmul(weight.flatten(1).t(), r.flatten(2)).view(like.shape)
        patches: Tensor = torch.tensordot(r, weight, dims=([1], [0]))  # [n, *grid, channels, *size]
        order = [0, 1 + n_axes, *(axis for i in range(n_axes) for axis in (1 + i, 2 + n_axes + i))]
        at_input: Tensor = patches.permute(order).reshape(len(r), -1, *(g * k for g, k in zip(grid, size, strict=True)))
        uncovered = [full - covered for full, covered in zip(like.shape[2:], at_input.shape[2:], strict=True)]
        if any(uncovered):
            at_input = torch.nn.functional.pad(
                at_input, [side for n_uncovered in reversed(uncovered) for side in (0, n_uncovered)]
            )
        return at_input

    def spread_evenly(self, r: Tensor, weight: Tensor, like: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns each output's relevance spread evenly over the inputs of its receptive field.

        Args:
            r: Relevance of the outputs.
            weight: The weights.
            like: The input, or a tensor of its shape.
            mask: 1 where an input counts and 0 elsewhere; None if all count.
        """
        if self.transposed or self.groups > 1:
            unit_weight = torch.ones_like(weight)
            counts = self.apply(torch.ones_like(like[:1]) if mask is None else mask, unit_weight, None)
            spread = self.adjoint(_shared(r, counts, mask), unit_weight, like)
            return spread if mask is None else spread * mask
        # all channels have the same receptive fields: count in one, sum the outputs, and spread once for all inputs
        unit_weight = torch.ones_like(weight[:1, :1])
        inputs = like.new_full((1, 1, *like.shape[2:]), weight.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        summed = _shared(r.sum(1, keepdim=True), self.apply(inputs, unit_weight, None), mask)
        spread = self.adjoint(summed, unit_weight, like[:, :1]).expand_as(like)
        return spread if mask is None else spread * mask

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns the weights with each output channel scaled."""
        return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _shared(r: Tensor, counts: Tensor, mask: Tensor | None) -> Tensor:
    """Returns relevance divided by the number of inputs that count, and 0 where none does."""
    share = r / stabilised(counts)
    return share if mask is None else torch.where(counts > 0.5, share, 0)


@dataclass(frozen=True)
class Linear:
    """The last axis of x times a matrix [outputs, inputs]."""

    output_axis: ClassVar[int] = -1
    transposed: ClassVar[bool] = False

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns A x + b as the network computes it, up to rounding."""
        if x.ndim < 3 or weight.ndim != 2:
            return torch.nn.functional.linear(x, weight, bias)
        # As rows of one matrix: inputs that do not lie in one piece, such as tokens [positions, images, D], would be
        # multiplied position by position, in five times the time.
        return torch.nn.functional.linear(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], len(weight))

    apply = run

    def adjoint(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002 - Convolution's arguments
        """Returns Aᵀ r."""
        if r.ndim < 3:
            return r @ weight
        return (r.flatten(0, -2) @ weight).view(*r.shape[:-1], weight.shape[1])

    def spread_evenly(
        self,
        r: Tensor,
        weight: Tensor,  # noqa: ARG002 - Convolution's arguments
        like: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns each output's relevance spread evenly over all inputs, or those that count."""
        total = r.sum(-1, keepdim=True)
        if mask is None:
            return (total / like.shape[-1]).expand_as(like)
        return total / stabilised(mask.sum(-1, keepdim=True)) * mask

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns the weights with each output scaled."""
        return weight * scale[:, None]


@dataclass
class Session:
    """State shared by all operations of one forward pass.

    Attributes:
        targets_left: Number of backward passes still to come, including the current one.
    """

    targets_left: int = 2


@dataclass(slots=True)
class Call:
    """One execution of a linear operation y = A x + b, with a cache for its rules.

    Attributes:
        operation: Convolution or Linear.
        source: Its input x, with the graph behind it.
        weight: Its weights, before a batch norm is folded in.
        bias: Its bias, with the batch norm folded in; None without a bias.
        output: Its output y, with the batch norm folded in.
        scale: Factor of the batch norm per output channel; None without one.
        folded_from: Tensors of that batch norm; cached weights are computed again if these change.
        session: State of the forward pass.
        is_rectified: Whether the output is that of a ReLU joined with the operation.
        mask: 1 where the input has a pixel and 0 elsewhere; None if it is not in the pixel domain, or all are.
        cache: Values that all targets of an image share, such as denominators.
    """

    operation: Convolution | Linear
    source: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    scale: Tensor | None = None
    folded_from: tuple[Tensor, ...] = ()
    session: Session = field(default_factory=Session)
    is_rectified: bool = False
    mask: Tensor | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The input's values."""
        return self.source.detach()

    def weights(self, part: str) -> Tensor:
        """Returns the folded weights: ``"all"``, or their ``"positive"`` or ``"negative"`` part."""
        if part == "all" and self.scale is None:
            return self.weight
        weights: Tensor = self.once(f"{part} weights", lambda: _derived_weights(self, part))
        return weights

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the result of ``make``, computed only once for this call."""
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]

    def shared(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Returns the result of ``make``, a large tensor that is cached only while further targets will need it."""
        if name not in self.cache and self.session.targets_left < 2:
            return make()
        value: Tensor = self.once(name, make)
        return value

    @property
    def non_negative(self) -> bool:
        """Whether it is known, without looking at the values, that all inputs are at least zero."""
        return bool(self.once("non-negative", lambda: cannot_be_negative(self.source)))

    def folded(self, scale: Tensor, bias: Tensor, output: Tensor, tensors: tuple[Tensor, ...]) -> "Call":
        """Returns this call with the batch norm behind it folded in."""
        return replace(self, bias=bias, output=output, scale=scale, folded_from=tensors, cache={})

    def rectified(self, output: Tensor) -> "Call":
        """Returns this call with the ReLU behind it joined, whose output is given."""
        return replace(self, output=output, is_rectified=True, cache={})


def _derived_weights(call: Call, part: str) -> Tensor:
    """Returns a part of a call's folded weights, kept until the weights change or are deleted."""

    def derive() -> Tensor:
        weight = call.weight.detach()
        if call.scale is not None:
            weight = call.operation.scaled(weight, call.scale)
        if part != "all":
            weight = weight.clamp(min=0) if part == "positive" else weight.clamp(max=0)
        return weight

    return DERIVED_WEIGHTS.get(part, (call.weight, *call.folded_from), derive)
