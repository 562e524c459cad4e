"""Random changes to training images (paper, appendix A.1): never where images are embedded."""

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike.data.preprocessing import Preprocessing

_PADDING = 2  # pixels
_FLIP = 0.5


class Augmentation:
    """Flips an image left to right half of the time, and crops it after padding with black.

    Args:
        preprocessing: What the images went through: it says what black is.
        padding: On each side, in pixels, before a crop of the same size as the image.
        flip: How often an image is flipped.

    Example:
        >>> grey = Preprocessing(None, None, (0.5,), (0.5,))
        >>> image = torch.ones(1, 4, 4)
        >>> Augmentation(grey)(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, preprocessing: Preprocessing, padding: int = _PADDING, flip: float = _FLIP) -> None:
        checks.instance("preprocessing", preprocessing, Preprocessing, "a Preprocessing")
        self.black = preprocessing.normalise(torch.zeros(preprocessing.channels, 1, 1))
        self.padding = checks.whole_number("padding", padding, 0)
        self.flip = checks.number("flip", flip, least=0, most=1)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Changes one image [C, H, W].

        Args:
            image: As the network takes it.
            generator: Chance.
        """
        checks.tensor("image", image, ("C", "H", "W"))
        checks.instance("generator", generator, torch.Generator, "a torch.Generator")
        if torch.rand((), generator=generator) < self.flip:
            image = image.flip(-1)
        channels, height, width = image.shape
        canvas = self.black.expand(channels, height + 2 * self.padding, width + 2 * self.padding).clone()
        canvas[:, self.padding : self.padding + height, self.padding : self.padding + width] = image
        top, left = torch.randint(0, 2 * self.padding + 1, (2,), generator=generator).tolist()
        return canvas[:, top : top + height, left : left + width]
