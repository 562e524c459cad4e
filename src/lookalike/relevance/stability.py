"""Stability of PRP maps under small noise, shown next to maps of the unstable ``share`` rule."""

import torch
from torch import Tensor

from lookalike._core.draws import seeded, uniform
from lookalike._core.untouched import keeps_torch_settings
from lookalike.model import PrototypeModel
from lookalike.relevance.attribution import prp
from lookalike.relevance.composites import Composite
from lookalike.relevance.similarity_layer import PrpRule

NOISE = 0.01  # relative to the value range
_DRAWS = 3  # of noise per image


_CONSTANT = 1e-9  # length of a centred row, of largest value 1, below which only rounding is left of it


def correlations_of(first: Tensor, second: Tensor) -> Tensor:
    """Returns Pearson's correlation between the rows of two tensors [N, F], as float64; NaN if a row is constant.

    Example:
        >>> round(float(correlations_of(torch.tensor([[1.0, 2, 3]]), torch.tensor([[3.0, 2, 1]]))), 6)
        -1.0
        >>> float(correlations_of(torch.tensor([[0.1, 0.1, 0.1]]), torch.tensor([[3.0, 2, 1]])))
        nan
    """
    a, b = _unit_rows(first), _unit_rows(second)
    is_constant = (a.abs().amax(1) == 0) | (b.abs().amax(1) == 0)
    return (a * b).sum(1).clamp(-1, 1).masked_fill(is_constant, torch.nan)


def _unit_rows(rows: Tensor) -> Tensor:
    """Returns rows of mean 0 and length 1; zeros for a constant row."""
    values = (rows.cpu() if rows.device.type == "mps" else rows).double()  # Apple's GPUs have no float64
    values = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    centred = values - values.mean(1, keepdim=True)  # scaled before, as squares of tiny values would underflow
    length = centred.norm(dim=1, keepdim=True)
    return torch.where(length > _CONSTANT, centred / length.clamp_min(_CONSTANT), 0.0)


def uniform_noise(x: Tensor, radius: Tensor, *, first: int = 0, draw: int = 0, seed: int = 0) -> Tensor:
    """Draws uniform noise in [−radius, radius] for inputs [n, C, …], seeded per input: it does not depend on the batch.

    Args:
        x: The inputs.
        radius: One radius for all channels, or one per channel [C].
        first: Number of the first input in the data.
        draw: Number of the draw.
        seed: Seed of all draws.
    """
    # the factors keep seeds of different runs, inputs and draws apart, for up to a million inputs and a thousand draws
    noise = []
    for row in range(first, first + len(x)):
        generator = seeded((seed * 1_000_003 + row) * 1_009 + draw)
        noise.append(2 * uniform(x.shape[1:], generator) - 1)
    return (torch.stack(noise) * radius.cpu().float().view(1, -1, *[1] * (x.ndim - 2))).to(x)


@keeps_torch_settings
@torch.no_grad()
def prp_stability(
    model: PrototypeModel, x: Tensor, prototypes: Tensor, maps: Tensor, composite: str | Composite, rule: PrpRule | None
) -> Tensor:
    """Returns the mean correlation of each image's PRP maps with the maps of the image with ±1% of noise [N].

    Args:
        model: The prototype model.
        x: Images [N, C, H, W].
        prototypes: Indices of the explained prototypes [N, M].
        maps: The maps, channels summed [N, M, H, W].
        composite: Rules of relevance propagation.
        rule: How relevance starts at the similarity layer.

    Returns:
        Values in [−1, 1]; NaN for an image whose maps are all constant. Noise is relative to the model's value range,
        or to the range of the images if the model does not know it.
    """
    axes = [0, *range(2, x.ndim)]
    value_range = model.value_range
    low, high = (x.amin(axes), x.amax(axes)) if value_range is None else value_range.unbind(0)
    flat = maps.double().flatten(0, 1).flatten(1)
    correlations = []
    for draw in range(_DRAWS):
        noise = uniform_noise(x, NOISE * (high - low), draw=draw)
        noisy = prp(model, x + noise, prototypes, composite, rule=rule).pixels.double()
        correlations.append(correlations_of(flat, noisy.flatten(0, 1).flatten(1)).view(len(x), -1))
    return torch.cat(correlations, 1).nanmean(1)
