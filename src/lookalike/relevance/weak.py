"""A mapping from tensors that does not keep them alive."""

import weakref
from typing import Any, Generic, TypeVar, overload

from torch import Tensor

V = TypeVar("V")
D = TypeVar("D")


class _Key(weakref.ref[Tensor]):
    """A weak reference to a tensor that remembers the tensor's ``id``."""

    __slots__ = ("identity",)
    identity: int


class TensorMap(Generic[V]):
    """A mapping whose keys are tensors, compared by identity; an entry disappears with its tensor.

    ``torch.utils.weak.WeakTensorKeyDictionary`` does the same, but creates an object for every look-up. The engine
    looks up a dozen tensors per operation.

    Attributes:
        by_id: The entries, by the tensor's ``id``: for look-ups in loops that must be fast.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, tuple[_Key, V]] = {}
        map_reference = weakref.ref(self)  # a strong one would be a cycle, and keep the entries' values alive

        def drop_entry(key: Any) -> None:
            tensor_map = map_reference()
            if tensor_map is not None:
                tensor_map.by_id.pop(key.identity, None)

        self._drop_entry = drop_entry

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self.by_id

    def __len__(self) -> int:
        return len(self.by_id)

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        key = _Key(tensor, self._drop_entry)
        key.identity = id(tensor)
        self.by_id[key.identity] = key, value

    def __getitem__(self, tensor: Tensor) -> V:
        return self.by_id[id(tensor)][1]

    @overload
    def get(self, tensor: Tensor) -> V | None: ...
    @overload
    def get(self, tensor: Tensor, default: D) -> V | D: ...
    def get(self, tensor: Tensor, default: Any = None) -> Any:
        """Returns the value of a tensor, or the default."""
        entry = self.by_id.get(id(tensor))
        return default if entry is None else entry[1]

    def pop(self, tensor: Tensor) -> None:
        """Removes the entry of a tensor, if there is one."""
        self.by_id.pop(id(tensor), None)
