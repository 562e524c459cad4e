"""The values that a pickle is read into: plain values, tensors not yet read, and placeholders that do nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGEST = 2**60  # a size or step beyond it is nonsense, and overflows in torch


class DamagedFileError(Exception):
    """A file that cannot be read as what it claims to be."""


@dataclass(frozen=True, eq=False)
class Name:
    """A name that a pickle mentions. The module is never imported and the name never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Inert:
    """Stands for an object of any class or the result of any call: it only remembers what the pickle says about it.

    Attributes:
        of: The class or function that the pickle names.
        args: Its arguments.
        state: What the pickle would have set as the object's state.
        items: Its items, for a dictionary.
        elements: Its elements, for a list.
    """

    of: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.of if isinstance(self.of, Name) else 'unnamed'}>"


@dataclass(frozen=True, eq=False)
class StorageName:
    """A block of numbers in the file.

    Attributes:
        key: Its name.
        dtype: The type of its numbers; None for one that torch cannot hold as plain numbers.
        start: Where a view of the block begins, in bytes.
        n_bytes: Size in bytes, as declared.
        item_size: Bytes per number.
        data: The numbers themselves, where the pickle holds them.
    """

    key: str
    dtype: torch.dtype | None
    start: int
    n_bytes: int
    item_size: int
    data: bytes | None = None


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose numbers have not been read."""

    storage: StorageName
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def logical_bytes(self) -> int:
        """The memory that a contiguous copy takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The first byte of the storage behind the last number."""
        if 0 in self.shape:
            return 0
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


@dataclass(eq=False)
class _ArrayType:
    """NumPy's description of an array's numbers."""

    code: str
    order: str = "="


def make(called: Any, args: Any) -> Any:
    """Returns what a call gives, for the few names that make tensors and plain values; else a placeholder."""
    if not isinstance(args, tuple):
        args = (args,)
    if isinstance(called, Name):
        module = called.module.replace("numpy._core", "numpy.core")
        maker = _MAKERS.get((module, called.name))
        if maker is not None:
            try:
                made = maker(*args)
            except DamagedFileError:
                raise
            except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, LookupError):
                made = None  # other arguments than the name takes: kept as they are
            if made is not None:
                return made
    return Inert(called, args)


def build(made: Any, state: Any) -> Any:
    """Returns an object with a state; the placeholder keeps it, tensors and plain values need none."""
    if isinstance(made, _ArrayType) and isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
        made.order = state[1]
    elif isinstance(made, Inert):
        if _is_name(made.of, "numpy.core.multiarray", "_reconstruct"):
            array = _array_from_state(state)
            if array is not None:
                return array
        made.state = state
    return made


def storage_type(named: Any) -> torch.dtype | None:
    """Returns the type of a storage's numbers; None for quantised ones and unknown names."""
    name = named.name if isinstance(named, Name) else ""
    return _STORAGES.get(name)


def _is_name(value: Any, module: str, name: str) -> bool:
    return (
        isinstance(value, Name) and value.module.replace("numpy._core", "numpy.core") == module and value.name == name
    )


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}
_TYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and not name.startswith(("q", "bits"))
}


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 64 or any(type(value) is not int for value in values):
        raise DamagedFileError("the sizes of a tensor are no whole numbers")
    return tuple(values)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> StoredTensor | None:
    if not isinstance(storage, StorageName) or storage.dtype is None:
        return None
    return _checked(StoredTensor(storage, storage.dtype, offset, _whole_numbers(shape), _whole_numbers(stride)))


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    known = _TYPES.get(dtype.name) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(storage, StorageName) or known is None:
        return None
    return _checked(StoredTensor(storage, known, offset, _whole_numbers(shape), _whole_numbers(stride)))


def _checked(tensor: StoredTensor) -> StoredTensor:
    """Checks that a tensor is a view within its storage.

    Raises:
        DamagedFileError: If it reaches beyond.
    """
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    whole = type(tensor.offset) is int and min(numbers) >= 0 and max(numbers) < _LARGEST
    if not whole or len(tensor.shape) != len(tensor.stride):
        raise DamagedFileError(f"a tensor has the sizes {tensor.shape} and the steps {tensor.stride}")
    if max(tensor.end, tensor.logical_bytes and tensor.offset) > tensor.storage.n_bytes:
        raise DamagedFileError(f"a tensor of {tensor.shape} reaches beyond its {tensor.storage.n_bytes} bytes")
    return tensor


def _first(value: Any = None, *_rest: Any) -> Any:
    return value if isinstance(value, StoredTensor | Tensor) else None


def _object(called: Any, args: Any) -> Any:
    """Returns what a call by way of another one gives; further ways are not followed, as they might never end."""
    args = args if isinstance(args, tuple) else (args,)
    indirect = isinstance(called, Name) and called.module in ("copyreg", "copy_reg", "torch._tensor", "torch.tensor")
    return Inert(called, args) if indirect else make(called, args)


def _of_type(called: Any, _type: Any, args: Any, _state: Any = None) -> Any:
    return _object(called, args)


def _mapping(*args: Any) -> dict[Any, Any] | None:
    given = args[-1] if args else None
    if isinstance(given, dict):
        return dict(given)
    pairs = given if isinstance(given, list | tuple) else []
    return {key_of(pair[0]): pair[1] for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2}


def _elements(values: Any = (), *_rest: Any) -> list[Any] | None:
    return list(values) if isinstance(values, list | tuple) else None


def _bytes(text: Any, _encoding: Any = None) -> bytes | None:
    return text.encode("latin-1") if isinstance(text, str) else None


def _raw_bytes(value: Any = b"", *_rest: Any) -> bytes | None:
    """A bytearray of given bytes; a number would ask for memory."""
    if isinstance(value, str):
        return value.encode("latin-1")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _path(*parts: Any) -> str | None:
    return "/".join(parts).replace("//", "/", 1) if all(isinstance(part, str) for part in parts) else None


def _array_type(code: Any, *_rest: Any) -> _ArrayType | None:
    if isinstance(code, bytes):
        code = code.decode("latin-1")
    return _ArrayType(code) if isinstance(code, str) else None


def _dtype_of(described: Any) -> np.dtype[Any] | None:
    if not isinstance(described, _ArrayType) or described.code[:1] not in "fiub" or len(described.code) > 3:
        return None
    try:
        return np.dtype((described.order if described.order in "<>" else "=") + described.code)
    except TypeError:
        return None


def _scalar(described: Any, data: Any = None) -> Any:
    dtype, raw = _dtype_of(described), _raw_bytes(data)
    if dtype is None or raw is None or len(raw) != dtype.itemsize:
        return None
    return np.frombuffer(raw, dtype)[0].item()


def _array(shape: Any, described: Any, data: Any, fortran: Any) -> Tensor | None:
    """A NumPy array as a tensor; None where its numbers are no plain ones, or not all there."""
    dtype, raw = _dtype_of(described), _raw_bytes(data)
    if dtype is None or raw is None:
        return None
    shape = _whole_numbers(shape)
    if math.prod(shape) * dtype.itemsize != len(raw) or any(n < 0 for n in shape):
        raise DamagedFileError(f"an array of {shape} has {len(raw)} bytes")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    try:
        return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))
    except TypeError:  # a type that torch has not, as uint16 in older releases
        return None


def _array_from_state(state: Any) -> Tensor | None:
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _version, shape, described, fortran, data = state
    return _array(shape, described, data, fortran)


def _array_from_buffer(data: Any, described: Any, shape: Any, order: Any = "C") -> Tensor | None:
    return _array(shape, described, data, order == "F")


def key_of(value: Any) -> Any:
    """Returns a key that is quick and safe to hash: a plain value as it is, anything else as a placeholder.

    Nested tuples would hash by recursion without end, and huge integers can be made to collide.
    """
    kind = type(value)
    if kind in (str, bytes, float, bool, type(None)) or (kind is int and abs(value) < 2**60):
        return value
    if kind is tuple and len(value) <= 8 and all(type(leaf) in (str, int, float, bool) for leaf in value):
        return value
    return Inert(Name("builtins", kind.__name__))


_Maker = Callable[..., Any]
_MAKERS: dict[tuple[str, str], _Maker] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _first,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    ("torch._utils", "_rebuild_xla_tensor"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch._tensor", "_rebuild_from_type"): _of_type,
    ("torch.tensor", "_rebuild_from_type"): _of_type,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch.nn.parameter", "Buffer"): _first,
    ("torch.autograd.variable", "Variable"): _first,
    ("torch", "Size"): lambda sizes=(): tuple(sizes) if isinstance(sizes, list | tuple) else None,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): lambda *args: _mapping(*args[1:]),
    ("collections", "Counter"): _mapping,
    ("collections", "deque"): _elements,
    ("_codecs", "encode"): _bytes,
    ("pathlib", "PosixPath"): _path,
    ("pathlib", "WindowsPath"): _path,
    ("pathlib", "PurePosixPath"): _path,
    ("pathlib", "PureWindowsPath"): _path,
    ("pathlib", "Path"): _path,
    ("pathlib._local", "PosixPath"): _path,
    ("pathlib._local", "WindowsPath"): _path,
    ("numpy", "dtype"): _array_type,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("copy_reg", "_reconstructor"): lambda of, _base=None, _state=None: _object(of, ()),
    ("copyreg", "_reconstructor"): lambda of, _base=None, _state=None: _object(of, ()),
    ("copy_reg", "__newobj__"): lambda of, *args: _object(of, args),
    ("copyreg", "__newobj__"): lambda of, *args: _object(of, args),
    ("copyreg", "__newobj_ex__"): lambda of, args=(), _named=None: _object(of, args),
}
for _module in ("builtins", "__builtin__"):
    for _name in ("set", "frozenset", "list", "tuple"):
        _MAKERS[_module, _name] = _elements
    _MAKERS[_module, "dict"] = _mapping
    _MAKERS[_module, "bytearray"] = _raw_bytes
    _MAKERS[_module, "bytes"] = _raw_bytes
