"""The files of ``torch.save``, the zip archives of today and the pickles before 1.6, read without running anything."""

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

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes of a zip entry's header before its name
_MOST_INFLATED = 20  # times the size of the file: trained weights hardly compress
_MOST_EXPANDED = 256 << 20  # bytes of tensors that repeat a smaller storage, as masks do
_MOST_NUMBERS = 2**48
_ALIGNMENT = 16  # bytes of the largest number; legacy files put their numbers anywhere
_QUANTISED = {"QInt32Storage": 4}

Read = Callable[[StorageName], Tensor]


class TorchFile:
    """What a file of ``torch.save``, or a plain pickle, holds.

    The file is mapped, not read: a tensor's numbers are looked up when they are used.

    Attributes:
        content: Plain values, ``StoredTensor``s and placeholders.
    """

    def __init__(self, content: Any, read: Read) -> None:
        self.content = content
        self._read = read
        self._blocks: dict[tuple[str, int, bytes | None], Tensor] = {}
        self._expanded = 0

    def tensor(self, stored: Tensor | StoredTensor) -> Tensor:
        """Returns a tensor with its numbers, within a private map of the file.

        Raises:
            DamagedFileError: If the file does not hold them.
        """
        if isinstance(stored, Tensor):
            return stored
        if stored.logical_bytes > stored.storage.n_bytes:
            self._expanded += stored.logical_bytes
            if self._expanded > _MOST_EXPANDED:
                raise DamagedFileError(f"its tensors repeat their numbers to more than {_MOST_EXPANDED >> 20} MiB")
        try:
            block = self.block(stored.storage)
            if stored.dtype == torch.bool:  # any byte but zero is true; torch itself trusts that it is one
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
        if sum(entry.file_size for entry in entries.values()) > _MOST_INFLATED * path.stat().st_size + (1 << 20):
            raise DamagedFileError("it unpacks to much more than any weights")
        mapped = _map(path)
        entry = entries[prefix + "data.pkl"]
        pickled = bytes(_entry(path, mapped, entry, verified=False))
        verified = zlib.crc32(pickled) == entry.CRC  # torch can be told to save without checksums
        order = entries.get(prefix + "byteorder")
        swapped = order is not None and bytes(_entry(path, mapped, order, verified)) != sys.byteorder.encode()
    except StopIteration:
        raise DamagedFileError("it is a zip archive without 'data.pkl'") from None
    except _ZIP_ERRORS as error:
        raise DamagedFileError("its zip archive is damaged or cut off") from error

    def read(storage: StorageName) -> Tensor:
        entry = entries.get(f"{prefix}data/{storage.key}")
        if storage.data is not None or entry is None:
            return _own_bytes(storage)
        if not entry.file_size:
            return torch.empty(0, dtype=torch.uint8)
        data = _entry(path, mapped, entry, verified)
        block = torch.frombuffer(data, dtype=torch.uint8)
        return _swapped(block, storage.dtype) if swapped else block

    return TorchFile(unpickle(Stream(pickled), _Storages()), read)


_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, KeyError,
    MemoryError,
)  # fmt: skip


def open_pickle(path: Path) -> TorchFile:
    """Opens a file that ``torch.save`` before 1.6 wrote, or any other pickle.

    Raises:
        DamagedFileError: If it is damaged.
    """
    return _open_stream(memoryview(_map(path)), _storage_in)


def _open_stream(content: memoryview, storage_in: Callable[[bytes], StorageName] | None) -> TorchFile:
    """Opens a pickle in memory, followed by the storages that it names."""
    stream = Stream(content)
    storages = _Storages()
    first = unpickle(stream, storages, storage_in)
    if type(first) is not int or first != LEGACY_MAGIC:
        return TorchFile(first, _own_bytes)
    unpickle(stream)  # the protocol
    unpickle(stream)  # the machine that wrote it
    made = unpickle(stream, storages, storage_in)
    keys = unpickle(stream)
    blocks = _legacy_blocks(content, stream.position, keys, storages.item_sizes)

    def read(storage: StorageName) -> Tensor:
        if storage.data is not None or storage.key not in blocks:
            return _own_bytes(storage)
        start, n_bytes = blocks[storage.key]
        if storage.start >= n_bytes:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(content[start + storage.start : start + n_bytes], dtype=torch.uint8)

    return TorchFile(made, read)


def _legacy_blocks(
    content: memoryview, position: int, keys: Any, item_sizes: dict[str, int]
) -> dict[str, tuple[int, int]]:
    """Returns where the numbers of each storage begin, and how many bytes they take."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedFileError("it ends before its numbers")
    blocks = {}
    for key in keys:
        header = bytes(content[position : position + 8])
        n_bytes = struct.unpack("<q", header)[0] * item_sizes.get(key, 1) if len(header) == 8 else -1
        if not 0 <= n_bytes <= len(content) - position - 8:
            raise DamagedFileError("it ends before its numbers")
        blocks[key] = (position + 8, n_bytes)
        position += 8 + n_bytes
    return blocks


def _storage_in(data: bytes) -> StorageName:
    """Reads a storage that a pickle holds as a file within the file."""
    inner = _open_stream(memoryview(bytearray(data)), None)
    if not isinstance(inner.content, StorageName):
        raise DamagedFileError("its pickle names a storage that is none")
    block = inner.block(inner.content)
    return replace(inner.content, start=0, data=bytes(block.numpy().data) if len(block) else b"")


class _Storages:
    """Reads what a pickle says about blocks of numbers that follow it.

    Attributes:
        item_sizes: Bytes per number of each block, which legacy files say nowhere else.
    """

    def __init__(self) -> None:
        self.item_sizes: dict[str, int] = {}

    def __call__(self, identifier: Any) -> Any:
        if not isinstance(identifier, tuple) or len(identifier) < 2:
            raise DamagedFileError("its pickle names a storage that is none")
        if identifier[0] == "module":  # a class and its source text, in files of whole modules before 1.6
            return identifier[1]
        kind, named, key, _location, n, *more = identifier
        dtype = storage_type(named)
        quantised = _QUANTISED.get(named.name, 1) if isinstance(named, Name) else 1
        size = quantised if dtype is None else dtype.itemsize
        start, view = 0, more[0] if more else None
        if view is not None:
            _view_key, start, n = view
        if kind != "storage" or not isinstance(key, str | int) or not _is_count(n) or not _is_count(start):
            raise DamagedFileError("its pickle names a storage that is none")
        self.item_sizes[str(key)] = size
        return StorageName(str(key), dtype, start * size, n * size, size)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_NUMBERS


def _own_bytes(storage: StorageName) -> Tensor:
    """Returns the numbers that the pickle itself holds."""
    if storage.data:
        return torch.frombuffer(bytearray(storage.data), dtype=torch.uint8)
    if storage.n_bytes:
        raise DamagedFileError(f"its storage {storage.key[:40]!r} is missing")
    return torch.empty(0, dtype=torch.uint8)


def _view(block: Tensor, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    empty = torch.empty(0, dtype=dtype)
    if 0 in stored.shape:
        return empty.reshape(stored.shape)
    return empty.set_(block.untyped_storage(), stored.offset, stored.shape, stored.stride)


def _swapped(block: Tensor, dtype: torch.dtype | None) -> Tensor:
    size = 1 if dtype is None else dtype.itemsize // (2 if dtype.is_complex else 1)
    return block.view(-1, size).flip(1).reshape(-1).contiguous()


def _entry(path: Path, mapped: mmap.mmap, entry: zipfile.ZipInfo, verified: bool) -> Any:
    """Returns an archive's entry, as a part of the map where it is not compressed.

    Raises:
        DamagedFileError: If it is not whole.
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


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # private: what is written stays in memory
