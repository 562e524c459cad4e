"""Reads the preprocessing of networks from torchvision, timm and Hugging Face, and their number of input channels."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from lookalike._core.errors import LookalikeError, first_line, warn_of
from lookalike.data import Preprocessing
from lookalike.data.foreign import (
    IN_PYTHON,
    WAY_OUT,
    NotUnderstoodError,
    check_equal,
    from_timm,
    from_torchvision,
)
from lookalike.data.processors import read_processor

_RGB = 3


def try_reading(read: Callable[[], Preprocessing]) -> tuple[Preprocessing | None, str | None]:
    """Returns a network's own preprocessing and None; or None and a message that says why it was not understood."""
    try:
        return read(), None
    except NotUnderstoodError as error:
        return None, f"the network's own preprocessing was not understood: {error}; {error.way_out or WAY_OUT}"


def read_torchvision(preset: Any, channels: int = _RGB) -> Preprocessing:
    """Reads and checks the ``transforms()`` of torchvision's weights.

    Args:
        preset: The transforms.
        channels: Number of the network's input channels. For grey images, mean and standard deviation are averaged
            over the channels.

    Raises:
        NotUnderstoodError: If they are not understood or the network takes neither grey nor RGB images.
    """
    preprocessing = from_torchvision(preset)
    check_equal(preprocessing, preset, "torchvision's preset")
    if channels == _RGB:
        return preprocessing
    if channels != 1:
        raise NotUnderstoodError(f"in_chans={channels} is neither grey (1) nor RGB (3)", IN_PYTHON)
    warn_of(
        "the network takes grey images: mean and std are averages of the published ones for RGB; "
        "give yours if they were others (--mean, --std)"
    )
    mean, std = ((float(np.mean(values)),) for values in (preprocessing.mean, preprocessing.std))
    return replace(preprocessing, mean=mean, std=std)


def read_timm(model: nn.Module, args: Mapping[str, Any]) -> Preprocessing:
    """Reads and checks the transforms that timm uses for a network in evaluation.

    Args:
        model: The network, with its published configuration.
        args: The arguments that it was built with; ``img_size`` (a side, or height and width) and ``in_chans`` are
            used.

    Raises:
        NotUnderstoodError: If a setting is not understood or the network takes neither grey nor RGB images.
    """
    data = importlib.import_module("timm.data")
    config = data.resolve_data_config({}, model=model)
    channels, height, width = config["input_size"]
    channels = args.get("in_chans") or channels
    size = args.get("img_size") or (height, width)
    height, width = (size, size) if isinstance(size, int) else size
    config["input_size"] = (channels, height, width)
    preprocessing = from_timm(config)
    config |= {"mean": preprocessing.mean, "std": preprocessing.std}  # averages for a grey network
    check_equal(preprocessing, data.create_transform(**config, is_training=False), "timm's transform")
    return preprocessing


def read_hf(name: str) -> Preprocessing:
    """Reads and checks the image processor of a Hugging Face model; no code of its repository is run.

    Raises:
        NotUnderstoodError: If it has none that can be read, or a setting is not understood.
    """
    transformers = importlib.import_module("transformers")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise NotUnderstoodError(f"it has no image processor that can be read ({reason[:160]})") from error
    return read_processor(processor)


def input_channels(model: Any) -> int | None:
    """Returns the number of channels of a network's images, 1 or 3, from its first convolution; None if unknown."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    channels = None if first is None else first.in_channels
    return channels if channels in (1, _RGB) else None


def with_input_channels(model: nn.Module, channels: int) -> nn.Module:
    """Replaces a network's first convolution on three channels by one with ``channels``, with random weights.

    Raises:
        LookalikeError: If there is no convolution on three channels.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == _RGB:
            new = nn.Conv2d(
                channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=layer.bias is not None,
                padding_mode=layer.padding_mode,
            )
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
            return model
    raise LookalikeError(f"in_chans={channels}: the {type(model).__name__} has no convolution that takes 3 channels")
