"""From an image file to its pixels, whatever the file holds: decoded, or refused in one line."""

import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike.data.decoders import HEAD_BYTES, name_stranger, readable_formats
from lookalike.data.grey_values import to_eight_bit

ImageSource = str | Path | BinaryIO

_ORIENTATION = 0x0112  # the EXIF tag
_EXIF_ENTRIES = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for that tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BETWEEN = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB"}  # modes that Pillow converts to few others

# What an image takes in memory until it is RGB of 8 bits, in bytes per pixel: itself and what is converted from it.
_BYTES = {"1": 5, "L": 5, "P": 5, "RGB": 4, "I;16": 7, "I;16B": 7, "I;16L": 7, "I": 9, "F": 9}
_OTHER_BYTES = 9
# What a decoder holds beside the image itself, in bytes per pixel and channel: JPEG 2000 decodes to int32, AVIF and
# WebP to frames that are copied twice, progressive JPEG keeps int16 coefficients, a TIFF may be one single strip.
_DECODER_BYTES = {"JPEG2000": 4, "AVIF": 4, "WEBP": 4, "TIFF": 1}
_PROGRESSIVE_BYTES = 2
_REASON_LENGTH = 300
_WAY_OUT = "--large-images (large_images=True) reads it in spite of its size"


def decode_image(source: ImageSource, *, large_images: bool = False) -> Image.Image:
    """Decodes an image file as it is stored: the first frame, in its own mode and orientation.

    Args:
        source: A file, or its content as a stream.
        large_images: Decode images beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too.

    Raises:
        BrokenImageError: If it is missing, truncated, damaged, too large or not an image; it names the file.
    """
    with opened_image(source) as image:
        if not large_images:
            _check_size(image)
        image.load()
        return image


@contextmanager
def opened_image(source: ImageSource) -> Iterator[Image.Image]:
    """Yields an image whose header has been read and whose pixels have not.

    Raises:
        BrokenImageError: For whatever is raised about the file, in the block too; it names the file.
    """
    name = _name(source)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(_regular_file(Path(source))) if isinstance(source, str | Path) else source
            yield _open(file)
    except BrokenImageError as error:
        raise BrokenImageError(name, error.reason) from error
    except Exception as error:  # decoders raise whatever their damaged input leads them to
        raise BrokenImageError(name, _reason(source, error)) from error


def read_image(
    source: ImageSource,
    *,
    value_range: tuple[float, float] | None = None,
    as_stored: bool = False,
    large_images: bool = False,
) -> Image.Image:
    """Reads an image file, upright, with 8 bits per channel.

    Args:
        source: A file, or its content as a stream.
        value_range: The values of black and white, for greys of more than 8 bits.
        as_stored: Leave the image as its pixels are stored, whatever its EXIF orientation is.
        large_images: Read images beyond Pillow's limit (``PIL.Image.MAX_IMAGE_PIXELS``) too.

    Raises:
        BrokenImageError: If it is missing, truncated, damaged, too large or not an image; it names the file.
        LookalikeError: If its values have no scale of their own (signed, 32-bit or floating-point greys).
    """
    image = decode_image(source, large_images=large_images)
    with naming(source):
        return to_eight_bit(image if as_stored else upright(image), value_range)


def upright(image: Image.Image) -> Image.Image:
    """Returns an image turned as its EXIF orientation says, without that entry; others are returned as they are."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the pixels of an image with damaged EXIF entries are as good as any
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for entry in _EXIF_ENTRIES:
        turned.info.pop(entry, None)
    return turned


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts an image of 8 bits to ``"L"`` or ``"RGB"``. Transparency is dropped: what lies under it shows.

    Raises:
        BrokenImageError: If its colours cannot be converted.
    """
    if image.mode == mode:
        return image
    try:
        between = _BETWEEN.get(image.mode)
        return (image if between is None else image.convert(between)).convert(mode)
    except ValueError as error:
        raise BrokenImageError("", f"its colours ({image.mode}) cannot be converted to {mode}") from error


@contextmanager
def naming(source: ImageSource) -> Iterator[None]:
    """Adds the file's name to what is raised about its pixels."""
    name = _name(source)
    try:
        yield
    except BrokenImageError as error:
        raise BrokenImageError(error.path or name, error.reason) from error
    except LookalikeError as error:
        raise type(error)(f"{name!r}: {error}" if name else str(error)) from error
    except (MemoryError, OSError) as error:
        raise BrokenImageError(name, one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Returns what an error says in one line of printable text."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = "the memory does not suffice for it"
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
    file.seek(0)
    head = file.read(16)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(head) is True:
            file.seek(0)
            return factory(file, "")
    raise UnidentifiedImageError


def _check_size(image: Image.Image) -> None:
    """Refuses an image before memory is asked for: more than 1 GiB to decode, by Pillow's usual limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return
    held = _BYTES.get(image.mode, _OTHER_BYTES)
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        decoder = _PROGRESSIVE_BYTES
    channels = len(image.getbands())
    pixels = image.width * image.height
    if pixels > 2 * limit or pixels * (held + decoder * channels) > 12 * limit:
        size = f"{image.width}×{image.height}"
        raise BrokenImageError("", f"it has {size} pixels, too many to decode without being asked to; {_WAY_OUT}")


def _regular_file(path: Path) -> BinaryIO:
    """Opens a file; refuses what would be waited for, such as a pipe."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise BrokenImageError("", "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return path.open("rb")


def _reason(source: ImageSource, error: Exception) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return one_line(error)
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                return name_stranger(file.read(HEAD_BYTES))
        source.seek(0)
        return name_stranger(source.read(HEAD_BYTES))
    except (OSError, ValueError):
        return "not an image"


def _name(source: ImageSource) -> str:
    return str(source) if isinstance(source, str | Path) else ""
