"""Recognises the format of a file of weights by its first bytes; the suffix is ignored."""

import json
import re
import struct
import zipfile
from enum import Enum
from pathlib import Path

from lookalike._core.errors import LookalikeError


class Format(Enum):
    """The kinds of files and folders that weights are read from."""

    SAFETENSORS = "safetensors"
    ZIP = "torch.save"
    PICKLE = "pickle"
    INDEX = "index of shards"
    FOLDER = "folder"


_START = 4096  # bytes of the file that are looked at
_MAX_HEADER = 100_000_000  # bytes of a safetensors header, as its library allows
_RESAVE = "save its state_dict() where it was made, best with safetensors.torch.save_file, and give that file"
_UNPACK = "unpack it and give the file of weights in it"
_CONVERT = "load it with {}, convert the network to PyTorch, and give its saved state_dict()"
# files that are refused by name: offset and bytes of their signature, what they are, and the way out
_REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write it", _CONVERT.format("Keras")),
    (0, b"\x93NUMPY", "one NumPy array", _RESAVE),
    (4, b"TFL3", "a TensorFlow Lite model", _CONVERT.format("TensorFlow")),
    (0, b"GGUF", "a GGUF file of quantised weights", "give the original weights, before they were quantised"),
    (4, b"ftrt", "a TensorRT engine, which is made for one GPU", "give the weights that it was made from"),
    (0, b"MATLAB 5.0", "a MATLAB file", _RESAVE),
    (
        0,
        b"\x00\x05\x16\x07",
        "a companion file of macOS, not the weights",
        "give the file whose name lacks the '._'",
    ),
    (0, b"\x89PNG", "a picture", "give the file of weights"),
    (0, b"\xff\xd8\xff", "a picture", "give the file of weights"),
    (0, b"%PDF", "a PDF document", "give the file of weights"),
)


def recognise(path: Path) -> Format:
    """Returns the format of a file or folder of weights.

    Raises:
        LookalikeError: If it is missing, empty, or of a format that is not supported; the message says what to do.
    """
    if "\0" in str(path):
        raise LookalikeError(f"{str(path)!r} is not a file name")
    if path.is_dir():
        return Format.FOLDER
    if not path.is_file():
        raise LookalikeError(f"the weights file {str(path)!r} does not exist")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        raise LookalikeError(f"cannot read the weights file {str(path)!r}: {error.strerror or error}") from error
    if size == 0:
        raise refusal(path, "is empty", "its download or copy broke off: get it again")
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _recognise_zip(path)
    for offset, magic, kind, way_out in _REFUSED:
        if start[offset : offset + len(magic)] == magic:
            raise refusal(path, f"is {kind}", way_out)
    if _is_safetensors(start, size):
        return Format.SAFETENSORS
    if start[:1] == b"\x80" and len(start) > 1 and start[1] <= 5:
        return Format.PICKLE
    _refuse_text(path, start)
    if start.lstrip()[:1] == b"{" and _is_text(start):
        return _recognise_json(path, size)
    if _is_onnx(start):
        raise refusal(path, "is an ONNX model", f"ONNX keeps no PyTorch names: {_RESAVE}")
    if start[:1] in b"(c]}l" and size > 2:  # pickles of protocols 0 (text) and 1
        return Format.PICKLE
    if _is_text(start):
        raise refusal(path, f"is text ({_first_line(start)})", "give the file of weights")
    raise refusal(path, "is damaged or of an unknown kind", _RESAVE)


def refusal(path: Path, problem: str, way_out: str) -> LookalikeError:
    """Returns the error for a file of weights that cannot be read."""
    return LookalikeError(f"cannot read the weights file {str(path)!r}: it {problem}; {way_out}")


def _is_safetensors(start: bytes, size: int) -> bool:
    # 8 bytes with the length of the JSON header, then the header; a file that was cut off is recognised too
    if len(start) < 9:
        return False
    header: int = struct.unpack("<Q", start[:8])[0]
    return start[8:9] == b"{" and 0 < header <= _MAX_HEADER and (header + 8 <= size or start[9:10] in b'"} ')


def _recognise_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, MemoryError) as error:
        raise refusal(
            path, "starts as a file of torch.save, and its end is missing or damaged", "get or copy it again"
        ) from error
    inner = {name.partition("/")[2] for name in names} | set(names)
    suffixes = {Path(name).suffix for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        way_out = "save the state_dict() of the network that it was made from, and give that"
        raise refusal(path, "is a TorchScript program, whose code is not run", way_out)
    if "data.pkl" in inner:
        return Format.ZIP
    if inner & {"serialized_exported_program.json", "archive_format", "models/model.json"}:
        raise refusal(path, "is a program of torch.export, whose code is not run", _RESAVE)
    if suffixes == {".npy"}:
        raise refusal(path, f"is a NumPy archive of {len(names)} arrays", _RESAVE)
    if "model.weights.h5" in inner:
        raise refusal(path, "is a Keras model", _CONVERT.format("Keras"))
    if "MAR-INF/MANIFEST.json" in names:
        raise refusal(path, "is a TorchServe archive", _UNPACK)
    listed = ", ".join(repr(name[:60]) for name in names[:3]) + (" …" if len(names) > 3 else "")
    raise refusal(path, f"is a zip archive of {len(names)} files ({listed})", _UNPACK)


def _refuse_text(path: Path, start: bytes) -> None:
    if start.startswith(b"version https://git-lfs"):
        declared = re.search(rb"size (\d{1,20})", start)
        size = f" for {int(declared[1]):,} bytes" if declared else ""
        raise refusal(
            path, f"is a Git LFS pointer{size}, not the weights", "run 'git lfs pull', or download the file itself"
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<script")):
        raise refusal(path, "is a web page", "the download led to a page and not to the file: get the file itself")


def _recognise_json(path: Path, size: int) -> Format:
    if size > _MAX_HEADER:
        raise refusal(path, "is JSON text", "give the file of weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        return Format.INDEX
    raise refusal(path, "is JSON text that names no weights", "give the file of weights, or its '.index.json'")


def _is_onnx(start: bytes) -> bool:
    """Says whether a file starts as ONNX does: a small version number, then one of the first fields."""
    return len(start) > 3 and start[0] == 0x08 and 1 <= start[1] <= 40 and start[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:
            return False
        text = start[: error.start].decode("utf-8")
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)


def _first_line(start: bytes) -> str:
    line = start[:200].decode("utf-8", "replace").strip().splitlines()
    return repr((line or [""])[0][:40])
