"""Writes and reads the PNG pictures of saved models; their headers are checked before any pixel is decoded."""

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.png import encode_png
from lookalike._core.records import one_line

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and name of the first chunk, width, height, depth, colour
_CHANNELS = {0: 1, 2: 3}  # grey and RGB, by PNG's colour type
_MAX_SIDE = 8192  # pixels
# All decoded pictures may take 512 MiB, or 200 times their files: photographs are never compressed more densely.
_MAX_BYTES = 2**29
_MAX_COMPRESSION = 200


def encode_image(pixels: Tensor) -> bytes:
    """Returns a PNG file of uint8 pixels [H, W, C]."""
    return encode_png(pixels.cpu().numpy())


def read_pictures(folder: Path, names: list[list[str]]) -> Tensor:
    """Reads the pictures of each prototype.

    Args:
        folder: The folder of the saved model.
        names: File names, equally many for each prototype [P, M].

    Returns:
        uint8 [P, M, H, W, C].

    Raises:
        LookalikeError: If a picture is no PNG of 8-bit grey or RGB, is too large, or has another size than the first;
            the message names the file.
    """
    sizes = {name: _size_of(folder, name) for row in names for name in row}
    first = names[0][0]
    for name, size in sizes.items():
        if size != sizes[first]:
            raise LookalikeError(f"{name!r} is {_describe_size(size)}, {first!r} is {_describe_size(sizes[first])}")
    shape = (len(names), len(names[0]), *sizes[first])
    decoded_bytes = int(np.prod(shape, dtype=np.float64))
    file_bytes = sum((folder / name).stat().st_size for row in names for name in row)
    if decoded_bytes > max(_MAX_BYTES, _MAX_COMPRESSION * file_bytes):
        raise LookalikeError(f"its pictures would take {decoded_bytes / 2**30:.1f} GiB of memory")
    pixels = np.empty(shape, dtype=np.uint8)
    for j, row in enumerate(names):
        for rank, name in enumerate(row):
            pixels[j, rank] = _decode(folder, name, sizes[first])
    return torch.from_numpy(pixels)


def _size_of(folder: Path, name: str) -> tuple[int, int, int]:
    """Returns the height, width and channels in a picture's header."""
    with (folder / name).open("rb") as file:
        start = file.read(_HEADER.size)
    if len(start) < _HEADER.size or not start.startswith(_SIGNATURE):
        raise LookalikeError(f"{name!r} is no PNG file")
    _, _, chunk, width, height, depth, colour = _HEADER.unpack(start)
    if chunk != b"IHDR" or depth != 8 or colour not in _CHANNELS:
        raise LookalikeError(f"{name!r} is no PNG file of 8-bit grey or RGB pixels")
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE and width * height <= _MAX_SIDE**2 // 4):
        raise LookalikeError(f"{name!r} has {height:,} × {width:,} pixels, which is too large")
    return height, width, _CHANNELS[colour]


def _decode(folder: Path, name: str, size: tuple[int, int, int]) -> np.ndarray:
    try:
        with Image.open(folder / name, formats=["PNG"]) as image:
            array = np.asarray(image)
    except Exception as error:  # decoders raise errors of any class
        raise LookalikeError(f"{name!r} cannot be decoded: {one_line(error)}") from error
    if array.dtype != np.uint8 or array.size != np.prod(size):
        raise LookalikeError(f"{name!r} is not what its header says")
    return array.reshape(size)


def _describe_size(size: tuple[int, int, int]) -> str:
    return f"{size[0]} × {size[1]} pixels in {'grey' if size[2] == 1 else 'RGB'}"
