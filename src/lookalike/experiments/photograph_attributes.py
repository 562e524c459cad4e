"""Attributes of the stamps that are read off their pixels and masks, as CelebA's are off its faces [ours]."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike.data import MaskedFiles, Preprocessing

_SATURATED = 0.15  # a pixel below it has no hue to speak of


class _Object(NamedTuple):
    """What is seen of a cut-out object.

    Attributes:
        colours: Values of its pixels in [0, 1], RGB [3, n].
        mask: Whether each pixel of the picture is the object's [H, W].
    """

    colours: Tensor
    mask: Tensor

    @property
    def brightness(self) -> Tensor:
        return self.colours.mean(0)

    @property
    def saturation(self) -> Tensor:
        return self.colours.amax(0) - self.colours.amin(0)

    def share_of_hues(self, first: float, last: float) -> float:
        """Returns the share of the object's pixels that are saturated and have a hue in a range of degrees."""
        red, green, blue = self.colours
        hue = torch.rad2deg(torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)) % 360
        inside = (hue >= first) & (hue < last) if first < last else (hue >= first) | (hue < last)
        return float((inside & (self.saturation > _SATURATED)).float().mean())

    def box(self) -> tuple[int, int]:
        """Returns height and width of the smallest upright rectangle around the object."""
        rows, columns = torch.nonzero(self.mask.any(1))[:, 0], torch.nonzero(self.mask.any(0))[:, 0]
        return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1

    def elongation(self) -> float:
        """Returns the ratio of the object's extents along its two main axes, at least 1."""
        positions = torch.nonzero(self.mask).double()
        variances = torch.linalg.eigvalsh(torch.cov(positions.T))
        return float((variances[1] / variances[0].clamp_min(1e-9)).sqrt())

    def symmetry(self) -> float:
        """Returns how far the object covers its mirror image: intersection over union within its rectangle."""
        columns = torch.nonzero(self.mask.any(0))[:, 0]
        inside = self.mask[:, columns[0] : columns[-1] + 1]
        return float((inside & inside.flip(1)).sum() / (inside | inside.flip(1)).sum())


# Thresholds are round numbers, chosen before any model was measured; each attribute holds for 6 to 47% of the pictures.
_ATTRIBUTES: dict[str, Callable[[_Object], bool]] = {
    "dark": lambda seen: float(seen.brightness.mean()) < 0.4,
    "bright": lambda seen: float(seen.brightness.mean()) > 0.6,
    "uneven in brightness": lambda seen: float(seen.brightness.std()) > 0.2,
    "colourful": lambda seen: float(seen.saturation.mean()) > 0.4,
    "partly red": lambda seen: seen.share_of_hues(340, 20) > 0.25,
    "partly orange or yellow": lambda seen: seen.share_of_hues(20, 70) > 0.25,
    "partly green": lambda seen: seen.share_of_hues(70, 170) > 0.25,
    "partly blue or violet": lambda seen: seen.share_of_hues(170, 340) > 0.25,
    "large": lambda seen: float(seen.mask.float().mean()) > 0.4,
    "upright": lambda seen: seen.box()[0] > 1.2 * seen.box()[1],
    "wide": lambda seen: seen.box()[1] > 1.2 * seen.box()[0],
    "elongated": lambda seen: seen.elongation() > 2,
    "symmetric": lambda seen: seen.symmetry() > 0.85,
}
ATTRIBUTES = list(_ATTRIBUTES)


def attributes_of(files: MaskedFiles) -> np.ndarray:
    """Returns the attributes of cut-out pictures [N, A], uint8, in the order of ``ATTRIBUTES``."""
    preprocessing = files.transform
    assert isinstance(preprocessing, Preprocessing)  # of load_stamps
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    rows = []
    for index in range(len(files)):
        mask = files.mask(index)
        pixels = files[index][0] * std + mean
        seen = _Object(pixels[:, mask], mask)
        rows.append([holds(seen) for holds in _ATTRIBUTES.values()])
    return np.array(rows, dtype=np.uint8)
