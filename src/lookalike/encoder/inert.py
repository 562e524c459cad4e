"""The values that pickles are read into: plain values, tensors not yet read, and inert placeholders."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MAX_SIZE = 2**60  # a larger size or stride is nonsense, and overflows in torch


class DamagedFileError(Exception):
    """A file that is not what it claims to be."""


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Inert:
    """A placeholder for an object of any class or the result of any call, with what the pickle says about it.

    Attributes:
        called: The class or function that the pickle would call.
        args: The arguments of the call.
        state: The state that the pickle would give to the object.
        items: The items that it would set, if the object is a dictionary.
        elements: The elements that it would append, if the object is a list.
    """

    called: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.called if isinstance(self.called, Name) else 'unnamed'}>"


@dataclass(frozen=True, eq=False)
class StorageName:
    """A block of numbers in the file.

    Attributes:
        key: The name of the block.
        dtype: The type of its numbers; None for types that are not plain numbers, such as quantised ones.
        start: First byte of a view of the block.
        n_bytes: Declared size in bytes.
        item_size: Bytes per number.
        data: The numbers, if they are inside the pickle.
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
        """Bytes that a contiguous copy takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte of the storage after the last number of the tensor."""
        if 0 in self.shape:
            return 0
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class UnreadTensor:
    """A tensor that is not read, because it is no plain block of numbers.

    Attributes:
        kind: What it is, for error messages, such as ``"sparse"``.
        shape: A placeholder: the real sizes are not read.
    """

    kind: str
    shape: tuple[int, ...] = (0,)


@dataclass(eq=False)
class _ArrayType:
    """NumPy's description of the type of an array's numbers: its code, such as ``f4``, and its byte order."""

    code: str
    order: str = "="


def emulate_call(called: Any, args: Any) -> Any:
    """Returns the result of a call in a pickle.

    The few functions in ``_EMULATIONS``, which create tensors and plain values, have equivalents here. Any other call
    becomes a placeholder.
    """
    if not isinstance(args, tuple):
        args = (args,)
    if isinstance(called, Name):
        module = called.module.replace("numpy._core", "numpy.core")
        emulation = _EMULATIONS.get((module, called.name))
        if emulation is not None:
            try:
                value = emulation(*args)
            except DamagedFileError:
                raise
            except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, LookupError):
                value = None  # unexpected arguments: becomes a placeholder
            if value is not None:
                return value
    return Inert(called, args)


def set_state(target: Any, state: Any) -> Any:
    """Gives an object its state: a placeholder stores it, tensors and plain values need none."""
    if isinstance(target, _ArrayType) and isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
        target.order = state[1]
    elif isinstance(target, Inert):
        if _is_name(target.called, "numpy.core.multiarray", "_reconstruct"):
            array = _array_from_state(state)
            if array is not None:
                return array
        target.state = state
    return target


def storage_type(storage_class: Any) -> torch.dtype | None:
    """Returns the type of the numbers of a storage class; None for quantised and unknown classes."""
    name = storage_class.name if isinstance(storage_class, Name) else ""
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


def _sizes(values: Any) -> tuple[int, ...]:
    """Checks that a shape or stride is a tuple of integers."""
    if not isinstance(values, tuple | list) or len(values) > 64 or any(type(value) is not int for value in values):
        raise DamagedFileError("the sizes of a tensor are not whole numbers")
    return tuple(values)


def _stored_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any
) -> StoredTensor | UnreadTensor | None:
    if not isinstance(storage, StorageName):
        return None
    if storage.dtype is None:
        return UnreadTensor("of an unknown type")
    return _check_view(StoredTensor(storage, storage.dtype, offset, _sizes(shape), _sizes(stride)))


def _stored_typed_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Any:
    torch_dtype = _TYPES.get(dtype.name) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(storage, StorageName) or torch_dtype is None:
        return None
    return _check_view(StoredTensor(storage, torch_dtype, offset, _sizes(shape), _sizes(stride)))


def _check_view(tensor: StoredTensor) -> StoredTensor:
    """Checks that a tensor is a view within its storage.

    Raises:
        DamagedFileError: If it reaches beyond its storage, or its sizes are invalid.
    """
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    are_valid = type(tensor.offset) is int and min(numbers) >= 0 and max(numbers) < _MAX_SIZE
    if not are_valid or len(tensor.shape) != len(tensor.stride):
        raise DamagedFileError(f"a tensor has the sizes {tensor.shape} and the steps {tensor.stride}")
    if max(tensor.end, tensor.logical_bytes and tensor.offset) > tensor.storage.n_bytes:
        raise DamagedFileError(f"a tensor of {tensor.shape} reaches beyond its {tensor.storage.n_bytes} bytes")
    return tensor


def _makes_unread(kind: str) -> "_Emulation":
    return lambda *_: UnreadTensor(kind)


def _first_argument(value: Any = None, *_rest: Any) -> Any:
    """Returns the first argument if it is a tensor: wrappers such as ``Parameter`` add nothing that is needed."""
    return value if isinstance(value, StoredTensor | UnreadTensor | Tensor) else None


def _indirect_call(called: Any, args: Any) -> Any:
    """Returns the result of a call that ``copyreg`` or torch makes for another function.

    A call through a second such function is not followed: a file could chain them without end.
    """
    args = args if isinstance(args, tuple) else (args,)
    indirect = isinstance(called, Name) and called.module in ("copyreg", "copy_reg", "torch._tensor", "torch.tensor")
    return Inert(called, args) if indirect else emulate_call(called, args)


def _tensor_of_subclass(called: Any, _type: Any, args: Any, _state: Any = None) -> Any:
    return _indirect_call(called, args)


def _to_dict(*args: Any) -> dict[Any, Any] | None:
    content = args[-1] if args else None
    if isinstance(content, dict):
        return dict(content)
    pairs = content if isinstance(content, list | tuple) else []
    return {safe_key(pair[0]): pair[1] for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2}


def _to_list(values: Any = (), *_rest: Any) -> list[Any] | None:
    return list(values) if isinstance(values, list | tuple) else None


def _encode(text: Any, _encoding: Any = None) -> bytes | None:
    return text.encode("latin-1") if isinstance(text, str) else None


def _raw_bytes(value: Any = b"", *_rest: Any) -> bytes | None:
    """Returns the given bytes; a number, which would allocate that much memory, gives None."""
    if isinstance(value, str):
        return value.encode("latin-1")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _path(*segments: Any) -> str | None:
    return "/".join(segments).replace("//", "/", 1) if all(isinstance(segment, str) for segment in segments) else None


def _array_type(code: Any, *_rest: Any) -> _ArrayType | None:
    if isinstance(code, bytes):
        code = code.decode("latin-1")
    return _ArrayType(code) if isinstance(code, str) else None


def _numpy_dtype(array_type: Any) -> np.dtype[Any] | None:
    if not isinstance(array_type, _ArrayType) or array_type.code[:1] not in "fiub" or len(array_type.code) > 3:
        return None
    try:
        return np.dtype((array_type.order if array_type.order in "<>" else "=") + array_type.code)
    except TypeError:
        return None


def _scalar(array_type: Any, data: Any = None) -> Any:
    dtype, raw = _numpy_dtype(array_type), _raw_bytes(data)
    if dtype is None or raw is None or len(raw) != dtype.itemsize:
        return None
    return np.frombuffer(raw, dtype)[0].item()


def _array(shape: Any, array_type: Any, data: Any, fortran: Any) -> Tensor | None:
    """Returns a NumPy array as a tensor; None if its numbers are not plain, or its bytes are not in the pickle."""
    dtype, raw = _numpy_dtype(array_type), _raw_bytes(data)
    if dtype is None or raw is None:
        return None
    shape = _sizes(shape)
    if math.prod(shape) * dtype.itemsize != len(raw) or any(n < 0 for n in shape):
        raise DamagedFileError(f"an array of {shape} has {len(raw)} bytes")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    try:
        return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))
    except TypeError:  # a type that torch lacks, such as uint16 in older releases
        return None


def _array_from_state(state: Any) -> Tensor | None:
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _version, shape, array_type, fortran, data = state
    return _array(shape, array_type, data, fortran)


def _array_from_buffer(data: Any, array_type: Any, shape: Any, order: Any = "C") -> Tensor | None:
    return _array(shape, array_type, data, order == "F")


def safe_key(value: Any) -> Any:
    """Returns a key that is quick and safe to hash: plain values unchanged, anything else as a placeholder.

    Hashing deeply nested tuples recurses without limit, and huge integers can be chosen to collide.
    """
    kind = type(value)
    if kind in (str, bytes, float, bool, type(None)) or (kind is int and abs(value) < 2**60):
        return value
    if kind is tuple and len(value) <= 8 and all(type(leaf) in (str, int, float, bool) for leaf in value):
        return value
    return Inert(Name("builtins", kind.__name__))


_Emulation = Callable[..., Any]
# our equivalent of each function that a pickle may call; if it returns None, the call becomes a placeholder
_EMULATIONS: dict[tuple[str, str], _Emulation] = {
    ("torch._utils", "_rebuild_tensor"): _stored_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _stored_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _stored_typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _first_argument,
    ("torch._utils", "_rebuild_parameter_with_state"): _first_argument,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _first_argument,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first_argument,
    ("torch._utils", "_rebuild_xla_tensor"): _first_argument,
    ("torch._utils", "_rebuild_sparse_tensor"): _makes_unread("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _makes_unread("sparse"),
    ("torch._utils", "_rebuild_qtensor"): _makes_unread("quantised"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _makes_unread("without numbers, on the meta device"),
    ("torch._utils", "_rebuild_nested_tensor"): _makes_unread("nested"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _makes_unread("of a special class"),
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_subclass,
    ("torch._tensor", "_rebuild_from_type"): _tensor_of_subclass,
    ("torch.tensor", "_rebuild_from_type"): _tensor_of_subclass,
    ("torch.nn.parameter", "Parameter"): _first_argument,
    ("torch.nn.parameter", "Buffer"): _first_argument,
    ("torch.autograd.variable", "Variable"): _first_argument,
    ("torch", "Size"): lambda sizes=(): tuple(sizes) if isinstance(sizes, list | tuple) else None,
    ("collections", "OrderedDict"): _to_dict,
    ("collections", "defaultdict"): lambda *args: _to_dict(*args[1:]),
    ("collections", "Counter"): _to_dict,
    ("collections", "deque"): _to_list,
    ("_codecs", "encode"): _encode,
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
    ("copy_reg", "_reconstructor"): lambda of, _base=None, _state=None: _indirect_call(of, ()),
    ("copyreg", "_reconstructor"): lambda of, _base=None, _state=None: _indirect_call(of, ()),
    ("copy_reg", "__newobj__"): lambda of, *args: _indirect_call(of, args),
    ("copyreg", "__newobj__"): lambda of, *args: _indirect_call(of, args),
    ("copyreg", "__newobj_ex__"): lambda of, args=(), _named=None: _indirect_call(of, args),
}
for _module in ("builtins", "__builtin__"):
    for _name in ("set", "frozenset", "list", "tuple"):
        _EMULATIONS[_module, _name] = _to_list
    _EMULATIONS[_module, "dict"] = _to_dict
    _EMULATIONS[_module, "bytearray"] = _raw_bytes
    _EMULATIONS[_module, "bytes"] = _raw_bytes
