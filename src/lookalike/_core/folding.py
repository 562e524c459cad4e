"""Batch norm folded into the convolution before it, as executed, without a change to the network.

In eval mode a batch norm multiplies and shifts each channel, which the convolution before it can do at no cost:

    γ · (w ∗ x + b − μ) / σ + β   =   (γ/σ · w) ∗ x + (γ/σ · (b − μ) + β)

Which convolution feeds which batch norm is observed in a pass (``find_pairs``): a pair is folded only if nothing else
used the convolution's output. While ``Folded`` is active, the convolution is computed with the folded weights, and the
batch norm returns its input. Should anything else ask for the convolution's output after all, the pass is given up.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from lookalike._core.untouched import FunctionMode, acts_in_this_thread

T = TypeVar("T")

_METADATA = frozenset(("size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "is_complex", "__len__"))
_PROPERTIES = frozenset(
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda", "is_meta")
)


class NotFoldableError(BaseException):
    """Ends a pass in which a folded convolution's output is used. No ``Exception``, which a network could catch."""


@dataclass(eq=False)
class Pair:
    """A convolution and the batch norm that it feeds.

    Attributes:
        weight: The convolution's weight, a parameter.
        norm: Running mean and variance, weight, bias and ε of the batch norm; None until one was seen.
        is_exclusive: Whether the batch norm alone uses the convolution's output.
    """

    weight: Tensor
    norm: tuple[Any, ...] | None = None
    is_exclusive: bool = True


def is_watched(model: nn.Module) -> bool:
    """Says whether hooks could see what a layer of a network returns in this thread."""
    if any(getattr(torch_module, name, None) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")):
        return True
    hooks = (list(hooks.values()) for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))
    return any(acts_in_this_thread(hook) for of_module in hooks for hook in of_module)


def find_pairs(run: Callable[[], Any]) -> tuple[list[Pair], Any]:
    """Runs a network, without gradients; returns the pairs that can be folded, and what ``run`` returns."""
    with _Observed() as observed:
        result = run()
    return [pair for pair in observed.pairs.values() if pair.is_exclusive and pair.norm is not None], result


class _Observed(FunctionMode):
    """Notes which convolution's output goes into which batch norm, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: dict[int, Pair] = {}
        self._pair_of_output: dict[int, Pair] = {}
        self._outputs: list[Tensor] = []  # kept, so that no other tensor gets the number of one of them

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation and notes what it uses."""
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            pair = self._pair_of_output.get(id(leaf)) if isinstance(leaf, Tensor) else None
            if pair is None or _reads_metadata(func):
                continue
            norm = _norm_of(func, args, kwargs) if pair.norm is None and args and leaf is args[0] else None
            pair.norm, pair.is_exclusive = norm or pair.norm, pair.is_exclusive and norm is not None
        result = func(*args, **kwargs)
        if func is F.conv2d and len(args) > 1 and isinstance(args[1], nn.Parameter):
            if id(args[1]) in self.pairs:  # a convolution that runs twice
                self.pairs[id(args[1])].is_exclusive = False
            else:
                self.pairs[id(args[1])] = self._pair_of_output[id(result)] = Pair(args[1])
                self._outputs.append(result)
        return result


def folded_weights(pair: Pair, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the weight and the bias of a pair's convolution that does what its batch norm would do.

    Args:
        pair: The pair, with its batch norm.
        bias: The convolution's own bias, if it has one.
    """
    mean, variance, scale, shift, eps = pair.norm or ()
    factor = (variance.double() + eps).rsqrt() * (1.0 if scale is None else scale.double())
    offset = ((0.0 if bias is None else bias.double()) - mean.double()) * factor
    offset = offset if shift is None else offset + shift.double()
    weight = pair.weight.double() * factor.reshape(-1, *[1] * (pair.weight.ndim - 1))
    return weight.to(pair.weight.dtype), offset.to(pair.weight.dtype)


@dataclass
class _FoldedWeights:
    versions: list[int]
    weight: nn.Parameter
    bias: nn.Parameter


class Folded(FunctionMode):
    """While it is active, and without gradients, pairs of convolution and batch norm run as one convolution.

    Results are those of the plain pass, up to rounding. Weights that change are folded again.

    Raises:
        NotFoldableError: If a convolution's output is used by anything but its batch norm.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        super().__init__()
        self._pairs = {id(pair.weight): pair for pair in pairs}
        self._folded: dict[int, _FoldedWeights] = {}
        self._outputs: dict[int, tuple[weakref.ref[Tensor], Pair]] = {}

    def for_thread(self) -> "Folded":
        """Returns a mode for another thread, with the same pairs and folded weights."""
        mode = Folded([])
        mode._pairs, mode._folded = self._pairs, self._folded
        return mode

    def run(self, compute: Callable[[], T]) -> T:
        """Calls ``compute`` while it is active; plainly if that cannot be done, then and from then on.

        Several threads may call this at once.
        """
        if self._pairs:
            try:
                with self.for_thread():
                    return compute()
            except NotFoldableError:  # the network does not do the same for all inputs
                self._pairs.clear()
        return compute()

    @override
    def __enter__(self) -> "Folded":
        self._outputs.clear()
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation; a convolution of a pair does what its batch norm would do."""
        kwargs = kwargs or {}
        if torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func is F.conv2d and len(args) > 1 and id(args[1]) in self._pairs:
            self._check(args[:1])
            return self._convolve(self._pairs[id(args[1])], args, kwargs)
        if func is F.batch_norm and args and (pair := self._pair_of(args[0])) is not None:
            if not _same(_norm_of(func, args, kwargs), pair.norm):
                raise NotFoldableError
            # Another tensor of the same memory: whoever uses the convolution's output later is noticed.
            return args[0].detach()  # not a view, which would give it torch's own layout in accelerated passes
        if self._outputs and not _reads_metadata(func):
            self._check((args, kwargs))
        return func(*args, **kwargs)

    def _convolve(self, pair: Pair, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        folded = self._weights(pair, bias)
        rest = {name: value for name, value in kwargs.items() if name != "bias"}
        output: Tensor = F.conv2d(args[0], folded.weight, folded.bias, *args[3:], **rest)
        self._outputs[id(output)] = weakref.ref(output), pair
        return output

    def _weights(self, pair: Pair, bias: Tensor | None) -> _FoldedWeights:
        mean, variance, scale, shift, _ = pair.norm or ()
        tensors = [x for x in (pair.weight, bias, mean, variance, scale, shift) if x is not None]
        versions = [0 if x.is_inference() else x._version for x in tensors]
        folded = self._folded.get(id(pair.weight))
        if folded is None or folded.versions != versions:
            parts = [nn.Parameter(part, requires_grad=False) for part in folded_weights(pair, bias)]
            folded = self._folded[id(pair.weight)] = _FoldedWeights(versions, *parts)
        return folded

    def _pair_of(self, tensor: Any) -> Pair | None:
        output, pair = self._outputs.get(id(tensor), (None, None))
        return pair if output is not None and output() is tensor else None

    def _check(self, arguments: Any) -> None:
        for leaf in tree_leaves(arguments):
            if isinstance(leaf, Tensor) and self._pair_of(leaf) is not None:
                raise NotFoldableError


def _reads_metadata(func: Any) -> bool:
    """Says whether an operation looks at a tensor's shape or type only."""
    return getattr(func, "__name__", "") in _METADATA or func in _PROPERTIES


def _norm_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Returns (mean, variance, weight, bias, ε) of a call of ``batch_norm`` in eval mode; None for any other call."""
    if func is not F.batch_norm:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    values = {
        "weight": None,
        "bias": None,
        "training": False,
        "eps": 1e-5,
        **dict(zip(names, args, strict=False)),
        **kwargs,
    }
    if values["training"] or values.get("running_mean") is None or values.get("running_var") is None:
        return None
    return tuple(values[name] for name in ("running_mean", "running_var", "weight", "bias", "eps"))


def _same(first: tuple[Any, ...] | None, second: tuple[Any, ...] | None) -> bool:
    return (
        first is not None
        and second is not None
        and all(a is b or (type(a) is float and a == b) for a, b in zip(first, second, strict=True))
    )
