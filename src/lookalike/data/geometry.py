"""Sizes and positions in resizing and cropping, to the pixel, as the libraries that networks come from compute them."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

FITS = ("stretch", "cover", "contain")
CONVENTIONS = ("torchvision", "transformers", "transformers-pillow", "transformers-float")


def resized_size(height: int, width: int, resize: int | tuple[int, int], fit: str) -> tuple[int, int]:
    """Returns the (height, width) to which an image is resized.

    Args:
        height: Of the image in pixels.
        width: Likewise.
        resize: Length of the shorter side, or the (height, width) that ``fit`` refers to.
        fit: ``"stretch"`` takes ``resize`` as it is. The others keep the aspect ratio: ``"cover"`` is the smallest
            image that covers it, ``"contain"`` the largest that fits into it.

    Example:
        >>> resized_size(300, 200, 100, "stretch")
        (150, 100)
        >>> resized_size(300, 200, (100, 100), "contain")
        (100, 67)
    """
    if isinstance(resize, int):  # torchvision's and Transformers' rule, which cuts fractions off
        longer = int(resize * max(height, width) / min(height, width))
        return (resize, longer) if height <= width else (longer, resize)
    if fit == "stretch":
        return resize
    choose = max if fit == "contain" else min  # timm's rule, which rounds
    ratio = choose(height / resize[0], width / resize[1])
    return max(round(height / ratio), 1), max(round(width / ratio), 1)


def centre_offset(length: int, crop: int, convention: str) -> int:
    """Returns where a crop at the centre begins; below zero where the image is shorter than the crop and is padded.

    The libraries differ by one pixel where the margin is odd.

    Example:
        >>> [centre_offset(227, 224, name) for name in ("torchvision", "transformers")]
        [2, 1]
    """
    margin = length - crop
    if margin < 0:
        return margin // 2 if convention == "transformers-pillow" else -(-margin // 2)
    return round(margin / 2) if convention == "torchvision" else margin // 2


def crop_picture(image: Image.Image, size: tuple[int, int], convention: str, fill: tuple[int, ...]) -> Image.Image:
    """Crops the centre of a picture; a picture smaller than the crop gets a border of the colour ``fill``."""
    top, left = (
        centre_offset(length, crop, convention) for length, crop in zip((image.height, image.width), size, strict=True)
    )
    box = (left, top, left + size[1], top + size[0])
    if top >= 0 and left >= 0:
        return image.crop(box)
    bands = len(image.getbands())
    colour = fill if len(fill) == bands else (round(sum(fill) / len(fill)),) * bands
    canvas = Image.new(image.mode, (size[1], size[0]), colour if bands > 1 else colour[0])
    canvas.paste(image, (-left, -top))
    return canvas


def crop_tensor(image: Tensor, size: tuple[int, int], convention: str) -> Tensor:
    """Crops the centre of an image [C, H, W]; an image smaller than the crop gets a border of zeros."""
    offsets = [centre_offset(length, crop, convention) for length, crop in zip(image.shape[-2:], size, strict=True)]
    top, left = (max(offset, 0) for offset in offsets)
    inner = image[:, top : top + size[0], left : left + size[1]]
    before = [max(-offset, 0) for offset in offsets]
    after = [crop - start - length for crop, start, length in zip(size, before, inner.shape[-2:], strict=True)]
    if not any((*before, *after)):
        return inner
    return torch.nn.functional.pad(inner, [before[1], after[1], before[0], after[0]])


def resize_picture(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resizes a picture to (height, width) with Pillow, which smooths where it shrinks."""
    mode = InterpolationMode(interpolation)
    resized: Image.Image = transforms.resize(image, list(size), interpolation=mode, antialias=True)
    return resized


def resize_tensor(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resizes an image [C, H, W] to (height, width) with torch, smoothing where it shrinks.

    Its values differ from Pillow's by at most a few of 255 levels.
    """
    mode = InterpolationMode(interpolation)
    resized: Tensor = transforms.resize(image, list(size), interpolation=mode, antialias=True)
    return resized


def window_size(height: int, width: int, window: tuple[float, float]) -> tuple[int, int]:
    """Returns the (height, width) of a crop whose sides are shares of the image's shorter side."""
    shorter = min(height, width)
    return max(int(window[0] * shorter), 1), max(int(window[1] * shorter), 1)
