"""Reads a ``Preprocessing`` from a torchvision transform, a timm configuration or a Transformers processor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.data.foreign import NotUnderstoodError, check_equal, from_timm, from_torchvision, preprocessing_from
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.processors import read_processor

_WAY_OUT = "write it as a lookalike.data.Preprocessing"


def read_preprocessing(transform: Any) -> Preprocessing:
    """Reads the preprocessing of another library exactly, or raises an error.

    The result is compared with the transform's own output on a few images, pixel by pixel.

    Args:
        transform: A ``Preprocessing``; a torchvision transform, or the ``transforms()`` of torchvision's weights; a
            Transformers image processor; or the mapping that timm's ``resolve_data_config`` returns.

    Raises:
        LookalikeError: If a step is unknown; the message names it and says what to do.

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
            preprocessing = _from_torchvision_steps(_flatten_steps(transform))
        check_equal(preprocessing, lambda image: _as_tensor(transform(image)), "the transform")
    except NotUnderstoodError as error:
        raise LookalikeError(f"the preprocessing was not understood: {error}; {error.way_out or _WAY_OUT}") from error
    except KeyError as error:
        raise LookalikeError(f"the preprocessing has no {error}; {_WAY_OUT}") from error
    except (TypeError, AttributeError) as error:
        raise LookalikeError(f"the preprocessing has a value that is not understood: {error}; {_WAY_OUT}") from error
    return preprocessing


def check_preprocessing(preprocessing: Preprocessing, transform: Any) -> None:
    """Checks that a preprocessing prepares images as a data set's own transform does.

    Raises:
        LookalikeError: If it does not, on one of a few images.
    """
    try:
        check_equal(preprocessing, lambda image: _as_tensor(transform(image)), "the data's own transform")
    except NotUnderstoodError as error:
        raise LookalikeError(
            f"the data have a transform of their own, and preprocessing={preprocessing.describe()!r} is another: "
            f"{error}; leave preprocessing out, or give what the data go through"
        ) from error


def preprocessing_or_none(transform: Any) -> Preprocessing | None:
    """Returns the result of ``read_preprocessing``, or None for a transform that it cannot read."""
    try:
        return None if transform is None else read_preprocessing(transform)
    except LookalikeError:
        return None


def _flatten_steps(transform: Any) -> list[Any]:
    """Returns the single steps of a transform, in order, with nested ``Compose`` and ``Sequential`` resolved."""
    if type(transform).__name__ == "Compose":
        children = list(transform.transforms)
    elif isinstance(transform, nn.Sequential):
        children = list(transform)
    else:
        return [transform]
    return [step for child in children for step in _flatten_steps(child)]


def _from_torchvision_steps(steps: list[Any]) -> Preprocessing:
    """Reads the steps of torchvision's transforms, v1 or v2.

    Raises:
        NotUnderstoodError: If a step is unknown, or its position gives it another meaning.
    """
    settings: dict[str, Any] = {"resize": None, "crop": None}
    is_grey = False
    for step in steps:
        kind = type(step).__name__
        if not type(step).__module__.startswith(("torchvision.transforms", "timm.data.transforms")):
            raise NotUnderstoodError(f"{kind} is no transform of torchvision or timm")
        if kind == "Resize":
            if getattr(step, "max_size", None) is not None or settings["crop"] is not None:
                raise NotUnderstoodError(f"{step} is not understood here")
            interpolation = getattr(step.interpolation, "value", step.interpolation)
            settings |= {"resize": _resize_from(step.size), "interpolation": interpolation}
        elif kind == "CenterCrop":
            sides = [step.size] if isinstance(step.size, int) else list(step.size)
            settings["crop"] = (sides[0], sides[-1])
        elif kind == "Grayscale" and step.num_output_channels == 1:
            is_grey = True
        elif kind == "Normalize":
            mean, std = (tuple(float(value) for value in values) for values in (step.mean, step.std))
            settings |= {"mean": mean, "std": std}
        elif kind not in ("ToTensor", "ToImage", "PILToTensor", "ToDtype", "ConvertImageDtype", "MaybeToTensor", "RGB"):
            raise NotUnderstoodError(f"the step {kind} is not understood")
    channels = 1 if is_grey else len(settings.get("mean", (0.0,) * 3))
    settings.setdefault("mean", (0.0,) * channels)
    settings.setdefault("std", (1.0,) * channels)
    return preprocessing_from(**settings)


def _resize_from(size: Any) -> Any:
    """Returns ``Preprocessing.resize`` for torchvision's size: an int, a list of one int, or (height, width)."""
    sides = [size] if isinstance(size, int) else list(size)
    return sides[0] if len(sides) == 1 else tuple(sides)


def _as_tensor(value: Any) -> Tensor:
    """Checks that a transform returned a tensor of floats, and removes torchvision's tensor subclass."""
    if not isinstance(value, Tensor):
        raise NotUnderstoodError(f"the transform returns a {type(value).__name__}, not a tensor")
    if not value.is_floating_point():
        raise NotUnderstoodError("the transform returns whole numbers, not a scaled tensor")
    return value.as_subclass(torch.Tensor)
