"""Faces and twins: which tensors of a forward pass depend on the pixels, and their places in the relevance graph.

The network runs without gradients, on ordinary tensors: the *faces*. Each face that depends on the pixels has a *twin*
with the same values, which carries the relevance graph. The engine applies every operation to the twins, and hands the
network a new face of the result::

    the network sees      x' ──conv──▶ a' ──relu──▶ b'        faces: ordinary tensors without gradients
                          ┊            ┊            ┊
    the engine keeps      x  ──conv──▶ a  ──relu──▶ b         twins: the same values, with autograd nodes
                             ◀──rule──    ◀──rule──           relevance flows back along the twins

So nothing that the network does to its tensors (a detach, a checkpoint, an autograd function, a gradient hook) can cut
or change the graph, and it does not matter which weights require gradients.

**Operations in place** never write to a twin, as autograd nodes still need its values. They run on a copy of the memory
that they change, and the map from memory to *current values* gets the copy. Views need no special treatment: a tensor
is read through the memory that owns it::

    v = a[1:3]; v.mul_(2)       memory of a     [a0,  a1,  a2, a3]      (stays as it is, for the backward pass)
                                current values  [a0, 2a1, 2a2, a3]      reading a or v gives a part of these
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lookalike.relevance.weak import TensorMap


class Dependence:
    """The tensors that depend on the pixels, and their twins in the relevance graph.

    Args:
        on_view: Called with the current values of some memory and a view of them; returns the view.

    Attributes:
        twins: Tensors that have a place in the relevance graph → their twins.
        non_differentiable: Tensors that depend on the pixels but have no gradient (masks, indices, integers) → the
            operation that made them.
        independent: Tensors that do not depend on the pixels, made by operations that the engine saw.
    """

    def __init__(self, on_view: Callable[[Tensor, Tensor], Tensor] = lambda _memory, view: view) -> None:
        self.on_view = on_view
        self.twins: TensorMap[Tensor] = TensorMap()
        self._current_values: TensorMap[Tensor] = TensorMap()  # of memory changed in place, by the tensor that owns it
        self.non_differentiable: TensorMap[str] = TensorMap()
        self.independent: TensorMap[bool] = TensorMap()

    def twin_of(self, tensor: Tensor) -> Tensor:
        """Returns the tensor's twin, or the tensor itself, without gradients, if it does not depend on the pixels."""
        entry = self.twins.by_id.get(id(tensor))
        if entry is not None:
            return self._read(entry[1]) if self._current_values.by_id else entry[1]
        current = self._read(tensor) if self._current_values.by_id else tensor
        if current is tensor and tensor.requires_grad:  # a trainable weight
            return self._as_constant(tensor)
        return current

    def is_changed(self, tensor: Tensor) -> bool:
        """Returns whether the tensor's memory was changed in place, so that its values are elsewhere."""
        if not self._current_values.by_id:
            return False
        base = tensor._base
        return id(tensor if base is None else base) in self._current_values.by_id

    def new_face(self, twin: Tensor) -> Tensor:
        """Returns the ordinary tensor that the network gets in place of a twin; both share their memory."""
        face = twin.detach()
        self.twins[face] = twin
        return face

    def set_twin(self, face: Tensor, twin: Tensor) -> None:
        """Gives a tensor its place in the relevance graph."""
        self.twins[face] = twin

    def overwrite(self, face: Tensor, twin: Tensor, result: Tensor) -> Tensor:
        """Changes the values of a tensor after an operation in place.

        Args:
            face: The tensor as the network has it.
            twin: Its twin, or the tensor itself.
            result: Its new values, with their place in the graph.

        Returns:
            The current values of the whole memory in which the tensor lies.
        """
        memory = self._write(twin, result)
        if face in self.twins and self.twins[face] is not face:
            face.data = self.twin_of(face).detach()  # for code that the engine does not see
        return memory

    def _write(self, twin: Tensor, result: Tensor) -> Tensor:
        """Records new values of the memory of a twin: the result itself, or a copy of the memory with it inside."""
        owner = twin if twin._base is None else twin._base
        if owner is twin and result.stride() == owner.stride() and result.shape == owner.shape:
            self._current_values[owner] = result
            return result
        if result.shape != twin.shape and owner is twin:  # out= may give it another shape
            self._current_values[owner] = result
            return result
        offset = twin.storage_offset() - owner.storage_offset()
        with torch.enable_grad():  # not torch.as_strided_scatter: its derivative is wrong (torch 2.14)
            before = owner.detach() if not owner.requires_grad else owner
            memory = torch.empty_strided(owner.shape, owner.stride(), dtype=owner.dtype, device=owner.device)
            memory = memory.copy_(before)
            memory.as_strided(twin.size(), twin.stride(), memory.storage_offset() + offset).copy_(result)
        self._current_values[owner] = memory
        return memory

    def _read(self, twin: Tensor) -> Tensor:
        """Follows a twin to the current values of its memory; repeated, as these may have been changed in turn."""
        current_values = self._current_values.by_id
        while True:
            base = twin._base
            entry = current_values.get(id(twin if base is None else base))
            if entry is None:
                return twin
            current = entry[1]
            if base is None:
                twin = current
            else:
                offset = twin.storage_offset() - base.storage_offset() + current.storage_offset()
                with torch.enable_grad():
                    twin = self.on_view(current, current.as_strided(twin.size(), twin.stride(), offset))

    def _as_constant(self, weight: Tensor) -> Tensor:
        """Returns a trainable weight without gradients: always the same tensor, as caches are keyed by it."""
        constant = _WEIGHT_CONSTANTS.get(weight)
        if constant is None or constant.data_ptr() != weight.data_ptr() or constant.shape != weight.shape:
            constant = _WEIGHT_CONSTANTS[weight] = weight.detach()
        return constant


_WEIGHT_CONSTANTS: TensorMap[Tensor] = TensorMap()


def tensors_in(values: Any) -> list[Tensor]:
    """Lists the tensors in arguments or results."""
    if isinstance(values, Tensor):
        return [values]
    tensors: list[Tensor] = []
    _collect(values if type(values) is tuple else (values,), tensors)
    return tensors


def tensors_in_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Lists the tensors in the arguments of a call."""
    tensors: list[Tensor] = []
    _collect(args, tensors)
    if kwargs:
        _collect(kwargs.values(), tensors)
    return tensors


def _collect(values: Iterable[Any], tensors: list[Tensor]) -> None:
    """Appends the tensors in values; written for speed, as the engine does this several times per operation."""
    for value in values:
        kind = type(value)
        if kind in _WITHOUT_TENSORS:
            continue
        if kind is Tensor or kind is nn.Parameter:
            tensors.append(value)
        elif kind is tuple or kind is list:
            if not _WITHOUT_TENSORS.issuperset(map(type, value)):
                _collect(value, tensors)
        elif isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, dict):
            if value:
                _collect(value.values(), tensors)
        elif isinstance(value, (tuple, list)):
            _collect(value, tensors)


# Types that contain no tensors.
_WITHOUT_TENSORS = frozenset({int, float, bool, str, type(None), torch.Size, torch.dtype, torch.device})


def map_arguments(
    change: Callable[[Tensor], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call with each tensor replaced by the result of ``change``."""
    changed = [
        change(value)
        if (kind := type(value)) is Tensor or kind is nn.Parameter
        else value
        if kind in _WITHOUT_TENSORS
        else map_tensors(change, value)
        for value in args
    ]
    return tuple(changed), map_tensors(change, kwargs) if kwargs else kwargs


def map_tensors(change: Callable[[Tensor], Any], values: Any) -> Any:
    """Returns arguments or results with each tensor replaced by the result of ``change``."""
    kind = type(values)
    if kind is Tensor or kind is nn.Parameter:
        return change(values)
    if kind in _WITHOUT_TENSORS:
        return values
    if kind is tuple or kind is list:
        if _WITHOUT_TENSORS.issuperset(map(type, values)):
            return values
        return kind([value if type(value) in _WITHOUT_TENSORS else map_tensors(change, value) for value in values])
    if kind is dict:
        return values and {key: map_tensors(change, value) for key, value in values.items()}
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, (tuple, list, dict)) and not isinstance(values, torch.Size):
        return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, values)
    return values
