"""Reading image files, of any mode, without guessing."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lookalike.errors import BrokenImageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})


def read_image(path: str | Path | BinaryIO) -> Image.Image:
    """Reads an image file, upright, with 8 bits per channel.

    Raises:
        BrokenImageError: If it is missing, truncated, too large to be honest or not an image; it names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_eight_bit(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise BrokenImageError(str(path), "not an image") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BrokenImageError(str(path), reason) from error


def to_eight_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit, 32-bit and floating-point greys to 8 bits; other modes are returned as they are.

    Pillow's own conversion cuts such values off at 255, which turns most of them white. Here 16-bit files
    are read over their full range, floats in [0, 1] over that range, and other values over their own.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinite pixels")
    if image.mode == "F":
        low, high = (0.0, 1.0) if values.size and values.min() >= 0 and values.max() <= 1 else _span(values)
    elif values.size and values.min() >= 0 and values.max() <= 65_535:
        low, high = 0.0, 65_535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
    else:
        low, high = _span(values)
    scaled = (values - low) / (high - low) * 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1.0
