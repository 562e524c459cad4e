"""What depends on the pixels.

The network runs without gradients, on ordinary tensors. Each one that depends on the pixels has a *twin* with the same
values, which carries the relevance graph; operations are applied to the twins. So nothing in the network (a detach, a
checkpoint, an autograd function, a gradient hook) can cut or change the graph, and whether weights require gradients
plays no part.

Operations in place are carried out on a copy of the memory that they change, views included: the tensors that the
network holds stand for the new values.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lookalike.relevance.weak import OfTensors


class Dependence:
    """Knows which tensors depend on the pixels, and their twins in the relevance graph.

    Args:
        on_view: Called with changed memory and a view of it; returns the view.

    Attributes:
        choices: Tensors without a gradient (masks, indices, integers) that depend on the pixels → the operation that
            made them.
        known: Tensors that do not depend on the pixels and come from operations that the engine saw.
    """

    def __init__(self, on_view: Callable[[Tensor, Tensor], Tensor] = lambda _memory, view: view) -> None:
        self.on_view = on_view
        self._twins: OfTensors[Tensor] = OfTensors()
        # a tensor that owns its memory → what that memory holds now
        self._changed: OfTensors[Tensor] = OfTensors()
        self.choices: OfTensors[str] = OfTensors()
        self.known: OfTensors[bool] = OfTensors()

    def twin_of(self, tensor: Tensor) -> Tensor:
        """Returns the tensor's twin; itself, without gradients, if it does not depend on the pixels."""
        twin = self._twins.get(tensor)
        latest = tensor if twin is None else twin
        if self._changed:
            latest = self._latest(latest)
        if twin is None and latest is tensor and tensor.requires_grad:  # a trainable weight
            return self._without_gradient(tensor)
        return latest

    def has_twin(self, tensor: Tensor) -> bool:
        """Says whether the tensor is known to depend on the pixels and has a place in the relevance graph."""
        return tensor in self._twins

    def shown(self, twin: Tensor) -> Tensor:
        """Returns the ordinary tensor that the network gets in place of a twin."""
        face = twin.detach()
        self._twins[face] = twin
        return face

    def adopt(self, face: Tensor, twin: Tensor) -> None:
        """Gives a tensor its place in the relevance graph."""
        self._twins[face] = twin

    def change(self, face: Tensor, target: Tensor, result: Tensor) -> Tensor:
        """Replaces the values of a tensor after an operation in place.

        Args:
            face: The tensor as the network has it.
            target: Its twin, or itself.
            result: What its twin is from now on.

        Returns:
            What the memory that it lies in holds now.
        """
        placed = self._replace(target, result)
        if face in self._twins and self._twins[face] is not face:
            face.data = self.twin_of(face).detach()  # for code that the engine does not see
        return placed

    def _replace(self, target: Tensor, result: Tensor) -> Tensor:
        owner = target if target._base is None else target._base
        if owner is target and result.stride() == owner.stride() and result.shape == owner.shape:
            self._changed[owner] = result
            return result
        if result.shape != target.shape and owner is target:  # out= gives it another shape
            self._changed[owner] = result
            return result
        offset = target.storage_offset() - owner.storage_offset()
        with torch.enable_grad():  # torch.as_strided_scatter has a wrong derivative (2.14)
            placed = owner.detach() if not owner.requires_grad else owner
            placed = torch.empty_strided(owner.shape, owner.stride(), dtype=owner.dtype, device=owner.device).copy_(
                placed
            )
            placed.as_strided(target.size(), target.stride(), placed.storage_offset() + offset).copy_(result)
        self._changed[owner] = placed
        return placed

    def _latest(self, twin: Tensor) -> Tensor:
        while True:
            owner = twin if twin._base is None else twin._base
            now = self._changed.get(owner)
            if now is None:
                return twin
            if owner is twin:
                twin = now
            else:
                offset = twin.storage_offset() - owner.storage_offset() + now.storage_offset()
                with torch.enable_grad():
                    twin = self.on_view(now, now.as_strided(twin.size(), twin.stride(), offset))

    def _without_gradient(self, tensor: Tensor) -> Tensor:
        """Returns a trainable weight as a constant, the same one every time: what is derived from it is kept."""
        known = _CONSTANTS.get(tensor)
        if known is None or known.data_ptr() != tensor.data_ptr() or known.shape != tensor.shape:
            known = _CONSTANTS[tensor] = tensor.detach()
        return known


_CONSTANTS: OfTensors[Tensor] = OfTensors()


def tensors_in(values: Any) -> list[Tensor]:
    """Lists the tensors in arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    found: list[Tensor] = []
    _collect((values,), found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    """Adds the tensors in values; the engine does this several times per operation."""
    for value in values:
        kind = type(value)
        if kind is Tensor:
            found.append(value)
        elif kind in _PLAIN or (kind is dict and not value):
            continue
        elif isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            _collect(value.values(), found)
        elif isinstance(value, (tuple, list)):
            _collect(value, found)


# Types that have no tensors inside.
_PLAIN = frozenset({int, float, bool, str, type(None), torch.Size, torch.dtype, torch.device})


def with_tensors(change: Callable[[Tensor], Any], values: Any) -> Any:
    """Returns arguments or results with each tensor replaced."""
    kind = type(values)
    if kind in _PLAIN:
        return values
    if isinstance(values, Tensor):
        return change(values)
    if kind is tuple or kind is list:
        return kind([value if type(value) in _PLAIN else with_tensors(change, value) for value in values])
    if kind is dict:
        return values and {key: with_tensors(change, value) for key, value in values.items()}
    if isinstance(values, (tuple, list, dict)) and not isinstance(values, torch.Size):
        return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, values)
    return values
