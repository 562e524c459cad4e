"""Preprocessing read off the configurations of timm, torchvision and Transformers, exactly or not at all.

A setting that is not understood raises an error that names it. What is read is then compared with what the library
itself makes of a few images (``check_equal``), so that a new setting, or a class with a mind of its own, cannot pass
for a known one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lookalike._core.errors import LookalikeError, first_line
from lookalike.data.preprocessing import Preprocessing

IN_PYTHON = "prepare the data yourself and convert in Python"
WAY_OUT = "say what its images go through with --image-size (or --resize, --crop), --interpolation, --mean and --std"
_PROBES = ((97, 131), (140, 93), (61, 250), (257, 60))  # height, width: odd margins, wide and tall
_TOLERANCE = 1e-6
_TIMM_FITS = {"center": "stretch", "squash": "stretch", "border": "contain"}


class NotUnderstoodError(LookalikeError):
    """A configuration that cannot be followed to the pixel; the text names the setting.

    Attributes:
        way_out: What to do, where options of the command line cannot express the setting.
    """

    def __init__(self, text: str, way_out: str | None = None) -> None:
        super().__init__(text)
        self.way_out = way_out


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Reads what timm's ``resolve_data_config`` returns, as its ``create_transform`` does for evaluation.

    A grey network gets the mean over the channels of the mean and of the deviation, as in timm's own loader.

    Raises:
        NotUnderstoodError: If a setting is not understood; it is named.
    """
    channels, height, width = config["input_size"]
    if channels not in (1, 3):
        raise NotUnderstoodError(f"in_chans={channels} is neither grey (1) nor RGB (3)", IN_PYTHON)
    mode = config.get("crop_mode") or "center"
    if mode not in _TIMM_FITS:
        raise NotUnderstoodError(f"crop_mode={mode!r} is not understood")
    mean, std = (_adapted(config[name], channels) for name in ("mean", "std"))
    scaled = tuple(math.floor(side / (config.get("crop_pct") or 0.875)) for side in (height, width))
    simple = mode == "center" and scaled[0] == scaled[1]
    return made_of(
        resize=scaled[0] if simple else scaled,
        crop=(height, width),
        mean=mean,
        std=std,
        interpolation=str(config["interpolation"]),
        fit="stretch" if simple else {"center": "cover"}.get(mode, _TIMM_FITS[mode]),
        fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0,),
    )


def from_torchvision(preset: Any) -> Preprocessing:
    """Reads the ``transforms()`` of a torchvision classifier's weights.

    Raises:
        NotUnderstoodError: If it is another preset than that for classification.
    """
    if type(preset).__name__ != "ImageClassification":
        raise NotUnderstoodError(f"transforms={type(preset).__name__} is not torchvision's preset for classification")
    size, crop = list(preset.resize_size), list(preset.crop_size)
    return made_of(
        resize=size[0] if len(size) == 1 else tuple(size),
        crop=(crop[0], crop[-1]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def check_equal(
    preprocessing: Preprocessing, prepare: Callable[[Image.Image], Tensor], source: str, tolerance: float = _TOLERANCE
) -> None:
    """Compares a preprocessing with the library's own on four images of random pixels.

    Args:
        preprocessing: As read.
        prepare: Prepares one image as the library does; returns [C, H, W].
        source: What is compared, for the message.
        tolerance: Largest difference, relative to a value's size above 1.

    Raises:
        NotUnderstoodError: If a value differs by more; the message names the image's size.
    """
    for image in probes(preprocessing.channels):
        try:
            theirs = prepare(image)
        except Exception as error:
            text = first_line(error)
            raise NotUnderstoodError(f"{source} fails on an image of {image.height}×{image.width}: {text}") from error
        if not differs_at_most(preprocessing(image), theirs, tolerance):
            raise NotUnderstoodError(
                f"{source} prepares an image of {image.height}×{image.width} otherwise than its settings tell"
            )


def probes(channels: int) -> list[Image.Image]:
    """Returns four small images, smooth with noise, whose sizes bring out odd margins."""
    generator = np.random.default_rng(0)
    made = []
    for height, width in _PROBES:
        slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[..., None]
        noise = generator.integers(0, 16, (height, width, 3))
        pixels = np.clip(slope + noise * np.array([1, 0.7, 0.4]), 0, 255).astype(np.uint8)
        picture = Image.fromarray(pixels)
        made.append(picture.convert("L") if channels == 1 else picture)
    return made


def differs_at_most(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Says whether two inputs are of one shape and equal up to a tolerance, relative above 1."""
    if ours.shape != theirs.shape:
        return False
    theirs = theirs.to(ours.dtype)
    return bool(((ours - theirs).abs() <= tolerance * theirs.abs().clamp_min(1)).all())


def made_of(**settings: Any) -> Preprocessing:
    """Makes a preprocessing; values that it refuses were not understood."""
    try:
        return Preprocessing(**settings)
    except NotUnderstoodError:
        raise
    except LookalikeError as error:
        raise NotUnderstoodError(str(error)) from error


def _adapted(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (float(np.mean(values)),) * channels
