"""The training images that show a model's prototypes, as the network sees them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from lookalike._core.errors import warn_of
from lookalike.data import Batches, Preprocessing, preprocessing_or_none
from lookalike.model.prototypes import Prototypes


def read_prototype_images(
    batches: Batches | None, prototypes: Prototypes, number: int, preprocessing: Preprocessing | None
) -> tuple[Tensor | None, Tensor | None]:
    """Reads the training images nearest to each prototype again.

    Args:
        batches: The training data; None if they cannot be read again.
        prototypes: Surveyed.
        number: M, of how many images per prototype; 0 finds the value range alone.
        preprocessing: What the images went through, where that is known.

    Returns:
        Pixels uint8 [P, M, H, W, C], and the inputs' values at black and at white [2, C]; None for what there is not.
    """
    wanted = min(number, prototypes.nearest.shape[1])
    if batches is None or not batches.can_fetch or not prototypes.nearest.shape[1]:
        return None, None
    rows = prototypes.nearest[:, : max(wanted, 1)]
    rows = torch.where(rows < 0, rows[:, :1], rows)  # a class with fewer images shows its nearest again
    unique, position = np.unique(rows.numpy(), return_inverse=True)
    parts, values = [], None
    for start in range(0, len(unique), batches.batch_size):
        inputs = batches.fetch(unique[start : start + batches.batch_size])
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
            return None, None
        if values is None:
            values = value_range_of(inputs, preprocessing)
        parts.append(pixels_of(inputs, values, preprocessing))
    if wanted < 1:
        return None, values
    if len({pixels.shape[1:] for pixels in parts}) > 1:
        warn_of("the prototypes' training images differ in size and are not kept; resize and crop images to one size")
        return None, values
    return torch.cat(parts)[torch.from_numpy(position.reshape(rows.shape))], values


def record_of(batches: Batches | None) -> tuple[dict[str, Any] | None, Tensor | None]:
    """Returns what a model is to remember of its training data: their split, and a key of each file [N].

    Returns:
        The split as JSON values, and the files' content keys, sorted; None for what there is not.
    """
    if batches is None:
        return None, None
    keys = batches.content_keys()
    split = None if batches.split is None else batches.split.to_dict()
    return split, None if keys is None else torch.from_numpy(keys)


def preprocessing_of(batches: Batches | None) -> Preprocessing | None:
    """Returns what the images of a data set go through, where it is one that can be told."""
    dataset = batches.dataset if batches is not None else None
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return preprocessing_or_none(getattr(dataset, "transform", None))


def pixels_of(inputs: Tensor, value_range: Tensor, preprocessing: Preprocessing | None = None) -> Tensor:
    """Returns inputs [N, C, H, W] as uint8 pixels [N, H, W, C].

    Args:
        inputs: As the network takes them.
        value_range: Their values at black and white [2, C].
        preprocessing: Says where the channels are in another order than RGB.
    """
    low, high = value_range[:, :, None, None].to(inputs.device, inputs.dtype).unbind(0)
    unit = (inputs.detach() - low) / (high - low)
    if preprocessing is not None:
        unit = preprocessing.reordered(unit)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def value_range_of(inputs: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Returns the input values of black and white [2, C]: exact for a known normalisation, else the span seen."""
    channels = inputs.shape[1]
    if preprocessing is not None and preprocessing.channels == channels:
        black, white = torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)
        return torch.stack([preprocessing.normalise(black), preprocessing.normalise(white)])[..., 0, 0]
    low, high = float(inputs.min()), float(inputs.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return torch.tensor([[low], [high if high > low else low + 1.0]]).expand(2, channels).clone()
