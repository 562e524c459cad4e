"""What the noise of relevance ordering costs, by each generator, beside the run that it is drawn for.

    python benchmarks/noise.py [--quick]

Prints Markdown. Noise and random orders of pixels are drawn for as many images as a run has, five draws each. CPU
seconds (user and system, all threads), in turn; medians. The last column is the difference of the two generators as a
share of the run, relevance ordering by given maps and in random order.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, cpu_side_by_side, table
from lookalike.metrics import Noise, relevance_ordering
from networks import network

IMAGES, DRAWS = 20, 5


def small_network() -> nn.Module:
    """A network for digits of 28²."""
    layers: list[nn.Module] = []
    for given, taken in ((1, 32), (32, 64)):
        layers += [nn.Conv2d(given, taken, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 49, 10)).eval()


def draw(noise: Noise, x: Tensor) -> None:
    """Draws all noise and orders of a run."""
    samples = range(len(x))
    for _ in noise.for_images(samples, x):
        pass
    for _ in noise.orders_for_images(samples, x):
        pass


def order(net: nn.Module, noise: Noise, x: Tensor) -> None:
    """A run: relevance ordering by maps, and in random order."""
    for maps in (x.sum(1), None):
        relevance_ordering(lambda images: net(images).softmax(1), x, maps, noise)


def main() -> None:
    """Runs all and prints Markdown."""
    quick = begin("Noise", __doc__, "fewer images and repeats")
    n, repeats = (1, 5) if quick else (IMAGES, 7)
    cases: list[tuple[str, Callable[[], nn.Module], tuple[int, int], int]] = [
        ("ResNet34, 224²", lambda: network("resnet34"), (3, 224), n),
        ("MobileNetV2, 224²", lambda: network("mobilenet_v2"), (3, 224), n),
        ("small network, 28²", small_network, (1, 28), 10 * n),
    ]
    rows = []
    for name, make, (channels, side), number in cases:
        net, x = make(), torch.rand(number, channels, side, side)
        noises = [
            Noise(torch.zeros(channels), torch.ones(channels), DRAWS, 0, generator)
            for generator in ("mersenne", "philox")
        ]
        seconds = cpu_side_by_side([partial(draw, noise, x) for noise in noises], repeats)
        run = cpu_side_by_side([partial(order, net, noises[1], x)], 1)[0]
        each = [f"{taken / number * 1e3:.2f} ms" for taken in (*seconds, run)]
        rows.append([name, *each, f"{(seconds[1] - seconds[0]) / run:+.2%}"])
    columns = ["per image", "noise, mersenne", "noise, philox", "run", "difference / run"]
    print(table(f"{DRAWS} draws of noise and a random order", columns, rows))


if __name__ == "__main__":
    main()
