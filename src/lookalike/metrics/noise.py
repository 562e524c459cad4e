"""White noise in place of pixels, and random orders of pixels, drawn for each image by its number in the data.

There are two generators. ``"philox"`` computes the numbers where the images are, and they are the same on every device
to the bit. ``"mersenne"`` is torch's own on the CPU, from which the numbers have to be copied; the experiments keep it,
so that the figures that are published stay as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lookalike._core import checks, philox
from lookalike._core.draws import seeded, uniform

Generator = Literal["philox", "mersenne"]

_NOISE, _ORDER = 0, 1  # streams of the same seed and sample
# Of small images, several are drawn at once, as a draw takes a hundred steps, however short. On a GPU it takes as long
# for the numbers of twenty photographs.
_NUMBERS_AT_ONCE = 1 << 18
_NUMBERS_AT_ONCE_ON_GPU = 1 << 24


@dataclass(frozen=True)
class Noise:
    """White noise, uniform between black and white; every model gets the same noise for the same sample.

    Attributes:
        low: Value of the inputs at black [C].
        high: Value of the inputs at white [C].
        draws: Number of independent draws per image.
        seed: Seed of all draws.
        generator: ``"philox"`` draws the same numbers on every device; ``"mersenne"`` those of earlier versions, on the
            CPU.
    """

    low: Tensor
    high: Tensor
    draws: int = 5
    seed: int = 0
    generator: Generator = "philox"

    def __post_init__(self) -> None:
        checks.field(self, "draws", checks.whole_number, 1)
        checks.field(self, "seed", checks.seed)
        checks.one_of("generator", self.generator, get_args(Generator))
        low = checks.tensor("low", self.low, ("C",), kind="number")
        checks.tensor("high", self.high, (len(low),), kind="number")

    @property
    def record(self) -> dict[str, str]:
        """What results say of the generator; empty for that of earlier versions."""
        return {} if self.generator == "mersenne" else {"generator": self.generator}

    def of(self, sample: int, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Draws the noise of a sample [draws, C, H, W], float32, on a device; None is the CPU."""
        return self.of_each([sample], shape, device)[0]

    def of_each(self, samples: Sequence[int], shape: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Draws the noise of several samples [n, draws, C, H, W]; see ``of``."""
        size = (self.draws, *shape)
        if self.generator == "philox":
            streams = torch.tensor(samples, device=device)
            drawn = philox.uniform(self.seed, _NOISE, streams, torch.Size(size).numel()).view(-1, *size)
        else:
            drawn = torch.stack([uniform(size, self._mersenne(sample, _NOISE)) for sample in samples])
        low, high = (bound.to(drawn.device).float().view(1, -1, 1, 1) for bound in (self.low, self.high))
        scaled: Tensor = drawn.mul_(high - low).add_(low)
        return scaled if device is None else scaled.to(device)

    def random_order(self, sample: int, n_pixels: int) -> Tensor:
        """Draws random relevance [n_pixels] without ties: the pixel order of the reference curve."""
        return self._random_orders([sample], n_pixels, None)[0]

    def for_images(self, samples: Sequence[int], inputs: Tensor) -> Iterator[Tensor]:
        """Yields the noise of each image [draws, C, H, W], on the device and in the type of the images [N, C, H, W]."""
        shape = inputs.shape[1:]
        for part in _parts(samples, self.draws * shape.numel(), inputs.device):
            yield from self.of_each(part, shape, inputs.device).to(inputs)

    def orders_for_images(self, samples: Sequence[int], inputs: Tensor) -> Iterator[Tensor]:
        """Yields a random order of each image's pixels [H · W], on the device of the images."""
        n_pixels = inputs.shape[2:].numel()
        for part in _parts(samples, n_pixels, inputs.device):
            yield from self._random_orders(part, n_pixels, inputs.device)

    def _random_orders(self, samples: Sequence[int], n_pixels: int, device: torch.device | None) -> Tensor:
        if self.generator == "philox":
            return philox.orders(self.seed, _ORDER, torch.tensor(samples, device=device), n_pixels).float()
        return torch.stack(
            [torch.randperm(n_pixels, generator=self._mersenne(sample, _ORDER)).float() for sample in samples]
        )

    def _mersenne(self, sample: int, kind: int) -> torch.Generator:
        # the factor keeps the samples' seeds of one run apart from those of another, for up to a million samples
        return seeded((self.seed * 2 + kind) * 1_000_003 + sample)


def _parts(samples: Sequence[int], n_numbers: int, device: torch.device) -> Iterator[Sequence[int]]:
    """Yields as many samples as are drawn at once, if each takes so many numbers."""
    n_at_once = max(1, (_NUMBERS_AT_ONCE if device.type == "cpu" else _NUMBERS_AT_ONCE_ON_GPU) // n_numbers)
    for start in range(0, len(samples), n_at_once):
        yield samples[start : start + n_at_once]
