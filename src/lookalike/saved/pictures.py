"""The pictures of a saved model: PNG files, whose headers are read before any pixel is decoded."""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.records import one_line

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")  # signature, length and name of the first chunk, width, height, depth, colour
_CHANNELS = {0: 1, 2: 3}  # grey and RGB, by PNG's colour type
_LONGEST_SIDE = 8192
_MAX_BYTES = 2**29  # of all pictures, decoded …
_LARGEST_RATIO = 200  # … unless their files are that large: photographs are never packed so densely


def encode_image(pixels: Tensor) -> bytes:
    """Returns a PNG file of uint8 pixels [H, W, C]."""
    buffer = io.BytesIO()
    array = pixels.cpu().numpy()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def read_pictures(folder: Path, names: list[list[str]]) -> Tensor:
    """Reads the pictures of each prototype.

    Args:
        folder: The saved model's.
        names: Equally many for each prototype [P, M].

    Returns:
        uint8 [P, M, H, W, C].

    Raises:
        LookalikeError: If a picture is no PNG of 8-bit grey or RGB, is too large, or of another size than the first;
            it names the file.
    """
    sizes = {name: _size_of(folder, name) for row in names for name in row}
    first = names[0][0]
    for name, size in sizes.items():
        if size != sizes[first]:
            raise LookalikeError(f"{name!r} is {_described(size)}, {first!r} is {_described(sizes[first])}")
    shape = (len(names), len(names[0]), *sizes[first])
    n_bytes = int(np.prod(shape, dtype=np.float64))
    stored = sum((folder / name).stat().st_size for row in names for name in row)
    if n_bytes > max(_MAX_BYTES, _LARGEST_RATIO * stored):
        raise LookalikeError(f"its pictures would take {n_bytes / 2**30:.1f} GiB of memory")
    pixels = np.empty(shape, dtype=np.uint8)
    for j, row in enumerate(names):
        for rank, name in enumerate(row):
            pixels[j, rank] = _decoded(folder, name, sizes[first])
    return torch.from_numpy(pixels)


def _size_of(folder: Path, name: str) -> tuple[int, int, int]:
    """Returns height, width and channels as a picture's header says them."""
    with (folder / name).open("rb") as file:
        start = file.read(_HEADER.size)
    if len(start) < _HEADER.size or not start.startswith(_SIGNATURE):
        raise LookalikeError(f"{name!r} is no PNG file")
    _, _, chunk, width, height, depth, colour = _HEADER.unpack(start)
    if chunk != b"IHDR" or depth != 8 or colour not in _CHANNELS:
        raise LookalikeError(f"{name!r} is no PNG file of 8-bit grey or RGB pixels")
    if not (1 <= width <= _LONGEST_SIDE and 1 <= height <= _LONGEST_SIDE and width * height <= _LONGEST_SIDE**2 // 4):
        raise LookalikeError(f"{name!r} has {height:,} × {width:,} pixels, which is too large")
    return height, width, _CHANNELS[colour]


def _decoded(folder: Path, name: str, size: tuple[int, int, int]) -> np.ndarray:
    try:
        with Image.open(folder / name, formats=["PNG"]) as image:
            array = np.asarray(image)
    except Exception as error:  # a decoder raises whatever it likes
        raise LookalikeError(f"{name!r} cannot be decoded: {one_line(error)}") from error
    if array.dtype != np.uint8 or array.size != np.prod(size):
        raise LookalikeError(f"{name!r} is not what its header says")
    return array.reshape(size)


def _described(size: tuple[int, int, int]) -> str:
    return f"{size[0]} × {size[1]} pixels in {'grey' if size[2] == 1 else 'RGB'}"
