"""Decodes JPEG files with libjpeg-turbo, without a detour over Pillow's pictures.

Only files whose pixels are certainly those of Pillow are decoded here: one frame of 8 bits in grey or YCbCr, complete,
upright, and not huge. All others (CMYK, RGB without conversion, several pictures in one file, arithmetic coding, cut
off files) go to Pillow, which also finds the error if there is one. So does whatever fails here.
"""

import os
import stat
import threading
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lookalike.data.images import ImageSource, ScaleOf

_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE = 0xC0
_FRAMES = (_BASELINE, 0xC1, 0xC2)  # baseline, extended and progressive, with Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8}  # lossless, hierarchical, arithmetic; C4 and C8 are none
_SCAN, _APP1, _APP2, _APP14 = 0xDA, 0xE1, 0xE2, 0xEE
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_ORIENTATION = 0x0112  # the EXIF tag
_YCBCR = 1  # Adobe's transform of three components
_MAX_BYTES = 1 << 28  # of a file; longer ones are left to Pillow
_MOST_SCRATCH = 1 << 25  # bytes that each thread keeps: a picture of 11 million pixels
_READ_AT_ONCE = 1 << 20  # bytes; of a larger file the start is looked at first
# Opening a pipe would wait for one who writes, without the first. Windows has no such flag, and needs the other.
_OPEN_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SHARE_OF_LIMIT = 3  # larger pictures go to Pillow's reader, which weighs their memory


class _Scratch(threading.local):
    """Memory of each thread for the picture that it decodes."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def of(self, n_bytes: int) -> bytearray | None:
        """Returns memory of at least this size; None for more than a thread should keep."""
        if n_bytes > _MOST_SCRATCH:
            return None
        if len(self._memory) < n_bytes:
            self._memory = bytearray(n_bytes)
        return self._memory


_SCRATCH = _Scratch()


@dataclass
class _Header:
    """What the segments before the first scan say."""

    components: list[int] = field(default_factory=list)  # identifiers
    size: tuple[int, int] = (0, 0)
    bits: int = 0
    frame: int = 0
    exif: list[bytes] = field(default_factory=list)
    is_plain: bool = True


def read_jpeg(
    source: ImageSource, channels: int, scale_of: ScaleOf | None = None, *, in_scratch: bool = False
) -> Tensor | None:
    """Reads and decodes a JPEG file; see ``decode_jpeg``. None, and no error, for everything that is left to Pillow."""
    content = read_content(source)
    return None if content is None else decode_jpeg(content, channels, scale_of, in_scratch=in_scratch)


def read_content(source: ImageSource) -> bytes | None:
    """Returns the content of a file that begins as JPEG files do; None, and no error, for all others."""
    if isinstance(source, BytesIO):
        return source.getvalue()
    if not isinstance(source, str | Path):
        return None
    try:
        return _read_file(source)
    except OSError:
        return None


def _read_file(path: str | Path) -> bytes | None:
    """Returns the content of a JPEG file, in as few calls of the system as can be; None for all other files.

    Each call gives Python's lock away, and a thread among many waits long until it has its turn again.
    """
    file = os.open(path, os.O_RDONLY | _OPEN_AT_ONCE)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not len(_START) <= status.st_size <= _MAX_BYTES:
            return None
        if status.st_size > _READ_AT_ONCE:
            if os.read(file, len(_START)) != _START:
                return None
            os.lseek(file, 0, os.SEEK_SET)  # Windows has no os.pread
        content = os.read(file, status.st_size)
    finally:
        os.close(file)
    return content if content.startswith(_START) else None


def is_baseline(content: bytes, channels: int) -> bool:
    """Says whether any decoder can be trusted with a file: baseline, upright, and of as many colours as asked for."""
    header = _certain_header(content, channels)
    return header is not None and header.frame == _BASELINE and len(header.components) == channels


def decode_jpeg(
    content: bytes, channels: int, scale_of: ScaleOf | None = None, *, in_scratch: bool = False
) -> Tensor | None:
    """Decodes a JPEG file.

    Args:
        content: The whole file.
        channels: 1 for grey, 3 for RGB.
        scale_of: The divisor of the sides at which the picture is decoded; None decodes it whole.
        in_scratch: Decode into memory of this thread, where the next picture replaces it; fresh memory takes longer to
            get than some pictures to decode.

    Returns:
        uint8 [C, H, W], or None if the file is left to Pillow.
    """
    header = _certain_header(content, channels)
    if header is None:
        return None
    from simplejpeg import decode_jpeg as decode

    scale = 1 if scale_of is None else scale_of(header.size, False)
    height, width = (-(-side // scale) for side in header.size)
    least = {"min_height": height, "min_width": width} if scale > 1 else {}
    scratch = _SCRATCH.of(height * width * len(header.components)) if in_scratch else None
    try:  # `strict`: with damage that libjpeg-turbo could pass over, Pillow decides whether it is an error
        image = decode(content, "RGB" if len(header.components) == 3 else "GRAY", strict=True, buffer=scratch, **least)
    except ValueError:
        return None
    if image.shape[:2] != (height, width):  # another scale fits too, as for pictures of a few pixels
        return None
    return torch.from_numpy(image).permute(2, 0, 1).expand(channels, -1, -1)


def _certain_header(content: bytes, channels: int) -> _Header | None:
    header = _read_header(content) if content.startswith(_START) and content.endswith(_END) else None
    return header if header is not None and _is_certain(header, channels) else None


def _is_certain(header: _Header, channels: int) -> bool:
    """Says whether the picture is decoded to the same pixels as by Pillow."""
    height, width = header.size
    limit = Image.MAX_IMAGE_PIXELS
    if not header.is_plain or header.bits != 8 or not height or not width:
        return False
    if limit is not None and height * width > limit // _SHARE_OF_LIMIT:
        return False
    if len(header.components) not in (1, channels) or len(header.exif) > 1:
        return False
    if len(header.components) == 3 and header.components != [1, 2, 3]:  # libjpeg would guess the colours
        return False
    return not header.exif or _is_upright(header.exif[0])


def _is_upright(exif: bytes) -> bool:
    entries = Image.Exif()
    try:
        entries.load(exif)
        return bool(entries.get(_ORIENTATION, 1) == 1)
    except Exception:  # Pillow's own reader decides what damaged entries mean
        return False


def _read_header(content: bytes) -> _Header | None:
    """Reads the segments up to the first scan; None if they are not as they should be.

    A file is a list of segments, each a marker of two bytes and (mostly) a length that includes itself:

        FF D8 | FF E0 00 10 JFIF… | FF E1 … Exif… | FF C0 00 11 08 HH HH WW WW 03 … | FF DA … pixels … | FF D9
    """
    header, position = _Header(), 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return None
        marker = content[position + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte; a marker without content
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:
            return header
        length = int.from_bytes(content[position + 2 : position + 4])
        _note_segment(header, marker, content[position + 4 : position + 2 + length])
        if length < 2 or not header.is_plain:
            return None
        position += 2 + length
    return None


def _note_segment(header: _Header, marker: int, segment: bytes) -> None:
    if marker in _OTHER_FRAMES or (marker in _FRAMES and header.components):
        header.is_plain = False
    elif marker in _FRAMES and len(segment) >= 6:
        header.frame, header.bits = marker, segment[0]
        header.size = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
        header.components = list(segment[6 : 6 + 3 * segment[5] : 3])
    elif marker == _APP1 and segment.startswith(b"Exif"):
        header.exif.append(segment)
    elif marker == _APP1:  # XMP may hold an orientation too
        header.is_plain = b"rientation" not in segment
    elif marker == _APP2:
        header.is_plain = not segment.startswith(b"MPF")
    elif marker == _APP14 and segment.startswith(b"Adobe"):
        header.is_plain = len(segment) >= 12 and segment[11] == _YCBCR
