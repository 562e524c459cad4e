"""Stability of relevance maps: how much they change under small noise on the input. Co-12: continuity."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.untouched import keeps_torch_settings
from lookalike.metrics.maps import flat_maps, mean_of_finite
from lookalike.relevance.stability import correlations_of, uniform_noise

Explainer = Callable[[Tensor, slice], Tensor]  # inputs [n, C, H, W] and their rows among all images → maps [n, H, W]


@dataclass(frozen=True)
class MapStability:
    """How the maps R′ of slightly changed inputs differ from the maps R of the inputs.

    Attributes:
        changes: ‖R′ − R‖ / ‖R‖, image by image and draw by draw [N, S].
        correlations: Pearson's correlation between R′ and R [N, S].
        options: Radius, draws and seed.
    """

    changes: Tensor
    correlations: Tensor
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_sensitivity(self) -> float:
        """The largest relative change of each image's map, averaged over images, in [0, ∞); lower is better."""
        return mean_of_finite(self.changes.max(1).values)

    @property
    def avg_sensitivity(self) -> float:
        """The mean relative change, in [0, ∞); lower is better."""
        return mean_of_finite(self.changes)

    @property
    def correlation(self) -> float:
        """The mean correlation, in [−1, 1]; higher is better. Unlike the sensitivities, it ignores a map's scale."""
        return mean_of_finite(self.correlations)


@keeps_torch_settings
@torch.no_grad()
def map_stability(
    explain: Explainer,
    inputs: Tensor,
    maps: Tensor | None = None,
    *,
    radius: float | Tensor,
    n_samples: int = 5,
    seed: int = 0,
    batch_size: int = 256,
) -> MapStability:
    """Returns max-sensitivity, average sensitivity and correlation of maps under small noise.

    ‖R(x + δ) − R(x)‖ / ‖R(x)‖ with δ uniform in [−radius, radius] per value (Yeh et al. 2019, whose maximum over δ is
    taken over ``n_samples`` draws; Quantus: ``MaxSensitivity``, ``AvgSensitivity``). The maps R(x + δ) must explain
    the same class or prototype as R(x). Co-12: continuity.

    Args:
        explain: Computes the maps [n, H, W] of some inputs, given these and their rows in ``inputs``.
        inputs: Images [N, C, H, W].
        maps: The maps of ``inputs`` [N, H, W]; None calls ``explain``.
        radius: Radius of the noise, in the units of the inputs; a tensor [C] gives each channel its own.
        n_samples: Draws of noise per image.
        seed: Seed of the noise.
        batch_size: Most images to explain at once.

    Raises:
        LookalikeError: If an option is out of range, or a map is not finite.
    """
    n_samples = checks.whole_number("n_samples", n_samples, 1)
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    seed = checks.seed("seed", seed)
    checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
    sizes = checks.tensor("radius", radius, kind="number").float().reshape(-1)
    if not bool((sizes > 0).all()):
        raise checks.unfit("radius", radius, "greater than 0")
    changes, correlations = [], []
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        x = inputs[rows]
        clean = flat_maps("maps", explain(x, rows) if maps is None else maps[rows])
        changed_maps = []
        for draw in range(n_samples):
            noise = uniform_noise(x, sizes, first=start, draw=draw, seed=seed)
            changed_maps.append(flat_maps("maps", explain(x + noise, rows)))
        changes.append(torch.stack([relative_changes(clean, changed) for changed in changed_maps], 1))
        correlations.append(torch.stack([correlations_of(clean, changed) for changed in changed_maps], 1))
    options = {"radius": sizes.tolist(), "n_samples": n_samples, "seed": seed}
    return MapStability(torch.cat(changes), torch.cat(correlations), options)


def relative_changes(maps: Tensor, changed: Tensor) -> Tensor:
    """Returns ‖R′ − R‖ / ‖R‖ of maps and their changed versions, both [N, F]; NaN for a map without relevance.

    Example:
        >>> relative_changes(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
        tensor([0.2000])
    """
    size = maps.norm(dim=1)
    return torch.where(size > 0, (changed - maps).norm(dim=1) / size, torch.nan)
