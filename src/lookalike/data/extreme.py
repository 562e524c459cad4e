"""Images of extreme shapes: cropped before they are enlarged, with the same result in bounded memory.

A picture of 1×60,000 pixels whose shorter side is to be 256 has 4 billion pixels after resizing, of which the crop at
the centre keeps 50,000. Only those are computed here.
"""

import math

from PIL import Image

from lookalike.data.geometry import centre_offset, fitting_colour

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

    The result is that of resizing the whole image with Pillow or torch and cropping it then, to one grey level;
    "nearest" and "box" may take the other one of two source pixels that are equally near.

    Args:
        image: Of mode ``"L"`` or ``"RGB"``.
        size: (height, width) to which the whole image is resized.
        crop: (height, width).
        interpolation: A filter's name.
        convention: Whose cropping it is, see ``Preprocessing``.
        fill: Colour of the crop beyond the resized image.
    """
    filter_, reach = _FILTERS[interpolation]
    top, first_row, height = _centre(size[0], crop[0], convention)
    left, first_column, width = _centre(size[1], crop[1], convention)
    x0, x1, box_x0, box_x1 = _window(left, width, size[1], image.width, reach)
    y0, y1, box_y0, box_y1 = _window(top, height, size[0], image.height, reach)
    # Pillow keeps the box in single precision: the integer crop comes first, so that its numbers are small.
    near = image.crop((x0, y0, x1, y1))
    # Rows first, then columns, as Pillow enlarges: each pass rounds and clips.
    rows = near.resize((width, near.height), filter_, (box_x0, 0, box_x1, near.height))
    taken = rows.resize((width, height), filter_, (0, box_y0, width, box_y1))
    if (height, width) == crop:
        return taken
    canvas = Image.new(taken.mode, (crop[1], crop[0]), fitting_colour(fill, taken))
    canvas.paste(taken, (first_column, first_row))
    return canvas


def _centre(length: int, crop: int, convention: str) -> tuple[int, int, int]:
    """Returns where the crop begins in the image, where the image begins in the crop, and how much of it is taken."""
    offset = centre_offset(length, crop, convention)
    return max(offset, 0), max(-offset, 0), min(length, crop)


def _window(start: int, taken: int, resized: int, length: int, reach: float) -> tuple[int, int, float, float]:
    """Returns the source pixels [first, last) that some resized pixels depend on, and the box within them."""
    scale = length / resized
    low, high = start * scale, (start + taken) * scale
    margin = reach * max(scale, 1.0) + _SPARE
    first, last = max(0, math.floor(low - margin)), min(length, math.ceil(high + margin))
    return first, last, max(0.0, low - first), min(float(last - first), high - first)
