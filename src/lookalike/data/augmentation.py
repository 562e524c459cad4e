"""Random flips and crops of training images (paper, appendix A.1). Embedding never uses them."""

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike.data.preprocessing import Preprocessing

_PADDING = 2  # pixels
_FLIP = 0.5


class Augmentation:
    """Flips an image left to right at random, then pads it with black and crops it at a random position.

    Args:
        preprocessing: The preprocessing of the images; black becomes (0 − mean) / std.
        padding: Pixels of black added on each side. The crop has the size of the original image.
        flip: Probability of flipping an image.

    Example:
        >>> grey = Preprocessing(None, None, (0.5,), (0.5,))
        >>> image = torch.ones(1, 4, 4)
        >>> Augmentation(grey)(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, preprocessing: Preprocessing, padding: int = _PADDING, flip: float = _FLIP) -> None:
        checks.instance("preprocessing", preprocessing, Preprocessing, "a Preprocessing")
        self.black = preprocessing.normalise(torch.zeros(preprocessing.channels, 1, 1, dtype=torch.float32))
        self.padding = checks.whole_number("padding", padding, 0)
        self.flip = checks.number("flip", flip, least=0, most=1)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Returns a randomly changed copy of one image [C, H, W].

        Args:
            image: A preprocessed image.
            generator: Source of randomness.
        """
        checks.tensor("image", image, ("C", "H", "W"))
        checks.instance("generator", generator, torch.Generator, "a torch.Generator")
        if torch.rand((), generator=generator) < self.flip:
            image = image.flip(-1)
        channels, height, width = image.shape
        canvas = self.black.expand(channels, height + 2 * self.padding, width + 2 * self.padding).clone()
        canvas[:, self.padding : self.padding + height, self.padding : self.padding + width] = image
        first_row, first_column = torch.randint(0, 2 * self.padding + 1, (2,), generator=generator).tolist()
        return canvas[:, first_row : first_row + height, first_column : first_column + width]
