"""Reads preprocessing from the configurations of timm and torchvision, exactly or not at all.

An unknown setting raises an error that names it. ``check_equal`` then compares the result with the library's own
output on a few images, so that a new setting, or a class that treats its settings in its own way, is noticed.
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
# (height, width) of the images that are compared: odd margins, in which the libraries' crops differ; wide and tall.
_PROBE_SIZES = ((97, 131), (140, 93), (61, 250), (257, 60))
_TOLERANCE = 1e-6
_TIMM_FITS = {"center": "stretch", "squash": "stretch", "border": "contain"}


class NotUnderstoodError(LookalikeError):
    """A configuration that cannot be reproduced exactly; the message names the setting.

    Attributes:
        way_out: What the user can do, if no command-line option expresses the setting; None otherwise.
    """

    def __init__(self, text: str, way_out: str | None = None) -> None:
        super().__init__(text)
        self.way_out = way_out


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Reads the result of timm's ``resolve_data_config`` as timm's ``create_transform`` does for evaluation.

    For a grey network the mean and the deviation are averaged over the channels, as in timm's own loader.

    Raises:
        NotUnderstoodError: If a setting is unknown; the message names it.
    """
    channels, height, width = config["input_size"]
    if channels not in (1, 3):
        raise NotUnderstoodError(f"in_chans={channels} is neither grey (1) nor RGB (3)", IN_PYTHON)
    mode = config.get("crop_mode") or "center"
    if mode not in _TIMM_FITS:
        raise NotUnderstoodError(f"crop_mode={mode!r} is not understood")
    mean, std = (_values_per_channel(config[name], channels) for name in ("mean", "std"))
    scaled = tuple(math.floor(side / (config.get("crop_pct") or 0.875)) for side in (height, width))
    # timm's "center" resizes the shorter side if the size is square; otherwise it covers the scaled size.
    resizes_shorter_side = mode == "center" and scaled[0] == scaled[1]
    return preprocessing_from(
        resize=scaled[0] if resizes_shorter_side else scaled,
        crop=(height, width),
        mean=mean,
        std=std,
        interpolation=str(config["interpolation"]),
        fit="stretch" if resizes_shorter_side else {"center": "cover"}.get(mode, _TIMM_FITS[mode]),
        fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0,),
    )


def from_torchvision(preset: Any) -> Preprocessing:
    """Reads the ``transforms()`` preset of a torchvision classifier's weights.

    Raises:
        NotUnderstoodError: If it is not the preset for classification.
    """
    if type(preset).__name__ != "ImageClassification":
        raise NotUnderstoodError(f"transforms={type(preset).__name__} is not torchvision's preset for classification")
    size, crop = list(preset.resize_size), list(preset.crop_size)
    return preprocessing_from(
        resize=size[0] if len(size) == 1 else tuple(size),
        crop=(crop[0], crop[-1]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def check_equal(preprocessing: Preprocessing, prepare: Callable[[Image.Image], Tensor], source: str) -> None:
    """Checks on four images that a preprocessing gives the same input as the library that it was read from.

    Args:
        preprocessing: The preprocessing to check.
        prepare: The library's preparation of one image; returns [C, H, W].
        source: Name of the library's side, for the message.

    Raises:
        NotUnderstoodError: If a value differs by more than rounding does; the message names the image's size.
    """
    for image in probes(preprocessing.channels):
        try:
            expected = prepare(image)
        except Exception as error:
            text = first_line(error)
            raise NotUnderstoodError(f"{source} fails on an image of {image.height}×{image.width}: {text}") from error
        if not differs_at_most(preprocessing(image), expected, _TOLERANCE):
            raise NotUnderstoodError(
                f"{source} prepares an image of {image.height}×{image.width} differently from its settings"
            )


def probes(channels: int) -> list[Image.Image]:
    """Returns four small test images, a smooth slope with noise, of sizes that reveal differences in rounding."""
    generator = np.random.default_rng(0)
    images = []
    for height, width in _PROBE_SIZES:
        slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[..., None]
        noise = generator.integers(0, 16, (height, width, 3))
        pixels = np.clip(slope + noise * np.array([1, 0.7, 0.4]), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        images.append(image.convert("L") if channels == 1 else image)
    return images


def differs_at_most(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Says whether two tensors have one shape and agree up to a tolerance, which is relative for values above 1."""
    if actual.shape != expected.shape:
        return False
    expected = expected.to(actual.dtype)
    return bool(((actual - expected).abs() <= tolerance * expected.abs().clamp_min(1)).all())


def preprocessing_from(**settings: Any) -> Preprocessing:
    """Makes a preprocessing; a value that it refuses raises ``NotUnderstoodError``."""
    try:
        return Preprocessing(**settings)
    except NotUnderstoodError:
        raise
    except LookalikeError as error:
        raise NotUnderstoodError(str(error)) from error


def _values_per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Returns one value per channel; a grey network gets the mean of three values."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (float(np.mean(values)),) * channels
