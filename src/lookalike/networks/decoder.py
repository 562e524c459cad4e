"""Decodes vectors into images."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

_FIRST_SIDE = 4  # pixels of the first map
_MIN_CHANNELS, _MAX_CHANNELS = 16, 64


class Decoder(nn.Module):
    """A linear layer to a 4×4 map, then blocks that double its size until it is as large as the image.

    Args:
        dim: D, the dimension of the vectors.
        image: Shape of the images (C, H, W).
    """

    def __init__(self, dim: int, image: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image
        self.size = (height, width)
        doublings = max(0, (max(height, width) - 1).bit_length() - 2)
        widths = [max(_MIN_CHANNELS, _MAX_CHANNELS >> step) for step in range(doublings + 1)]
        self.start = nn.Linear(dim, widths[0] * _FIRST_SIDE * _FIRST_SIDE)
        blocks: list[nn.Module] = [nn.ReLU()]
        for inputs, outputs in itertools.pairwise(widths):
            blocks += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, vectors: Tensor) -> Tensor:
        """Decodes vectors [N, D] into preprocessed images [N, C, H, W]."""
        images: Tensor = self.blocks(self.start(vectors).unflatten(1, (-1, _FIRST_SIDE, _FIRST_SIDE)))
        if images.shape[2:] != self.size:
            images = nn.functional.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images
