"""What a model remembers of its training data, above all the images that show its prototypes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from lookalike._core import checks
from lookalike._core.errors import warn_of
from lookalike._core.names import without_common_folder
from lookalike.data import Batches, Preprocessing, preprocessing_or_none
from lookalike.model.prototypes import Prototypes


@dataclass(frozen=True)
class Origin:
    """What a model remembers of the data that it was made from. Nothing here changes a prediction.

    Attributes:
        images: Training images nearest to each prototype, as the network sees them, uint8 [P, M, H, W, C].
        value_range: The inputs' values of black and white [2, C]: needed to show inputs, and to turn ``images``
            back into inputs.
        provenance: Options, seeds, fingerprints and versions of the conversion.
        training_keys: A hash of each training file's bytes, sorted int64 [N]. With them, training images are recognised
            and never used as test images. None if the data were not files.
        training_names: File names of the training samples nearest to the prototypes, by number; None if they have none.
    """

    images: Tensor | None = None
    value_range: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    training_keys: Tensor | None = None
    training_names: Mapping[int, str] | None = None

    def checked(self, n_prototypes: int) -> "Origin":
        """Returns a copy whose values are checked; mappings are copied.

        Raises:
            LookalikeError: If a value has another type or shape.
        """
        images, value_range, keys, names = self.images, self.value_range, self.training_keys, self.training_names
        if images is not None:
            images = checks.tensor("images", images, (n_prototypes, "M", "H", "W", "C"), kind="whole")
        if value_range is not None:
            value_range = checks.tensor("value_range", value_range, (2, "C"), kind="number")
        if keys is not None:
            keys = checks.tensor("training_keys", keys, ("N",), kind="whole")
        checks.optional(checks.instance, "training_names", names, Mapping, "a mapping from numbers to names")
        return replace(
            self,
            images=images,
            value_range=value_range,
            provenance=dict(checks.mapping("provenance", self.provenance)),
            training_keys=keys,
            training_names=dict(names or {}),
        )


def read_prototype_images(
    batches: Batches | None,
    prototypes: Prototypes,
    number: int,
    preprocessing: Preprocessing | None,
    value_range: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Reads the training images nearest to each prototype.

    Args:
        batches: The training data; None if they cannot be read again.
        prototypes: The prototypes, with their nearest samples.
        number: M, the number of images per prototype; 0 returns only the value range.
        preprocessing: Preprocessing of the images, if it is known.
        value_range: The inputs' values of black and white [2, C], if they are known.

    Returns:
        Pixels uint8 [P, M, H, W, C], white for a prototype without training images, and the values of black and white
        in the inputs [2, C]; None if not available.
    """
    n_shown = min(number, prototypes.nearest.shape[1])
    if batches is None or not batches.can_fetch or not prototypes.nearest.shape[1]:
        return None, None
    rows = prototypes.nearest[:, : max(n_shown, 1)]
    rows = torch.where(rows < 0, rows[:, :1], rows)  # too few images: repeat the nearest
    unique, position = np.unique(rows.numpy(), return_inverse=True)
    n_missing = int(unique[0] < 0)  # −1 stands for no image, and comes first
    if n_missing == len(unique):
        return None, None
    shown = unique[n_missing:]
    first = batches.fetch(shown[: batches.batch_size])
    if not isinstance(first, Tensor) or first.ndim != 4 or first.shape[1] not in (1, 3):
        return None, None
    is_known = preprocessing is not None and preprocessing.channels == first.shape[1]
    if value_range is None:
        value_range = value_range_of(first if is_known else _extremes(batches, first, shown), preprocessing)
    if n_shown < 1:
        return None, value_range
    pixel_batches = [pixels_of(inputs, value_range, preprocessing) for inputs in _inputs_of(batches, first, shown)]
    if len({pixels.shape[1:] for pixels in pixel_batches}) > 1:
        warn_of("the prototypes' training images differ in size and are not kept; resize and crop images to one size")
        return None, value_range
    blank = torch.full_like(pixel_batches[0][:n_missing], 255)
    return torch.cat([blank, *pixel_batches])[torch.from_numpy(position.reshape(rows.shape))], value_range


def _inputs_of(batches: Batches, first: Tensor, numbers: np.ndarray) -> Iterator[Tensor]:
    """Yields the inputs of samples, batch by batch; the first batch has been read."""
    yield first
    for start in range(batches.batch_size, len(numbers), batches.batch_size):
        yield batches.fetch(numbers[start : start + batches.batch_size])


def _extremes(batches: Batches, first: Tensor, numbers: np.ndarray) -> Tensor:
    """Returns the least and the largest values of samples, as inputs [2, C, 1, 1]: one batch may be all dark."""
    least, most = first.amin((0, 2, 3)), first.amax((0, 2, 3))
    for inputs in _inputs_of(batches, first, numbers):
        least, most = torch.minimum(least, inputs.amin((0, 2, 3))), torch.maximum(most, inputs.amax((0, 2, 3)))
    return torch.stack([least, most])[..., None, None]


def read_prototype_names(batches: Batches | None, prototypes: Prototypes) -> dict[int, str] | None:
    """Returns the file names of the training samples nearest to the prototypes, by index.

    The folder that all of them have in common is left out.

    Returns:
        None if the data have no names, or cannot be read one by one.
    """
    if batches is None or not batches.can_fetch:
        return None
    indices = prototypes.nearest[prototypes.nearest >= 0].unique().tolist()
    names = [batches.name_of(index) for index in indices]
    known_names = {index: name for index, name in zip(indices, names, strict=True) if name is not None}
    return dict(zip(known_names, without_common_folder(list(known_names.values())), strict=True)) or None


def record_of(batches: Batches | None) -> tuple[dict[str, Any] | None, Tensor | None]:
    """Returns what a model remembers about its training data.

    Returns:
        The split as JSON values, and a key of each file's content, sorted [N]; None if not available.
    """
    if batches is None:
        return None, None
    keys = batches.content_keys()
    split = None if batches.split is None else batches.split.to_dict()
    return split, None if keys is None else torch.from_numpy(keys)


def transform_of(batches: Batches | None) -> Any:
    """Returns the transform of a data set, or of the one that it is a part of; None if it has none."""
    dataset = batches.dataset if batches is not None else None
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, "transform", None)


def preprocessing_of(batches: Batches | None) -> Preprocessing | None:
    """Returns what the images of a data set go through, if it is a transform that can be read."""
    return preprocessing_or_none(transform_of(batches))


def pixels_of(inputs: Tensor, value_range: Tensor, preprocessing: Preprocessing | None = None) -> Tensor:
    """Returns inputs [N, C, H, W] as uint8 pixels [N, H, W, C].

    Args:
        inputs: Inputs of the network.
        value_range: The inputs' values of black and white [2, C].
        preprocessing: Needed if the channels are not in the order RGB.
    """
    low, high = value_range[:, :, None, None].to(inputs.device, inputs.dtype).unbind(0)
    unit = (inputs.detach() - low) / (high - low)
    if preprocessing is not None:
        unit = preprocessing.reordered(unit)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def value_range_of(inputs: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Returns the inputs' values of black and white [2, C]: exact for a known normalisation, else as observed."""
    channels = inputs.shape[1]
    if preprocessing is not None and preprocessing.channels == channels:
        black, white = torch.zeros(channels, 1, 1, dtype=torch.float32), torch.ones(channels, 1, 1, dtype=torch.float32)
        return torch.stack([preprocessing.normalise(black), preprocessing.normalise(white)])[..., 0, 0]
    low, high = float(inputs.min()), float(inputs.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    ends = [[low], [high if high > low else low + 1.0]]
    return torch.tensor(ends, dtype=torch.float32).expand(2, channels).clone()
