"""Linear and convolutional operations, as the rules see them: y = A x + b, and the adjoint of A."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

STABILISER = 1e-6


def stabilised(values: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Moves values away from zero by ε, to the side that they are on (zero itself to the positive one)."""
    # a fifth of the time of torch.where; adding 0 makes a negative zero positive
    return values + torch.copysign(values.new_tensor(epsilon), values.detach() + 0.0)


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

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns A x + b."""
        options = (self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        return torch.convolution(x, weight, bias, *options)

    def adjoint(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Returns Aᵀ r, of the shape of ``like``."""
        if self._is_of_patches(weight):
            return self._adjoint_of_patches(r, weight, like)
        options = (self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups)
        found: Tensor = torch.ops.aten.convolution_backward(r, like, weight, None, *options, [True, False, False])[0]
        return found

    def _is_of_patches(self, weight: Tensor) -> bool:
        """Says whether each input has a part in one output position at most."""
        plain = not self.transposed and self.groups == 1 and all(d == 1 for d in self.dilation)
        return plain and tuple(self.stride) == tuple(weight.shape[2:]) and not any(self.padding)

    def _adjoint_of_patches(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Returns Aᵀ r as one matrix product, in a quarter of the time of torch's own way."""
        n_axes = weight.ndim - 2
        grid, size = r.shape[2:], weight.shape[2:]
        patches: Tensor = torch.tensordot(r, weight, dims=([1], [0]))  # [n, *grid, channels, *size]
        order = [0, 1 + n_axes, *(axis for i in range(n_axes) for axis in (1 + i, 2 + n_axes + i))]
        found: Tensor = patches.permute(order).reshape(len(r), -1, *(g * k for g, k in zip(grid, size, strict=True)))
        rests = [whole - covered for whole, covered in zip(like.shape[2:], found.shape[2:], strict=True)]
        if any(rests):
            found = torch.nn.functional.pad(found, [side for rest in reversed(rests) for side in (0, rest)])
        return found

    def spread_evenly(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:
        """Returns each output's relevance spread evenly over the inputs of its receptive field."""
        ones = torch.ones_like(weight)
        counts = self.apply(torch.ones_like(like[:1]), ones, None)
        if self.transposed or self.groups > 1:
            return self.adjoint(r / stabilised(counts), ones, like)
        # all output channels see the same inputs: add them up, and spread once for all input channels
        summed = r.sum(1, keepdim=True) / stabilised(counts[:, :1])
        return self.adjoint(summed, ones[:1, :1], like[:, :1]).expand_as(like)

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns the weights with each output channel scaled."""
        return weight * scale.view(-1, *[1] * (weight.ndim - 1))


@dataclass(frozen=True)
class Linear:
    """The last axis of x times a matrix [outputs, inputs]."""

    output_axis: ClassVar[int] = -1
    transposed: ClassVar[bool] = False

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns A x + b."""
        return torch.nn.functional.linear(x, weight, bias)

    def adjoint(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002 - as Convolution's
        """Returns Aᵀ r."""
        return r @ weight

    def spread_evenly(self, r: Tensor, weight: Tensor, like: Tensor) -> Tensor:  # noqa: ARG002 - as Convolution's
        """Returns each output's relevance spread evenly over all inputs."""
        return (r.sum(-1, keepdim=True) / like.shape[-1]).expand_as(like)

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns the weights with each output scaled."""
        return weight * scale[:, None]


@dataclass
class Session:
    """One forward pass and the targets that are propagated through it.

    Attributes:
        targets_left: How many backward passes are still to come, the present one included.
    """

    targets_left: int = 2


@dataclass
class Call:
    """One execution of a linear operation, and what its rules have computed of it so far.

    Attributes:
        operation: Convolution or Linear.
        source: Its input, with the graph behind it.
        weight: Its weights, before any folding.
        bias: Its bias, folded; or None.
        output: What it returned, folded.
        scale: What a batch norm behind it multiplies its outputs by; None without one.
        folded_from: The tensors of that batch norm, whose changes are to be noticed.
        session: The forward pass that it is of.
        kept: Denominators and the like, shared by all targets.
    """

    operation: Convolution | Linear
    source: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    scale: Tensor | None = None
    folded_from: tuple[Tensor, ...] = ()
    session: Session = field(default_factory=Session)
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def x(self) -> Tensor:
        """The input's values."""
        return self.source.detach()

    def weights(self, part: str) -> Tensor:
        """Returns the folded weights: ``"all"``, or their ``"positive"`` or ``"negative"`` part."""
        if part == "all" and self.scale is None:
            return self.weight
        found: Tensor = self.once(f"{part} weights", lambda: _derived(self, part))
        return found

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns what ``make`` makes, made only once for this call."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def shared(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Returns a large tensor that all targets need, kept only while another target is to come."""
        if name not in self.kept and self.session.targets_left < 2:
            return make()
        found: Tensor = self.once(name, make)
        return found

    @property
    def non_negative(self) -> bool:
        """Whether no input is below zero; a ReLU's output needs no look."""
        maker = self.source.grad_fn.name() if self.source.grad_fn is not None else ""
        return maker == "ReluBackward0" or bool(self.once("non-negative", lambda: float(self.x.amin()) >= 0))

    def folded(self, scale: Tensor, bias: Tensor, output: Tensor, tensors: tuple[Tensor, ...]) -> "Call":
        """Returns this call with the batch norm behind it folded in."""
        return replace(self, bias=bias, output=output, scale=scale, folded_from=tensors, kept={})


_DERIVED = WeakTensorKeyDictionary()  # weights → what was derived from them; gone when they are


def _derived(call: Call, part: str) -> Tensor:
    """Returns a part of a call's folded weights, kept until the weights change or go."""
    of_weight: dict[str, tuple[Any, Tensor]] = _DERIVED.setdefault(call.weight, {})
    state = tuple(_state(tensor) for tensor in (call.weight, *call.folded_from))
    known = of_weight.get(part)
    if known is not None and known[0] == state:
        return known[1]
    weight = call.weight.detach()
    if call.scale is not None:
        weight = call.operation.scaled(weight, call.scale)
    if part != "all":
        weight = weight.clamp(min=0) if part == "positive" else weight.clamp(max=0)
    of_weight[part] = (state, weight)
    return weight


def _state(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what changes when a tensor's values do: its version, and a sample of them, as ``.data`` has none."""
    values, step = tensor.detach(), max(1, tensor.numel() // 64)
    if values.is_contiguous() or (values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)):
        sample = values.as_strided((values.numel() // step,), (step,))  # as it lies in memory, so nothing is copied
    else:
        sample = values.reshape(-1)[::step]
    # numpy adds up few numbers three times as fast; it has no bfloat16, and no memory of a GPU
    as_array = sample.device.type == "cpu" and sample.dtype in (torch.float32, torch.float64)
    total = float(sample.numpy().sum()) if as_array else sample.sum().item()
    return id(tensor), tensor._version, tensor.data_ptr(), tensor.dtype, total
