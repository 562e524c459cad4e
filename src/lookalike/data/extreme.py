"""Resizes images of extreme shapes in bounded memory, by cropping before enlarging; the result is the same.

Resizing a picture of 1×60,000 pixels to a shorter side of 256 gives 4 billion pixels, of which a centre crop keeps
50,000. This module computes only those.
"""

import math

from PIL import Image

from lookalike.data.geometry import FILTERS, centre_offset, fill_colour

MAX_RESIZED_PIXELS = 1 << 24  # larger results are cropped first; no resized photograph is as large

# The radius of each of Pillow's filters in pixels of the result; shrinking multiplies it by the scale.
_RADII = {
    "nearest": 0.0,
    "nearest-exact": 0.0,
    "box": 0.5,
    "bilinear": 1.0,
    "hamming": 1.0,
    "bicubic": 2.0,
    "lanczos": 3.0,
}
_MARGIN = 2  # further source pixels on each side, against rounding


def would_be_huge(resized: tuple[int, int], stored: tuple[int, int]) -> bool:
    """Says whether an image of size ``stored`` is huge after resizing to ``resized``; both are (height, width)."""
    return resized[0] * resized[1] > max(MAX_RESIZED_PIXELS, stored[0] * stored[1])


def resize_and_crop(
    image: Image.Image,
    size: tuple[int, int],
    crop: tuple[int, int],
    interpolation: str,
    *,
    convention: str = "torchvision",
    fill: tuple[int, ...] = (0,),
) -> Image.Image:
    """Resizes an image and crops the centre, computing hardly more pixels than the crop has.

    The result equals that of resizing the whole image with Pillow or torch and then cropping it, to within one grey
    level; "nearest" and "box" may pick the other of two equally near source pixels.

    Args:
        image: An image of mode ``"L"`` or ``"RGB"``.
        size: (height, width) to which the whole image is resized.
        crop: (height, width) of the crop.
        interpolation: Name of the filter.
        convention: The library whose cropping is followed, see ``Preprocessing``.
        fill: Colour of the crop outside the resized image.
    """
    # Along one side (c: centre of the resized image that is kept; w: source pixels it depends on):
    #     resized  |..........cccccccc..........|   `size`, never computed
    #     source   |.....wwwwwwwwwwwwwwwwww.....|   the crop plus the filter's radius
    filter_, radius = FILTERS[interpolation], _RADII[interpolation]
    top, canvas_row, height = _centre_crop(size[0], crop[0], convention)
    left_edge, canvas_column, width = _centre_crop(size[1], crop[1], convention)
    x0, x1, box_x0, box_x1 = _source_window(left_edge, width, size[1], image.width, radius)
    y0, y1, box_y0, box_y1 = _source_window(top, height, size[0], image.height, radius)
    # Pillow stores the box in single precision. An integer crop comes first, so that the box's numbers are small.
    window = image.crop((x0, y0, x1, y1))
    # Pillow resizes horizontally and then vertically, and rounds and clips after each pass. So do these two calls.
    widened = window.resize((width, window.height), filter_, (box_x0, 0, box_x1, window.height))
    resized = widened.resize((width, height), filter_, (0, box_y0, width, box_y1))
    if (height, width) == crop:
        return resized
    canvas = Image.new(resized.mode, (crop[1], crop[0]), fill_colour(fill, resized))
    canvas.paste(resized, (canvas_column, canvas_row))
    return canvas


def _centre_crop(length: int, crop: int, convention: str) -> tuple[int, int, int]:
    """Returns, along one side, the crop's start in the image, the image's start in the crop, and their overlap."""
    offset = centre_offset(length, crop, convention)
    return max(offset, 0), max(-offset, 0), min(length, crop)


def _source_window(
    start: int, n_pixels: int, resized: int, length: int, radius: float
) -> tuple[int, int, float, float]:
    """Finds, along one side, the source pixels that some pixels of the resized image depend on.

    Args:
        start: First pixel in the resized image.
        n_pixels: Number of pixels in the resized image.
        resized: Length of the resized image.
        length: Length of the source image.
        radius: Radius of the filter, in pixels of the result.

    Returns:
        The source pixels [first, last), and the box within them that becomes the resized pixels.
    """
    scale = length / resized
    low, high = start * scale, (start + n_pixels) * scale
    margin = radius * max(scale, 1.0) + _MARGIN
    first, last = max(0, math.floor(low - margin)), min(length, math.ceil(high + margin))
    return first, last, max(0.0, low - first), min(float(last - first), high - first)
