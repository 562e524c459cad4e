"""Tensors derived from a network's weights, such as their positive part, kept from one map to the next."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from lookalike.relevance.weak import TensorMap

# numpy has no bfloat16; whole numbers of the same size have the same bytes
_AS_WHOLE_NUMBERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


class _Entry(NamedTuple):
    """A derived tensor, and what its sources were like when it was made."""

    states: list[tuple[Any, ...]]
    memory: list[np.ndarray[Any, Any]]
    digests: list[int]
    value: Tensor


class DerivedTensors:
    """Keeps tensors that are derived from others until these change or are deleted.

    A change in place shows in torch's version counter. A change by ``.data`` or NumPy does not, so the bytes of each
    source are hashed too, which takes a third of the time of deriving them. On a GPU it would wait for all work before
    it, so there nothing is kept.
    """

    def __init__(self) -> None:
        self._entries: TensorMap[dict[str, _Entry]] = TensorMap()

    def __len__(self) -> int:
        """Returns the number of tensors from which others are kept."""
        return len(self._entries)

    def get(self, name: str, sources: Sequence[Tensor], derive: Callable[[], Tensor]) -> Tensor:
        """Returns the tensor of this name derived from ``sources``: the one that is kept, or that of ``derive``."""
        entries = self._entries.get(sources[0])
        entry = None if entries is None else entries.get(name)
        states = [_state(tensor) for tensor in sources]
        if entry is not None and entry.states == states and entry.digests == _digests(entry.memory):
            return entry.value
        value = derive()
        if all(_is_in_one_piece(tensor) for tensor in sources):
            memory = [_memory_of(tensor) for tensor in sources]
            if entries is None:
                entries = self._entries[sources[0]] = {}
            entries[name] = _Entry(states, memory, _digests(memory), value)
        return value


DERIVED_WEIGHTS = DerivedTensors()


def _state(tensor: Tensor) -> tuple[Any, ...]:
    return id(tensor), tensor._version, tensor.data_ptr(), tensor.dtype


def _digests(memory: list[np.ndarray[Any, Any]]) -> list[int]:
    return [xxhash.xxh3_64_intdigest(values.data) for values in memory]


def _is_in_one_piece(tensor: Tensor) -> bool:
    """Returns whether a tensor is in the processor's memory, in one piece: its bytes can be read as they lie."""
    return tensor.device.type == "cpu" and (
        tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    )


def _memory_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Returns a view of a tensor's values [n], in the order of its memory."""
    values = tensor.detach().as_strided((tensor.numel(),), (1,))
    kind = _AS_WHOLE_NUMBERS.get(tensor.dtype)
    view: np.ndarray[Any, Any] = (values if kind is None else values.view(kind)).numpy()
    return view
