"""Images of extreme shapes: cropped before they are enlarged, with the same result in bounded memory.

A picture of 1×60,000 pixels whose shorter side is to be 256 has 4 billion pixels after resizing, of which the crop at
the centre keeps 50,000. Only those are computed here.
"""

import math

from PIL import Image

from lookalike.data.geometry import resized_size

MAX_RESIZED_PIXELS = 1 << 24  # beyond this the crop comes first; no photograph's resized form is as large

# How far a filter reaches, in pixels of the result; when shrinking, times the scale.
_FILTERS = {
    "nearest": (Image.Resampling.NEAREST, 0.0),
    "nearest-exact": (Image.Resampling.NEAREST, 0.0),
    "box": (Image.Resampling.BOX, 0.5),
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "hamming": (Image.Resampling.HAMMING, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
    "lanczos": (Image.Resampling.LANCZOS, 3.0),
}
_SPARE = 2  # pixels beyond the filter's reach


def would_be_huge(resized: tuple[int, int], stored: tuple[int, int]) -> bool:
    """Says whether an image of one size would be huge after it is resized to another; both (height, width)."""
    return resized[0] * resized[1] > max(MAX_RESIZED_PIXELS, stored[0] * stored[1])


def resize_and_crop(image: Image.Image, shorter: int, crop: tuple[int, int], interpolation: str) -> Image.Image:
    """Enlarges the shorter side and crops the centre, computing hardly more pixels than the crop has.

    The result is that of Pillow's ``resize`` and torchvision's ``center_crop``, to one grey level; "nearest" and "box"
    may take the other one of two source pixels that are equally near.

    Args:
        image: Of mode ``"L"`` or ``"RGB"``.
        shorter: The length of the shorter side.
        crop: (height, width). Beyond the resized image it is black.
        interpolation: A filter's name.
    """
    height, width = resized_size(image.height, image.width, shorter, "stretch")
    filter_, reach = _FILTERS[interpolation]
    crop_height, crop_width = crop
    left, taken_width, pad_left = _centre(width, crop_width)
    top, taken_height, pad_top = _centre(height, crop_height)
    x0, x1, box_x0, box_x1 = _window(left, taken_width, width, image.width, reach)
    y0, y1, box_y0, box_y1 = _window(top, taken_height, height, image.height, reach)
    # Pillow keeps the box in single precision: the integer crop comes first, so that its numbers are small.
    near = image.crop((x0, y0, x1, y1))
    # Rows first, then columns, as Pillow enlarges: each pass rounds and clips.
    rows = near.resize((taken_width, near.height), filter_, (box_x0, 0, box_x1, near.height))
    taken = rows.resize((taken_width, taken_height), filter_, (0, box_y0, taken_width, box_y1))
    if (taken_width, taken_height) == (crop_width, crop_height):
        return taken
    canvas = Image.new(taken.mode, (crop_width, crop_height))
    canvas.paste(taken, (pad_left, pad_top))
    return canvas


def _centre(length: int, crop: int) -> tuple[int, int, int]:
    """Returns where the crop starts, how many pixels it takes, and the padding before them, as torchvision does."""
    if crop > length:
        return 0, length, (crop - length) // 2
    return round((length - crop) / 2.0), crop, 0


def _window(start: int, taken: int, resized: int, length: int, reach: float) -> tuple[int, int, float, float]:
    """Returns the source pixels [first, last) that some resized pixels depend on, and the box within them."""
    scale = length / resized
    low, high = start * scale, (start + taken) * scale
    margin = reach * max(scale, 1.0) + _SPARE
    first, last = max(0, math.floor(low - margin)), min(length, math.ceil(high + margin))
    return first, last, max(0.0, low - first), min(float(last - first), high - first)
