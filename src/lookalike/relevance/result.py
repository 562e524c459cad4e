"""The result of a relevance propagation."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lookalike.relevance.names import WITHOUT_RULE
from lookalike.relevance.rule_uses import TOO_MUCH

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class RuleUse:
    """One line of a rule table.

    Attributes:
        operation: Name of the operation.
        where: Name of its weights, or of those of the last operation before it that had any.
        rule: Rule by which its relevance was propagated.
        count: Number of times.
    """

    operation: str
    where: str
    rule: str
    count: int


@dataclass(frozen=True)
class Relevance:
    """Relevance maps, with a record of the rules and of the relevance that was lost.

    Attributes:
        maps: Relevance [N, C, H, W], or [N, M, C, H, W] for M targets per image.
        residual: |ΣR_in − R_out| / |R_out| per map [N] or [N, M]: relevance that biases and stabilisers took or added.
        rules: The rule table: which operation used which rule.
        composite: Name of the composite.
        versions: Versions of the packages.
        unruled_by: For each operation without a rule, the share of the relevance that went through it, per map [N] or
            [N, M].
        has_channels_last: Whether the network takes images [N, H, W, C], as far as its first convolution tells.
    """

    maps: Tensor
    residual: Tensor
    rules: list[RuleUse]
    composite: str
    versions: dict[str, str]
    unruled_by: dict[str, Tensor] = field(default_factory=dict)
    has_channels_last: bool = False

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.maps.shape))
        return f"Relevance(maps {shape}, composite={self.composite!r}, residual up to {float(self.residual.max()):.2g})"

    @property
    def pixels(self) -> Tensor:
        """The maps with channels summed: [N, H, W] or [N, M, H, W].

        Channels are the first axis after images and targets, or the last one if ``has_channels_last``. Maps of tabular
        inputs [N, F] have no channels and are returned unchanged.
        """
        axis = self.residual.ndim
        n_axes = self.maps.ndim - axis
        if n_axes < 2:
            return self.maps
        return self.maps.sum(-1 if n_axes > 2 and self.has_channels_last else axis)

    @property
    def unruled(self) -> Tensor:
        """The share of each map's relevance that went through operations without a rule, at most 1: [N] or [N, M]."""
        total = torch.zeros_like(self.residual)
        for share in self.unruled_by.values():
            total = total + share
        return total.clamp_max(1)

    @property
    def caution(self) -> str | None:
        """Why these maps are unreliable; None if they are reliable."""
        return self._caution(slice(None))

    @property
    def cautions(self) -> list[str | None]:
        """Why each image's maps are unreliable; None for each image with reliable maps."""
        return [self._caution(row) for row in range(len(self.maps))]

    def _caution(self, rows: int | slice) -> str | None:
        shares = {name: float(share[rows].max()) for name, share in self.unruled_by.items()}
        worst = float(self.unruled[rows].max()) if shares else 0.0
        if worst <= TOO_MUCH:
            return None
        names = sorted(shares, key=lambda name: -shares[name])
        listed = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        return f"do not rely on this map: {worst:.0%} of its relevance went through {listed} without a rule"

    @property
    def without_rule(self) -> list[str]:
        """Names of the operations without a rule: their gradient was used, or relevance ended there."""
        return sorted({use.operation for use in self.rules if use.rule in WITHOUT_RULE})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without the maps."""
        return {
            "composite": self.composite,
            "residual": self.residual.tolist(),
            "rules": [vars(use) for use in self.rules],
            "unruled": self.unruled.tolist(),
            "caution": self.caution,
            "versions": self.versions,
        }

    def of_first_target(self) -> "Relevance":
        """Returns the maps of the first target only, without the axis of targets."""
        shares = {name: share[:, 0] for name, share in self.unruled_by.items()}
        return replace(self, maps=self.maps[:, 0], residual=self.residual[:, 0], unruled_by=shares)

    def plot(self, index: int = 0, ax: "Axes | None" = None) -> "Axes":
        """Plots one image's map, or the first of its maps."""
        from lookalike.plots.heatmap import plot_heat_map

        pixels = self.pixels[index]
        return plot_heat_map((pixels if pixels.ndim == 2 else pixels[0]).float().cpu().numpy(), ax=ax)


def join(batches: list[Relevance]) -> Relevance:
    """Joins the results of several batches; the rule table is that of the first batch, as all use the same rules."""
    first = batches[0]
    if len(batches) == 1:
        return first
    by_operation = {
        name: torch.cat([batch.unruled_by.get(name, torch.zeros_like(batch.residual)) for batch in batches])
        for name in dict.fromkeys(name for batch in batches for name in batch.unruled_by)
    }
    maps, residual = torch.cat([batch.maps for batch in batches]), torch.cat([batch.residual for batch in batches])
    return replace(first, maps=maps, residual=residual, unruled_by=by_operation)
