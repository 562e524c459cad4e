"""How much maps change under small noise: what stands beside maps of the unstable ``share`` rule."""

import torch
from torch import Tensor

from lookalike.model import PrototypeModel
from lookalike.relevance.attribution import prp
from lookalike.relevance.composites import Composite
from lookalike.relevance.similarity_layer import PrpRule

NOISE = 0.01  # of the value range
_DRAWS = 3


def correlations_of(first: Tensor, second: Tensor) -> Tensor:
    """Returns Pearson's correlation between the rows of two tensors [N, F]; NaN where a row is constant.

    Example:
        >>> round(float(correlations_of(torch.tensor([[1.0, 2, 3]]), torch.tensor([[3.0, 2, 1]]))), 6)
        -1.0
    """
    a, b = (rows - rows.mean(1, keepdim=True) for rows in (first, second))
    size = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(size > 0, (a * b).sum(1) / size, torch.nan)


def uniform_noise(x: Tensor, radius: Tensor, *, first: int = 0, draw: int = 0, seed: int = 0) -> Tensor:
    """Returns noise in [−radius, radius] for inputs [n, C, …]; each input has its own, whatever batch it is in.

    Args:
        x: The inputs.
        radius: One for all, or one per channel [C].
        first: The number of the first input.
        draw: The number of the draw.
        seed: For all of them.
    """
    parts = []
    for row in range(first, first + len(x)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + row) * 1_009 + draw)
        parts.append(2 * torch.rand(x.shape[1:], generator=generator) - 1)
    return (torch.stack(parts) * radius.cpu().float().view(1, -1, *[1] * (x.ndim - 2))).to(x)


@torch.no_grad()
def prp_stability(
    model: PrototypeModel, x: Tensor, prototypes: Tensor, maps: Tensor, composite: str | Composite, rule: PrpRule | None
) -> Tensor:
    """Returns the mean correlation of each image's PRP maps with those of the image with noise of ±1% [N].

    Args:
        model: The prototype model.
        x: Images [N, C, H, W].
        prototypes: Which prototypes the maps are about [N, M].
        maps: The maps, channels summed [N, M, H, W].
        composite: Rules of relevance propagation.
        rule: How relevance starts at the similarity layer.

    Returns:
        In [−1, 1]; NaN for an image whose maps are all constant. Noise is relative to the model's value range, or to
        the images' own where the model knows none.
    """
    axes = [0, *range(2, x.ndim)]
    known = model.value_range
    low, high = (x.amin(axes), x.amax(axes)) if known is None else known.unbind(0)
    flat = maps.double().flatten(0, 1).flatten(1)
    found = []
    for draw in range(_DRAWS):
        noise = uniform_noise(x, NOISE * (high - low), draw=draw)
        noisy = prp(model, x + noise, prototypes, composite, rule=rule).pixels.double()
        found.append(correlations_of(flat, noisy.flatten(0, 1).flatten(1)).view(len(x), -1))
    return torch.cat(found, 1).nanmean(1)
