"""Decodes image files; a file that cannot be decoded is refused with a message of one line."""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data.decoders import HEAD_BYTES, describe_unreadable_file, readable_formats
from lookalike.data.grey_values import to_eight_bit

ImageSource = str | Path | BinaryIO
ScaleOf = Callable[[tuple[int, int], bool], int]  # (height, width) as stored, is on its side by EXIF → 1, 2, 4 or 8

_ORIENTATION = 0x0112  # the EXIF tag
_EXIF_ENTRIES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # entries that Pillow searches for it
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap height and width
_JPEG = ("JPEG", "MPO")
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Modes that Pillow does not convert to "L" and "RGB" directly, and the mode in between.
_INTERMEDIATE_MODES = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}

# Memory of an image and its conversion to 8-bit RGB, in bytes per pixel, by mode.
_BYTES = {"1": 5, "L": 5, "P": 5, "RGB": 4, "I;16": 7, "I;16B": 7, "I;16L": 7, "I": 9, "F": 9}
_OTHER_BYTES = 9
# Further memory that a decoder needs, in bytes per pixel and channel: JPEG 2000 decodes to int32, AVIF and WebP copy
# each frame twice, progressive JPEG keeps int16 coefficients, and a TIFF may be one single strip.
_DECODER_BYTES = {"JPEG2000": 4, "AVIF": 4, "WEBP": 4, "TIFF": 1}
_PROGRESSIVE_BYTES = 2
_REASON_LENGTH = 300
_WAY_OUT = "--large-images (large_images=True) reads it despite its size"


def decode_image(source: ImageSource, *, large_images: bool = False, scale_of: ScaleOf | None = None) -> Image.Image:
    """Decodes the first frame of an image file, in the mode and orientation in which it is stored.

    Args:
        source: A path, or the file's content as a stream.
        large_images: Decode images beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too.
        scale_of: The divisor of the sides at which a JPEG file is decoded; None decodes it whole.

    Raises:
        BrokenImageError: If the file is missing, truncated, damaged, too large or not an image; the message names it.
    """
    with opened_image(source) as image:
        if not large_images:
            _check_size(image)
        if scale_of is not None and image.format in _JPEG:
            scale = scale_of((image.height, image.width), _orientation(image) in _ON_ITS_SIDE)
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        return image


@contextmanager
def opened_image(source: ImageSource) -> Iterator[Image.Image]:
    """Opens an image file and reads its header, but not its pixels.

    Raises:
        BrokenImageError: For any error about the file, also inside the ``with`` block; the message names the file.
    """
    name = _file_name(source)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(_regular_file(Path(source))) if isinstance(source, str | Path) else source
            yield _open(file)
    except BrokenImageError as error:
        raise BrokenImageError(name, error.reason) from error
    except Exception as error:  # decoders raise errors of any type on damaged files
        raise BrokenImageError(name, _reason(source, error)) from error


def read_image(
    source: ImageSource,
    *,
    value_range: tuple[float, float] | None = None,
    as_stored: bool = False,
    large_images: bool = False,
) -> Image.Image:
    """Reads an image file upright, with 8 bits per channel.

    Args:
        source: A path, or the file's content as a stream.
        value_range: The values of black and white, for greys of more than 8 bits.
        as_stored: Ignore the EXIF orientation and keep the pixels as they are stored.
        large_images: Read images beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too.

    Raises:
        BrokenImageError: If the file is missing, truncated, damaged, too large or not an image; the message names it.
        LookalikeError: If its values have no scale of their own (signed, 32-bit or floating-point greys).
    """
    image = decode_image(source, large_images=large_images)
    with naming_file_in_errors(source):
        return to_eight_bit(image if as_stored else upright(image), value_range)


def upright(image: Image.Image) -> Image.Image:
    """Turns an image by its EXIF orientation and removes that entry; returns other images unchanged."""
    transpose = _TRANSPOSE_OF_ORIENTATION.get(_orientation(image))
    if transpose is None:
        return image
    turned = image.transpose(transpose)
    for entry in _EXIF_ENTRIES:
        turned.info.pop(entry, None)
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF entries say nothing against the pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image of 8 bits to ``"L"`` or ``"RGB"``. Transparency is dropped: the colour under it shows.

    Raises:
        BrokenImageError: If its colours cannot be converted.
    """
    if image.mode == mode:
        return image
    try:
        intermediate = _INTERMEDIATE_MODES.get(image.mode)
        return (image if intermediate is None else image.convert(intermediate)).convert(mode)
    except ValueError as error:
        raise BrokenImageError("", f"its colours ({image.mode}) cannot be converted to {mode}") from error


@contextmanager
def naming_file_in_errors(source: ImageSource) -> Iterator[None]:
    """Adds the file's name to errors about its pixels that are raised inside the ``with`` block."""
    name = _file_name(source)
    try:
        yield
    except BrokenImageError as error:
        raise BrokenImageError(error.path or name, error.reason) from error
    except LookalikeError as error:
        raise type(error)(f"{name!r}: {error}" if name else str(error)) from error
    except (MemoryError, OSError) as error:
        raise BrokenImageError(name, one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Returns an error's message as one line of printable text."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    line = (str(text).strip().splitlines() or [type(error).__name__])[0][:_REASON_LENGTH]
    return "".join(character if character.isprintable() else "?" for character in line)


def _open(file: BinaryIO) -> Image.Image:
    formats = readable_formats()
    try:
        return Image.open(file, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # The size is checked here, for each image: Pillow's own check is a setting of the whole process.
        return _open_unchecked(file, formats)


def _open_unchecked(file: BinaryIO, formats: list[str]) -> Image.Image:
    """Opens an image with the plug-in whose signature fits, as ``Image.open`` does but without its check of size."""
    file.seek(0)
    head = file.read(16)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(head) is True:
            file.seek(0)
            return factory(file, "")
    raise UnidentifiedImageError


def _check_size(image: Image.Image) -> None:
    """Refuses an image that would need over 1 GiB to decode (at Pillow's default limit), before memory is allocated."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return
    image_bytes = _BYTES.get(image.mode, _OTHER_BYTES)
    decoder_bytes = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        decoder_bytes = _PROGRESSIVE_BYTES
    channels = len(image.getbands())
    pixels = image.width * image.height
    # Pillow itself refuses more than twice its limit; 12 bytes per pixel at its default limit are 1 GiB.
    if pixels > 2 * limit or pixels * (image_bytes + decoder_bytes * channels) > 12 * limit:
        size = f"{image.width}×{image.height}"
        raise BrokenImageError("", f"it has {size} pixels, too many to decode by default; {_WAY_OUT}")


def _regular_file(path: Path) -> BinaryIO:
    """Opens a regular file; refuses pipes and devices, from which reading might never return."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise BrokenImageError("", "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return path.open("rb")


def _reason(source: ImageSource, error: Exception) -> str:
    """Returns why a file cannot be opened: the kind of file it is if no decoder recognises it, else the error."""
    if not isinstance(error, UnidentifiedImageError):
        return one_line(error)
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                return describe_unreadable_file(file.read(HEAD_BYTES))
        source.seek(0)
        return describe_unreadable_file(source.read(HEAD_BYTES))
    except (OSError, ValueError):
        return "not an image"


def _file_name(source: ImageSource) -> str:
    return str(source) if isinstance(source, str | Path) else ""
