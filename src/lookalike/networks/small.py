"""A small convolutional classifier, for data sets that do not need a ResNet."""

from torch import Tensor, nn

from lookalike._core import checks
from lookalike.networks.registry import NETWORKS


class SmallCNN(nn.Module):
    """Three stages of two 3×3 convolutions, with max pooling between them; average pooling; a linear head.

    Args:
        n_classes: K.
        channels: Number of channels of the images.
        width: Number of channels of the first stage; the embedding has four times as many.
    """

    def __init__(self, n_classes: int = 10, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        for name, value in (("n_classes", n_classes), ("channels", channels), ("width", width)):
            checks.whole_number(name, value, 1)
        self.stage1 = nn.Sequential(*_block(channels, width), *_block(width, width))
        self.stage2 = nn.Sequential(nn.MaxPool2d(2), *_block(width, 2 * width), *_block(2 * width, 2 * width))
        self.stage3 = nn.Sequential(nn.MaxPool2d(2), *_block(2 * width, 4 * width), *_block(4 * width, 4 * width))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, n_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns class scores [N, K]."""
        features = self.stage3(self.stage2(self.stage1(images)))
        return self.head(self.pool(features).flatten(1))  # type: ignore[no-any-return]


@NETWORKS.register("small-cnn")
def small_cnn(n_classes: int = 10, channels: int = 3, width: int = 16) -> SmallCNN:
    """Returns a ``SmallCNN`` with random weights."""
    return SmallCNN(n_classes, channels, width)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
