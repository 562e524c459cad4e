"""Reads and writes safetensors files; the header is checked against the file before memory is allocated."""

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.files import path_as_text
from lookalike._core.records import from_json, one_line, parse_json, shown

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """The entry of a tensor in a safetensors header.

    Attributes:
        dtype: The type of its numbers, by safetensors' name.
        shape: Its shape.
        data_offsets: Its first byte and the byte after its last, counted from the end of the header.
    """

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def n_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Reads and checks a safetensors header; no tensor is read.

    Raises:
        LookalikeError: If the header is damaged, or does not fit the file's size; the message is only the reason.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise LookalikeError(f"it has {size} bytes, which is no safetensors file")
        (length,) = _LENGTH.unpack(start)
        if length > min(size - _LENGTH.size, _MAX_HEADER):
            raise LookalikeError(f"it is cut off or damaged: its header declares {length:,} bytes of {size:,}")
        content = file.read(length)
    entries: Any = parse_json(content.rstrip(b" "))
    if not isinstance(entries, dict):
        raise LookalikeError("its header is no table of tensors")
    entries.pop("__metadata__", None)
    declared = {name: from_json(TensorHeader, entry, shown(name)) for name, entry in entries.items()}
    for name, tensor in declared.items():
        if tensor.dtype not in _BYTES:
            raise LookalikeError(f"{shown(name)} has the unknown type {shown(tensor.dtype)}")
        first, end = tensor.data_offsets
        if min(tensor.shape, default=0) < 0 or end - first != tensor.n_values * _BYTES[tensor.dtype]:
            raise LookalikeError(f"{shown(name)} of shape {shown(tensor.shape)} does not fit its {end - first:,} bytes")
    # the tensors must fill the data without gaps or overlaps
    spans = sorted(tensor.data_offsets for tensor in declared.values())
    end_of_data = size - _LENGTH.size - length
    if any(a[1] != b[0] for a, b in pairwise([(0, 0), *spans, (end_of_data, end_of_data)])):
        raise LookalikeError(f"it is cut off or damaged: its tensors do not fill its {end_of_data:,} bytes of data")
    return declared


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file whose header was checked.

    Raises:
        LookalikeError: If the file cannot be read; the message is only the reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with path_as_text(path) as file:
            return load_file(file)  # type: ignore[no-any-return]
    except (SafetensorError, OSError, KeyError, AttributeError, RuntimeError) as error:
        raise LookalikeError(one_line(error)) from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors.

    Raises:
        OSError: If the disk is full or fails; safetensors itself would raise its own class of error.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
