"""The small network and images that fixtures and tools share."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def small_network() -> nn.Module:
    """Returns an untrained classifier of 1×8×8 images into 3 classes, in train mode in part, frozen in part."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 3),
    )
    model.train()
    model[1].eval()
    model[0].requires_grad_(False)
    return model


def bright_images(n: int) -> tuple[Tensor, Tensor]:
    """Returns n images of 3 classes that differ in where they are bright, and their classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    return x, y


class FailingSamples(TensorDataset):
    """Samples of which those from number ``limit`` on cannot be read until ``limit`` is set to None."""

    def __init__(self, x: Tensor, y: Tensor, limit: int) -> None:
        super().__init__(x, y)
        self.limit: int | None = limit

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if self.limit is not None and index >= self.limit:
            raise RuntimeError("power cut")
        return super().__getitem__(index)

    def fingerprint(self) -> str:
        """Returns a fingerprint that does not read the samples."""
        return "mine"
