"""Handles weights that a checkpoint lacks: a missing head makes an encoder, anything else is refused."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from lookalike._core.errors import LookalikeError, listing
from lookalike.encoder.head import find_head

_DEFAULT_SIZE = 224  # of images, if the network does not say


def check_missing(model: nn.Module, missing: Collection[str], source: str, size: Any = None) -> str | None:
    """Checks that a checkpoint lacks no weights, or exactly those of the head.

    Args:
        model: The network, with random numbers for the missing weights.
        missing: Names of the missing weights in its state dict.
        source: The checkpoint, for the message.
        size: Height and width of the inputs; None takes what the network says.

    Returns:
        The name of the head if all its weights are missing, and no others; None if nothing is missing.

    Raises:
        LookalikeError: If other weights are missing.
    """
    if not missing:
        return None
    modules = {name.rpartition(".")[0] for name in missing}
    if len(modules) == 1:
        module = next(iter(modules))
        weights_of_module = {name for name in model.state_dict() if name.rpartition(".")[0] == module}
        if weights_of_module == set(missing) and _find_head(model, size) == module:
            return module
    raise LookalikeError(
        f"{source} do not fit the {type(model).__name__}: missing: {listing(sorted(missing), 6)}; they would be random "
        "numbers"
    )


def _find_head(model: nn.Module, size: Any) -> str | None:
    """Finds the head with blank images; None if the network cannot run them or has no single head."""
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    height, width = _size_of(model) if size is None else size
    try:
        return find_head(model, torch.zeros(2, channels, height, width))[0]
    except (LookalikeError, RuntimeError, TypeError, ValueError, AssertionError):
        return None


def _size_of(model: nn.Module) -> tuple[int, int]:
    """Returns the height and width of a timm or Hugging Face network's inputs."""
    config = getattr(model, "config", None)
    size = getattr(config, "image_size", None)
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None) or size
    if size is None and isinstance(getattr(model, "pretrained_cfg", None), dict):
        size = model.pretrained_cfg.get("input_size", (3, _DEFAULT_SIZE, _DEFAULT_SIZE))[1:]  # type: ignore[union-attr, operator]
    if isinstance(size, int):
        return size, size
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return _DEFAULT_SIZE, _DEFAULT_SIZE
