"""Resizing and cropping exactly as torchvision, timm and Transformers do, which round in different ways.

Without torchvision, whose import takes as long as that of torch: a short command would spend half of its time on it.
"""

import platform

import torch
from PIL import Image
from torch import Tensor

from lookalike._core.errors import LookalikeError

# Pillow's filters by the names that torch and torchvision use.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
FITS = ("stretch", "cover", "contain")
_FIRST_WITH_LANCZOS = "2.12"  # torch, which compares versions by their numbers
_MAX_PIXELS_BETWEEN_PASSES = 1 << 24  # resizing works along one axis, then the other; see `resize_tensor`
CONVENTIONS = ("torchvision", "transformers", "transformers-pillow", "transformers-float")


def resized_size(height: int, width: int, resize: int | tuple[int, int], fit: str) -> tuple[int, int]:
    """Returns the (height, width) to which an image is resized.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        resize: Length of the shorter side, or the (height, width) that ``fit`` refers to.
        fit: ``"stretch"`` returns ``resize`` unchanged. The others keep the aspect ratio: ``"cover"`` gives the
            smallest size that covers ``resize``, ``"contain"`` the largest that fits into it.

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
    max_or_min = max if fit == "contain" else min  # timm's rule, which rounds
    ratio = max_or_min(height / resize[0], width / resize[1])
    return max(round(height / ratio), 1), max(round(width / ratio), 1)


def centre_offset(length: int, crop: int, convention: str) -> int:
    """Returns the start of a centre crop along one side; negative if the image is shorter and has to be padded.

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
    """Crops the centre of a picture to (height, width); a smaller picture gets a border of the colour ``fill``."""
    y0, x0 = (
        centre_offset(length, crop, convention) for length, crop in zip((image.height, image.width), size, strict=True)
    )
    if y0 >= 0 and x0 >= 0:
        return image.crop((x0, y0, x0 + size[1], y0 + size[0]))
    canvas = Image.new(image.mode, (size[1], size[0]), fill_colour(fill, image))
    canvas.paste(image, (-x0, -y0))
    return canvas


def fill_colour(fill: tuple[int, ...], image: Image.Image) -> int | tuple[int, ...]:
    """Returns ``fill`` with one value per channel: a single number is repeated, and a grey picture gets the mean."""
    bands = len(image.getbands())
    colour = fill if len(fill) == bands else (round(sum(fill) / len(fill)),) * bands
    return colour if bands > 1 else colour[0]


def crop_tensor(image: Tensor, size: tuple[int, int], convention: str) -> Tensor:
    """Crops the centre of images [..., C, H, W] to (height, width); smaller ones get a border of zeros."""
    offsets = [centre_offset(length, crop, convention) for length, crop in zip(image.shape[-2:], size, strict=True)]
    y0, x0 = (max(offset, 0) for offset in offsets)
    cropped = image[..., y0 : y0 + size[0], x0 : x0 + size[1]]
    before = [max(-offset, 0) for offset in offsets]
    after = [crop - start - length for crop, start, length in zip(size, before, cropped.shape[-2:], strict=True)]
    if not any((*before, *after)):
        return cropped
    return torch.nn.functional.pad(cropped, [before[1], after[1], before[0], after[0]])


def resize_picture(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resizes a picture to (height, width) with Pillow, with smoothing when it shrinks."""
    height, width = size
    return image if (image.height, image.width) == size else image.resize((width, height), FILTERS[interpolation])


def resize_tensor(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resizes images [C, H, W] or [n, C, H, W] to (height, width) with torch, with smoothing when they shrink.

    The values differ from Pillow's by at most a few of 255 levels.
    """
    height, width = image.shape[-2:]
    if height * size[1] > max(_MAX_PIXELS_BETWEEN_PASSES, height * width) and size[0] < height:
        # torch resizes the width first, which takes gigabytes for a picture 1 pixel wide and 2,000,000 high. Resizing
        # the height first gives the same values up to rounding.
        image = _interpolate(image, (size[0], width), interpolation)
    return _interpolate(image, size, interpolation)


def _interpolate(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resizes images of bytes or floating-point numbers with torch; rounds as torchvision does."""
    if image.shape[-2:] == size:
        return image
    if interpolation == "lanczos" and torch.__version__ < _FIRST_WITH_LANCZOS:
        raise LookalikeError(f"resizing tensors by lanczos needs torch 2.12 or newer; this is {torch.__version__}")
    # Images are decoded as [H, W, C]. With the axis of the batch before H, torch sees that the channels lie together.
    batch = image if image.ndim == 4 else image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    in_bytes = image.dtype == torch.uint8
    computes_in_bytes = not in_bytes or _computes_in_bytes(interpolation, image.device)
    smooths = not interpolation.startswith("nearest")
    resized = torch.nn.functional.interpolate(
        batch if computes_in_bytes else batch.float(),
        size=size,
        mode=interpolation,
        align_corners=False if smooths else None,
        antialias=smooths,
    )
    resized = resized if image.ndim == 4 else resized[0]
    return resized if computes_in_bytes else resized.clamp(0, 255).round().to(torch.uint8)


def _computes_in_bytes(interpolation: str, device: torch.device) -> bool:
    """Says whether torchvision lets torch interpolate bytes as they are; otherwise as float32, rounded afterwards."""
    if interpolation.startswith("nearest"):
        return True
    if device.type != "cpu":
        return False
    is_fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
        "aarch64",
        "arm64",
    )
    return interpolation != "bilinear" or is_fast


def window_size(height: int, width: int, window: tuple[float, float]) -> tuple[int, int]:
    """Returns the (height, width) of a crop whose sides are given as shares of the image's shorter side."""
    shorter = min(height, width)
    return max(int(window[0] * shorter), 1), max(int(window[1] * shorter), 1)
