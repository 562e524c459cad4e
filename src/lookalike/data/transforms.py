"""A ``Preprocessing`` read off a transform of torchvision, a configuration of timm, or a processor of Transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.data.foreign import NotUnderstoodError, check_equal, from_timm, from_torchvision, made_of
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.processors import read_processor

_WAY_OUT = "write it as a lookalike.data.Preprocessing"


def read_preprocessing(transform: Any) -> Preprocessing:
    """Reads what images go through before a network, exactly or not at all.

    What is read is compared with what the transform itself makes of a few images, to the pixel.

    Args:
        transform: A ``Preprocessing``; a torchvision transform or the ``transforms()`` of its weights; an image
            processor of Transformers; or a mapping as timm's ``resolve_data_config`` returns it.

    Raises:
        LookalikeError: If a step is not understood; it is named, with the way out.

    Example:
        >>> from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
        >>> steps = Compose([Resize(36), CenterCrop(32), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
        >>> read_preprocessing(steps).describe()
        'RGB; shorter side to 36 (bilinear), centre crop 32×32; mean 0.5, std 0.5'
    """
    if isinstance(transform, Preprocessing):
        return transform
    try:
        if isinstance(transform, Mapping):
            return from_timm(transform)
        if type(transform).__name__ == "ImageClassification":
            preprocessing = from_torchvision(transform)
        elif hasattr(transform, "to_dict") and hasattr(transform, "preprocess"):
            return read_processor(transform)
        else:
            preprocessing = _from_steps(_steps_of(transform))
        check_equal(preprocessing, lambda image: _as_tensor(transform(image)), "the transform")
    except NotUnderstoodError as error:
        raise LookalikeError(f"the preprocessing was not understood: {error}; {error.way_out or _WAY_OUT}") from error
    except KeyError as error:
        raise LookalikeError(f"the preprocessing has no {error}; {_WAY_OUT}") from error
    return preprocessing


def preprocessing_or_none(transform: Any) -> Preprocessing | None:
    """Returns what ``read_preprocessing`` reads, or None for a transform that it does not understand."""
    try:
        return None if transform is None else read_preprocessing(transform)
    except LookalikeError:
        return None


def _steps_of(transform: Any) -> list[Any]:
    """Returns the steps of a transform, those of nested ones in their order."""
    if type(transform).__name__ == "Compose":
        inner = list(transform.transforms)
    elif isinstance(transform, nn.Sequential):
        inner = list(transform)
    else:
        return [transform]
    return [step for nested in inner for step in _steps_of(nested)]


def _from_steps(steps: list[Any]) -> Preprocessing:
    """Reads torchvision's steps, of its first and its second version.

    Raises:
        NotUnderstoodError: If a step is not understood, or stands where it means something else.
    """
    settings: dict[str, Any] = {"resize": None, "crop": None}
    is_grey = False
    for step in steps:
        kind = type(step).__name__
        if not type(step).__module__.startswith("torchvision.transforms"):
            raise NotUnderstoodError(f"{kind} is no transform of torchvision")
        if kind == "Resize":
            if getattr(step, "max_size", None) is not None or settings["crop"] is not None:
                raise NotUnderstoodError(f"{step} is not understood here")
            interpolation = getattr(step.interpolation, "value", step.interpolation)
            settings |= {"resize": _resize_of(step.size), "interpolation": interpolation}
        elif kind == "CenterCrop":
            sides = [step.size] if isinstance(step.size, int) else list(step.size)
            settings["crop"] = (sides[0], sides[-1])
        elif kind == "Grayscale" and step.num_output_channels == 1:
            is_grey = True
        elif kind == "Normalize":
            mean, std = (tuple(float(value) for value in values) for values in (step.mean, step.std))
            settings |= {"mean": mean, "std": std}
        elif kind not in ("ToTensor", "ToImage", "PILToTensor", "ToDtype", "ConvertImageDtype", "RGB"):
            raise NotUnderstoodError(f"the step {kind} is not understood")
    channels = 1 if is_grey else len(settings.get("mean", (0.0,) * 3))
    settings.setdefault("mean", (0.0,) * channels)
    settings.setdefault("std", (1.0,) * channels)
    return made_of(**settings)


def _resize_of(size: Any) -> Any:
    sides = [size] if isinstance(size, int) else list(size)
    return sides[0] if len(sides) == 1 else tuple(sides)


def _as_tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise NotUnderstoodError(f"the transform returns a {type(value).__name__}, not a tensor")
    if not value.is_floating_point():
        raise NotUnderstoodError("the transform returns whole numbers, not a scaled tensor")
    return value.as_subclass(torch.Tensor)
