"""Seeds and random numbers. These are in single precision, whatever torch's default type is, and so always the same."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws from the standard normal distribution; returns float32 of the given shape, on the CPU."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws from the uniform distribution in [0, 1); returns float32 of the given shape, on the CPU."""
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float32)


def seeded(seed: int) -> torch.Generator:
    """Returns a generator on the CPU that starts from a seed."""
    return torch.Generator().manual_seed(seed)


def combined_seed(*numbers: int) -> int:
    """Returns one seed for several numbers, such as a seed, an epoch and a sample."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
