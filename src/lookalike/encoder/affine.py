"""Heads of several layers that together compute one affine map: LoRA adapters, custom heads, two averaged heads."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.draws import normal, seeded
from lookalike._core.untouched import in_eval_mode
from lookalike.encoder.calls import device_of

# largest relative error that still counts as rounding, by type
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_HALF_PRECISION_ROUNDING = 0.05  # bfloat16 and float16
# length of a step, in units of the vectors' size: over this distance an activation between layers switches on or off
_STEP = 10.0
_N_TRIALS = 16  # random directions
# a module that needs further arguments fails with one of these errors
CALL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, KeyError)


@dataclass(frozen=True)
class VectorCall:
    """A call of a module that took vectors [N, D] and returned vectors [N, C].

    Attributes:
        name: The module's name in the network.
        inputs: The vectors that the module was called with.
        outputs: The vectors that it returned.
        sources: Names of the layers that produced the outputs.
        feeders: Names of the layers that produced the inputs.
    """

    name: str
    inputs: Tensor
    outputs: Tensor
    sources: frozenset[str]
    feeders: frozenset[str]


class VectorCalls:
    """Records the calls of modules on vectors, by forward hooks.

    Args:
        sources_of: Returns the names of the layers that produced a tensor.
    """

    def __init__(self, sources_of: Callable[[Tensor], frozenset[str]]) -> None:
        self._sources_of = sources_of
        self._calls: dict[str, list[VectorCall | None]] = {}

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Returns a forward hook that records the calls of the module ``name``."""

        def record(_module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            are_vectors = len(tensors) == 1 and isinstance(output, Tensor) and tensors[0].ndim == output.ndim == 2
            call = None
            if are_vectors and tensors[0].is_floating_point():
                vectors = tensors[0]
                sources, feeders = self._sources_of(output), self._sources_of(vectors)
                call = VectorCall(name, vectors, output, sources, feeders)
            self._calls.setdefault(name, []).append(call)

        return record

    def covering(self, sources: frozenset[str], n_outputs: int) -> Iterator[list[VectorCall]]:
        """Yields groups of calls on one tensor whose modules together hold all layers that produced the scores.

        Single modules come before groups of several, and inner modules before the modules around them.

        Args:
            sources: The layers that produced the class scores.
            n_outputs: Number of class scores.
        """
        called_once = [calls[0] for calls in self._calls.values() if len(calls) == 1 and calls[0] is not None]
        matching = [
            call
            for call in called_once
            if call.sources and call.sources <= sources and call.outputs.shape[1] == n_outputs
        ]
        single = [call for call in matching if call.sources == sources]
        yield from ([call] for call in sorted(single, key=lambda call: -call.name.count(".")))
        for inputs in {id(call.inputs): call.inputs for call in matching}.values():
            calls_on_tensor = [call for call in matching if call.inputs is inputs]
            if frozenset().union(*(call.sources for call in calls_on_tensor)) == sources:
                yield _outermost(calls_on_tensor)


def is_affine_alone(model: nn.Module, call: VectorCall) -> bool:
    """Says whether a module, called with only the recorded vectors, computes an affine map of them."""
    module = model.get_submodule(call.name)
    return in_eval_mode(model, lambda: _reproduces(module, call)) and is_affine(model, call.name, call.inputs)


def is_affine(model: nn.Module, name: str, vectors: Tensor) -> bool:
    """Says whether a module computes an affine map: f(a + t (b − a)) = f(a) + t (f(b) − f(a)).

    Args:
        model: The network.
        name: Name of the module in the network.
        vectors: Its input [N, D], as in a forward pass.
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
def _reproduces(module: nn.Module, call: VectorCall) -> bool:
    """Says whether a module, called with the vectors alone, returns the recorded outputs.

    It does not if the network called it with further arguments.
    """
    try:
        return torch.equal(module(call.inputs), call.outputs)
    except CALL_ERRORS:
        return False


@torch.no_grad()
def _is_affine(module: nn.Module, vectors: Tensor) -> bool:
    # An affine map interpolates linearly along every line. This checks 16 random lines from a to b, each at one point.
    a = vectors[:1].repeat(_N_TRIALS, 1)
    noise = normal(a.shape, seeded(0)).to(a)
    size = float(vectors.float().square().mean().sqrt()) or 1.0
    b = a + _STEP * size * noise
    try:  # 0.375 has no rounding in binary
        at_a, at_b, between = module(a), module(b), module(a + 0.375 * (b - a))
    except CALL_ERRORS:
        return False
    expected = at_a + 0.375 * (at_b - at_a)
    scale = torch.stack([at_a, at_b]).abs().max()
    return bool((between - expected).abs().max() <= _ROUNDING.get(a.dtype, _HALF_PRECISION_ROUNDING) * scale)


def _outermost(calls: list[VectorCall]) -> list[VectorCall]:
    """Returns the calls of modules that are not inside another module of the calls."""
    return [
        call
        for call in calls
        if not any(call.name.startswith(outer.name + ".") for outer in calls if outer is not call)
    ]
