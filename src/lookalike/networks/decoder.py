"""From a vector back to an image."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

_BASE = 4  # the side at which decoding starts
_LEAST, _MOST = 16, 64  # channels


class Decoder(nn.Module):
    """A linear layer to a 4×4 map, which is doubled in size by convolutions until it is the image.

    Args:
        dim: Of the vectors.
        image: Shape of the images (C, H, W).
    """

    def __init__(self, dim: int, image: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image
        self.size = (height, width)
        doublings = max(0, (max(height, width) - 1).bit_length() - 2)
        widths = [max(_LEAST, _MOST >> step) for step in range(doublings + 1)]
        self.start = nn.Linear(dim, widths[0] * _BASE * _BASE)
        blocks: list[nn.Module] = [nn.ReLU()]
        for inputs, outputs in itertools.pairwise(widths):
            blocks += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns images [N, C, H, W] of vectors [N, D], as a network takes them."""
        images: Tensor = self.blocks(self.start(vectors).unflatten(1, (-1, _BASE, _BASE)))
        if images.shape[2:] != self.size:
            images = nn.functional.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images
