"""The small network of the demonstration, which stands for your own model.

The demonstration writes a copy of this file beside its checkpoint, so that you can pass both to the command line
like any model of your own: ``lookalike convert network.py:digit_network digits --weights classifier.pth -o OUT``.
"""

from torch import nn

from lookalike.data import Preprocessing

PREPROCESSING = Preprocessing(resize=28, crop=(28, 28), mean=(0.1307,), std=(0.3081,))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def digit_network() -> tuple[nn.Module, Preprocessing]:
    """Returns a network for 28×28 grey digits, with random weights, and its preprocessing."""
    network = nn.Sequential(
        *_block(1, 16),
        *_block(16, 16),
        nn.MaxPool2d(2),
        *_block(16, 32),
        *_block(32, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return network, PREPROCESSING
