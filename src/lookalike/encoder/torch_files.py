"""Reads files of ``torch.save``, zip archives and the pickles before torch 1.6, without running code in them."""

import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookalike.encoder.inert import DamagedFileError, Name, StorageName, StoredTensor, storage_type
from lookalike.encoder.unpickling import Stream, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first value in files of torch.save before 1.6
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name
_MAX_INFLATION = 20  # unpacked size over the size of the file: trained weights hardly compress
_MAX_EXPANDED = 256 << 20  # bytes of all tensors that repeat a smaller storage, as masks do
_MAX_NUMBERS = 2**48  # in a storage: more than any memory holds
_ALIGNMENT = 16  # bytes of the largest number; blocks in legacy files are not aligned
_QUANTISED = {"QInt32Storage": 4}  # bytes per number of quantised storages; 1 for all others

StorageReader = Callable[[StorageName], Tensor]


class TorchFile:
    """The content of a file of ``torch.save``, or of a plain pickle.

    The file is mapped into memory, not read: the numbers of a tensor are read when they are used.

    Attributes:
        content: Plain values, ``StoredTensor``s and placeholders.
    """

    def __init__(self, content: Any, read: StorageReader) -> None:
        self.content = content
        self._read = read
        self._blocks: dict[tuple[str, int, bytes | None], Tensor] = {}
        self._expanded_bytes = 0

    def tensor(self, stored: Tensor | StoredTensor) -> Tensor:
        """Returns a tensor with its numbers, within a private map of the file.

        Raises:
            DamagedFileError: If the file does not hold them.
        """
        if isinstance(stored, Tensor):
            return stored
        if stored.logical_bytes > stored.storage.n_bytes:
            self._expanded_bytes += stored.logical_bytes
            if self._expanded_bytes > _MAX_EXPANDED:
                raise DamagedFileError(f"its tensors repeat their numbers to more than {_MAX_EXPANDED >> 20} MiB")
        try:
            block = self.block(stored.storage)
            if stored.dtype == torch.bool:  # torch expects 0 or 1; here any byte but 0 is true
                return _view(block, stored, torch.uint8) != 0
            return _view(block, stored, stored.dtype)
        except (RuntimeError, ValueError, OverflowError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise DamagedFileError(f"a tensor of {stored.shape} cannot be read") from error

    def block(self, storage: StorageName) -> Tensor:
        """Returns a storage as bytes [n].

        Raises:
            DamagedFileError: If the file does not hold them all.
        """
        key = (storage.key, storage.start, storage.data)
        if key not in self._blocks:
            block = self._read(storage)
            self._blocks[key] = block.clone() if block.data_ptr() % _ALIGNMENT else block
        block = self._blocks[key]
        if len(block) < storage.n_bytes:
            raise DamagedFileError(f"a storage in it has {len(block)} bytes instead of {storage.n_bytes}")
        return block


def open_zip(path: Path) -> TorchFile:
    """Opens a file that ``torch.save`` of 1.6 or later wrote.

    Raises:
        DamagedFileError: If it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        prefix = next(name for name in entries if f"/{name}".endswith("/data.pkl")).removesuffix("data.pkl")
        if sum(entry.file_size for entry in entries.values()) > _MAX_INFLATION * path.stat().st_size + (1 << 20):
            raise DamagedFileError("it unpacks to much more than any weights")
        mapped = _map_file(path)
        entry = entries[prefix + "data.pkl"]
        pickled = bytes(_read_entry(path, mapped, entry, verified=False))
        verified = zlib.crc32(pickled) == entry.CRC  # torch has an option to save without checksums
        order = entries.get(prefix + "byteorder")
        swapped = order is not None and bytes(_read_entry(path, mapped, order, verified)) != sys.byteorder.encode()
    except StopIteration:
        raise DamagedFileError("it is a zip archive without 'data.pkl'") from None
    except _ZIP_ERRORS as error:
        raise DamagedFileError("its zip archive is damaged or cut off") from error

    def read(storage: StorageName) -> Tensor:
        entry = entries.get(f"{prefix}data/{storage.key}")
        if storage.data is not None or entry is None:
            return _bytes_in_pickle(storage)
        if not entry.file_size:
            return torch.empty(0, dtype=torch.uint8)
        data = _read_entry(path, mapped, entry, verified)
        block = torch.frombuffer(data, dtype=torch.uint8)
        return _swap_bytes(block, storage.dtype) if swapped else block

    return TorchFile(unpickle(Stream(pickled), _StorageReferences()), read)


_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, KeyError,
    MemoryError,
)  # fmt: skip


def open_pickle(path: Path) -> TorchFile:
    """Opens a file that ``torch.save`` before 1.6 wrote, or any other pickle.

    Raises:
        DamagedFileError: If it is damaged.
    """
    return _open_stream(memoryview(_map_file(path)), _nested_storage)


def _open_stream(data: memoryview, nested_storage: Callable[[bytes], StorageName] | None) -> TorchFile:
    """Opens a pickle in memory and, in a legacy file of ``torch.save``, the blocks of numbers after it."""
    stream = Stream(data)
    storages = _StorageReferences()
    first_value = unpickle(stream, storages, nested_storage)
    if type(first_value) is not int or first_value != LEGACY_MAGIC:
        return TorchFile(first_value, _bytes_in_pickle)
    # a legacy file is a row of pickles (magic, protocol, machine, content, keys), then the blocks of the keys
    unpickle(stream)  # the protocol
    unpickle(stream)  # a description of the machine that wrote it
    content = unpickle(stream, storages, nested_storage)
    keys = unpickle(stream)
    blocks = _legacy_blocks(data, stream.position, keys, storages.item_sizes)

    def read(storage: StorageName) -> Tensor:
        if storage.data is not None or storage.key not in blocks:
            return _bytes_in_pickle(storage)
        start, n_bytes = blocks[storage.key]
        if storage.start >= n_bytes:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(data[start + storage.start : start + n_bytes], dtype=torch.uint8)

    return TorchFile(content, read)


def _legacy_blocks(
    data: memoryview, position: int, keys: Any, item_sizes: dict[str, int]
) -> dict[str, tuple[int, int]]:
    """Returns the first byte and the number of bytes of each storage's numbers."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedFileError("it ends before its numbers")
    blocks = {}
    for key in keys:
        header = bytes(data[position : position + 8])
        n_bytes = struct.unpack("<q", header)[0] * item_sizes.get(key, 1) if len(header) == 8 else -1
        if not 0 <= n_bytes <= len(data) - position - 8:
            raise DamagedFileError("it ends before its numbers")
        blocks[key] = (position + 8, n_bytes)
        position += 8 + n_bytes
    return blocks


def _nested_storage(data: bytes) -> StorageName:
    """Reads a storage that is saved inside a pickle as the bytes of another file."""
    inner = _open_stream(memoryview(bytearray(data)), None)
    if not isinstance(inner.content, StorageName):
        raise DamagedFileError("its pickle refers to something that is no storage")
    block = inner.block(inner.content)
    return replace(inner.content, start=0, data=bytes(block.numpy().data) if len(block) else b"")


class _StorageReferences:
    """Reads a pickle's references to blocks of numbers outside of it.

    Attributes:
        item_sizes: Bytes per number of each block; legacy files need them to find the end of a block.
    """

    def __init__(self) -> None:
        self.item_sizes: dict[str, int] = {}

    def __call__(self, identifier: Any) -> Any:
        if not isinstance(identifier, tuple) or len(identifier) < 2:
            raise DamagedFileError("its pickle refers to something that is no storage")
        if identifier[0] == "module":  # a class and its source text, in files of whole networks before 1.6
            return identifier[1]
        kind, storage_class, key, _location, n, *view_metadata = identifier
        dtype = storage_type(storage_class)
        quantised = _QUANTISED.get(storage_class.name, 1) if isinstance(storage_class, Name) else 1
        item_size = quantised if dtype is None else dtype.itemsize
        start = 0
        if view_metadata and view_metadata[0] is not None:
            _view_key, start, n = view_metadata[0]
        if kind != "storage" or not isinstance(key, str | int) or not _is_count(n) or not _is_count(start):
            raise DamagedFileError("its pickle refers to something that is no storage")
        self.item_sizes[str(key)] = item_size
        return StorageName(str(key), dtype, start * item_size, n * item_size, item_size)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBERS


def _bytes_in_pickle(storage: StorageName) -> Tensor:
    """Returns the numbers of a storage that are inside the pickle."""
    if storage.data:
        return torch.frombuffer(bytearray(storage.data), dtype=torch.uint8)
    if storage.n_bytes:
        raise DamagedFileError(f"its storage {storage.key[:40]!r} is missing")
    return torch.empty(0, dtype=torch.uint8)


def _view(block: Tensor, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Returns a tensor that shares the memory of its block."""
    empty = torch.empty(0, dtype=dtype)
    if 0 in stored.shape:
        return empty.reshape(stored.shape)
    return empty.set_(block.untyped_storage(), stored.offset, stored.shape, stored.stride)


def _swap_bytes(block: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Reverses the bytes of each number, for files from a machine with the other byte order."""
    size = 1 if dtype is None else dtype.itemsize // (2 if dtype.is_complex else 1)
    return block.view(-1, size).flip(1).reshape(-1).contiguous()


def _read_entry(path: Path, mapped: mmap.mmap, entry: zipfile.ZipInfo, verified: bool) -> Any:
    """Returns the bytes of an archive's entry: part of the memory map, or unpacked if the entry is compressed.

    Raises:
        DamagedFileError: If the entry is incomplete, or its checksum is wrong.
    """
    if entry.compress_type != zipfile.ZIP_STORED:
        with zipfile.ZipFile(path) as archive:
            return bytearray(archive.read(entry))
    header = mapped[entry.header_offset : entry.header_offset + _LOCAL_HEADER]
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise DamagedFileError("its zip archive is damaged")
    name, extra = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + _LOCAL_HEADER + int(name) + int(extra)
    data = memoryview(mapped)[start : start + entry.file_size]
    if len(data) < entry.file_size:
        raise DamagedFileError("its zip archive is cut off")
    if verified and zlib.crc32(data) != entry.CRC:
        raise DamagedFileError(f"the checksum of {entry.filename!r} in it is wrong: get or copy it again")
    return data


def _map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: writes stay in memory
