"""Heads of several layers that compute one affine map: with adapters (LoRA), of one's own making, or two averaged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.untouched import in_eval_mode
from lookalike.encoder.calls import device_of

_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_COARSE = 0.05  # of bfloat16 and float16
_FAR = 10.0  # times the size of the vectors: an activation between layers changes sides on the way
_N_TRIALS = 16
_NOT_ALONE = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, KeyError)


@dataclass(frozen=True)
class VectorCall:
    """A call of a module that took vectors [N, D] and returned vectors [N, C].

    Attributes:
        name: The module's.
        inputs: What it took.
        outputs: What it returned.
        sources: The layers that produced what it returned.
        feeders: The layers that produced what it took.
    """

    name: str
    inputs: Tensor
    outputs: Tensor
    sources: frozenset[str]
    feeders: frozenset[str]


class VectorCalls:
    """Records the calls of modules on vectors, by forward hooks.

    Args:
        sources_of: Returns the layers that produced a tensor.
    """

    def __init__(self, sources_of: Callable[[Tensor], frozenset[str]]) -> None:
        self._sources_of = sources_of
        self._calls: dict[str, list[VectorCall | None]] = {}

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Returns the forward hook of a module."""

        def record(_module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            of_vectors = len(tensors) == 1 and isinstance(output, Tensor) and tensors[0].ndim == output.ndim == 2
            call = None
            if of_vectors and tensors[0].is_floating_point():
                vectors = tensors[0]
                sources, feeders = self._sources_of(output), self._sources_of(vectors)
                call = VectorCall(name, vectors, output, sources, feeders)
            self._calls.setdefault(name, []).append(call)

        return record

    def that_produce(self, sources: frozenset[str], n_outputs: int) -> Iterator[list[VectorCall]]:
        """Yields calls, once each, whose inputs are one tensor and that between them hold the layers of the scores.

        A single module goes before several, and an inner module before those around it.

        Args:
            sources: The layers that produced the class scores.
            n_outputs: Number of class scores.
        """
        once = [calls[0] for calls in self._calls.values() if len(calls) == 1 and calls[0] is not None]
        fitting = [
            call for call in once if call.sources and call.sources <= sources and call.outputs.shape[1] == n_outputs
        ]
        whole = [call for call in fitting if call.sources == sources]
        yield from ([call] for call in sorted(whole, key=lambda call: -call.name.count(".")))
        for inputs in {id(call.inputs): call.inputs for call in fitting}.values():
            together = [call for call in fitting if call.inputs is inputs]
            if frozenset().union(*(call.sources for call in together)) == sources:
                yield _outermost(together)


def is_affine_alone(model: nn.Module, call: VectorCall) -> bool:
    """Says whether a module, called with nothing but the vectors of a call, computes an affine map of them."""
    module = model.get_submodule(call.name)
    return in_eval_mode(model, lambda: _repeats(module, call)) and is_affine(model, call.name, call.inputs)


def is_affine(model: nn.Module, name: str, vectors: Tensor) -> bool:
    """Says whether a module computes an affine map: f(a + t (b − a)) = f(a) + t (f(b) − f(a)).

    Args:
        model: The network.
        name: Of the module in it.
        vectors: What it takes [N, D], as in a forward pass.
    """
    return in_eval_mode(model, lambda: _is_affine(model.get_submodule(name), vectors))


def matrix_of(model: nn.Module, head: nn.Module, dim: int, dtype: torch.dtype | None) -> Tensor:
    """Returns the matrix [C, D] of a module that computes an affine map of vectors [N, D]."""
    basis = torch.eye(dim, dtype=dtype, device=device_of(model))
    with torch.no_grad():
        values = in_eval_mode(model, lambda: head(torch.cat([basis, basis.new_zeros(1, dim)])))
    matrix: Tensor = (values[:-1] - values[-1]).T.contiguous()
    return matrix


@torch.no_grad()
def _repeats(module: nn.Module, call: VectorCall) -> bool:
    """Says whether a module alone gives what it gave: it may have been called with more than the vectors."""
    try:
        return torch.equal(module(call.inputs), call.outputs)
    except _NOT_ALONE:
        return False


@torch.no_grad()
def _is_affine(module: nn.Module, vectors: Tensor) -> bool:
    a = vectors[:1].repeat(_N_TRIALS, 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(a.shape, generator=generator).to(a)
    size = float(vectors.float().square().mean().sqrt()) or 1.0
    b = a + _FAR * size * noise
    try:
        at_a, at_b, between = module(a), module(b), module(a + 0.375 * (b - a))
    except _NOT_ALONE:
        return False
    expected = at_a + 0.375 * (at_b - at_a)
    scale = torch.stack([at_a, at_b]).abs().max()
    return bool((between - expected).abs().max() <= _ROUNDING.get(a.dtype, _COARSE) * scale)


def _outermost(calls: list[VectorCall]) -> list[VectorCall]:
    """Returns the calls of modules that are not inside another one's."""
    return [
        call
        for call in calls
        if not any(call.name.startswith(other.name + ".") for other in calls if other is not call)
    ]
