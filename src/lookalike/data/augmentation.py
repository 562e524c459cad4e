"""Random changes to training images (paper, appendix A.1): never where images are embedded."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.data.preprocessing import Preprocessing

_PADDING = 2  # pixels
_FLIP = 0.5


class Augmented(Dataset[tuple[Tensor, int]]):
    """A data set whose images are flipped left to right half of the time, and cropped after padding with black.

    Chance is torch's own: ``torch.manual_seed`` fixes it.

    Args:
        dataset: Samples (x, y) with images [C, H, W].
        preprocessing: What they went through: it says what black is.
        padding: On each side, in pixels, before a crop of the same size as the image.
        flip: How often an image is flipped.
    """

    def __init__(
        self, dataset: Any, preprocessing: Preprocessing, padding: int = _PADDING, flip: float = _FLIP
    ) -> None:
        self.dataset = dataset
        self.black = preprocessing.normalise(torch.zeros(preprocessing.channels, 1, 1))
        self.padding = padding
        self.flip = flip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        if torch.rand(()) < self.flip:
            image = image.flip(-1)
        channels, height, width = image.shape
        canvas = self.black.expand(channels, height + 2 * self.padding, width + 2 * self.padding).clone()
        inside = slice(self.padding, self.padding + height), slice(self.padding, self.padding + width)
        canvas[:, *inside] = image
        top, left = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
        return canvas[:, top : top + height, left : left + width], label
