"""What is known of tensors, for as long as they live."""

import weakref
from typing import Any, Generic, TypeVar, overload

from torch import Tensor

V = TypeVar("V")
D = TypeVar("D")


class _Key(weakref.ref[Tensor]):
    """A weak reference that knows the identity of its tensor."""

    __slots__ = ("identity",)
    identity: int


class OfTensors(Generic[V]):
    """A mapping from tensors, by identity; an entry goes with its tensor.

    Does what ``torch.utils.weak.WeakTensorKeyDictionary`` does, which makes an object for every look-up: the engine
    looks up a dozen tensors per operation.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[_Key, V]] = {}
        entries = weakref.ref(self)  # no cycle: what the entries hold must go when the engine does

        def gone(key: Any) -> None:
            this = entries()
            if this is not None:
                this._entries.pop(key.identity, None)

        self._gone = gone

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        key = _Key(tensor, self._gone)
        key.identity = id(tensor)
        self._entries[key.identity] = key, value

    def __getitem__(self, tensor: Tensor) -> V:
        return self._entries[id(tensor)][1]

    @overload
    def get(self, tensor: Tensor) -> V | None: ...
    @overload
    def get(self, tensor: Tensor, default: D) -> V | D: ...
    def get(self, tensor: Tensor, default: Any = None) -> Any:
        """Returns what is known of a tensor."""
        entry = self._entries.get(id(tensor))
        return default if entry is None else entry[1]

    def pop(self, tensor: Tensor) -> None:
        """Forgets a tensor."""
        self._entries.pop(id(tensor), None)
