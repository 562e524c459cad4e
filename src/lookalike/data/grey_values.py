"""Scales grey images of more than 8 bits to 8 bits, with one scale for a whole data set and never one per image."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from lookalike._core.errors import BrokenImageError, LookalikeError

ValueRange = tuple[float, float]

_BLOCK = 1 << 22  # pixels scaled at a time, which bounds the memory of float64 copies
SIXTEEN_BITS = (0.0, 65_535.0)
_DECODED_TO_16_BITS = ("PNG", "PPM", "JPEG2000")  # their mode in Pillow may be "I" (32 bits), but values are 0…65535
_WAY_OUT = (
    "say which values are black and white for all images: --value-range LOW,HIGH when converting, "
    "Preprocessing(value_range=(low, high)) in Python"
)
_SAMPLE_FORMAT, _BITS, _PHOTOMETRIC = 339, 258, 262  # TIFF tags
_UNSIGNED, _WHITE_IS_ZERO = 1, 0


def checked_range(value_range: ValueRange) -> ValueRange:
    """Returns a value range as two floats.

    Raises:
        LookalikeError: If it is not two finite numbers with low < high.
    """
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise LookalikeError(f"value_range must be two numbers, (low, high) with low < high, not {value_range!r}")
    return low, high


def is_deep(image: Image.Image) -> bool:
    """Says whether an image's greys have more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def has_own_scale(image: Image.Image) -> bool:
    """Says whether an image's format defines white: true for 8 bits and for unsigned greys of 16 bits."""
    return not is_deep(image) or _is_sixteen_bits(image)


def kind_of_values(image: Image.Image) -> str:
    """Returns a name for the values of an image with greys of more than 8 bits."""
    if image.mode == "F":
        return "floating-point numbers"
    return "16-bit whole numbers" if _is_sixteen_bits(image) else "signed or 32-bit whole numbers"


def value_span(image: Image.Image) -> ValueRange:
    """Returns the lowest and the highest value of an image with greys of more than 8 bits.

    Raises:
        BrokenImageError: If there are NaN or infinite values.
    """
    spans = np.array([finite_span(values) for _, values in _tiles(image)])
    return float(spans[:, 0].min()), float(spans[:, 1].max())


def _tiles(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Yields boxes (left, upper, right, lower) that cover an image, with their values as stored in the file.

    One box at a time, because an array of the whole image would be a second copy of it.
    """
    tags = getattr(image, "tag_v2", {})
    is_unsigned = (
        image.mode == "I" and tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    )
    columns = min(image.width, _BLOCK)
    rows = max(1, _BLOCK // columns)
    for upper in range(0, image.height, rows):
        for x0 in range(0, image.width, columns):
            box = (x0, upper, min(x0 + columns, image.width), min(upper + rows, image.height))
            values = np.asarray(image.crop(box))
            # Pillow reads 32-bit values as signed, even if the file's are unsigned.
            yield box, values.view(np.uint32) if is_unsigned else values


def to_eight_bit(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """Scales greys of 16 bits, 32 bits and floating point to 8 bits; returns other images unchanged.

    Pillow's own conversion clips such values at 255, which turns most of them white.

    Args:
        image: An image of any mode.
        value_range: The values of black and white. None takes 0…65535 for unsigned 16 bits.

    Raises:
        LookalikeError: If ``value_range`` is None and the image's format defines no scale.
        BrokenImageError: If there are NaN or infinite pixels.
    """
    if not is_deep(image):
        return image
    if value_range is None:
        if not _is_sixteen_bits(image):
            low, high = value_span(image)
            raise LookalikeError(
                f"the image holds {kind_of_values(image)}, from {low:g} to {high:g}, which have no scale of their own; "
                + _WAY_OUT
            )
        value_range = SIXTEEN_BITS
    # A TIFF may store negatives (PhotometricInterpretation WhiteIsZero), which Pillow inverts only for 8 bits.
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    grey = Image.new("L", image.size)
    for box, values in _tiles(image):
        scaled = scale_to_eight_bit(values, value_range)
        grey.paste(Image.fromarray(255 - scaled if white_is_zero else scaled), box)
    return grey


def array_to_image(array: np.ndarray, value_range: ValueRange | None = None) -> Image.Image:
    """Converts an array [H, W], [H, W, 1] or [H, W, 3] to a picture; uint8 also [H, W, 4], with transparency.

    Args:
        array: uint8, booleans and uint16 (0…65535) have a scale of their own. Other whole numbers are read as 8 bits
            if all are in 0…255. Anything else needs ``value_range``.
        value_range: The values of black and white, for all types except uint8 and booleans.

    Raises:
        LookalikeError: If the shape is none of these, or the values have no scale.
        BrokenImageError: If there are NaN or infinite values.
    """
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    colours = (3, 4) if array.dtype == np.uint8 else (3,)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in colours) or not array.size:
        raise LookalikeError(f"an image must be an array [H, W], [H, W, 1] or [H, W, 3], not {list(array.shape)}")
    kind = array.dtype.kind
    if kind not in "biuf":
        raise LookalikeError(f"an image must be an array of numbers, not of {array.dtype}")
    if kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if value_range is None and array.dtype == np.uint16:
            value_range = SIXTEEN_BITS
        if value_range is None:
            low, high = finite_span(array)
            if kind == "f" or low < 0 or high > 255:
                raise LookalikeError(
                    f"the image is an array of {array.dtype}, from {low:g} to {high:g}, which has no scale of its own; "
                    + _WAY_OUT
                )
            value_range = (0.0, 255.0)
        array = scale_to_eight_bit(array, value_range)
    return Image.fromarray(np.ascontiguousarray(array))


def scale_to_eight_bit(values: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Scales values [H, ...] to uint8, low to 0 and high to 255; values outside are clipped.

    Raises:
        BrokenImageError: If there are NaN or infinite values.

    Example:
        >>> scale_to_eight_bit(np.array([[-1000.0, 0.0, 1000.0, 4000.0]]), (-1000, 1000))
        array([[  0, 128, 255, 255]], dtype=uint8)
    """
    low, high = value_range
    flat = np.ascontiguousarray(values).reshape(-1)
    scaled = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        if not np.isfinite(block).all():
            raise BrokenImageError("", "it has NaN or infinite pixels")
        scaled[start : start + _BLOCK] = ((block - low) / (high - low) * 255).round().clip(0, 255)
    return scaled.reshape(values.shape)


def finite_span(values: np.ndarray) -> ValueRange:
    """Returns the lowest and the highest value.

    Raises:
        BrokenImageError: If there are NaN or infinite values, or none at all.
    """
    if not values.size:
        raise BrokenImageError("", "it has no pixels")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise BrokenImageError("", "it has NaN or infinite pixels")
    return low, high


def _is_sixteen_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _DECODED_TO_16_BITS)
