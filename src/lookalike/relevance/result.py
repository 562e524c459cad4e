"""What a relevance propagation returns."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class RuleUse:
    """One line of a rule table.

    Attributes:
        operation: What was executed.
        where: The weights it had, or those of the last operation before it that had any.
        rule: What its relevance went by.
        count: How often.
    """

    operation: str
    where: str
    rule: str
    count: int


@dataclass(frozen=True)
class Relevance:
    """Relevance maps.

    Attributes:
        maps: [N, C, H, W], or [N, M, C, H, W] for M targets per image.
        residual: |ΣR_in − R_out| / |R_out| per map [N] or [N, M]: what biases and stabilisers took, or gave.
        rules: Which operation went by which rule.
        composite: The name of the rules.
        versions: Of the packages.
    """

    maps: Tensor
    residual: Tensor
    rules: list[RuleUse]
    composite: str
    versions: dict[str, str]

    @property
    def pixels(self) -> Tensor:
        """The maps with channels summed: [N, H, W] or [N, M, H, W]."""
        return self.maps.sum(-3)

    @property
    def without_rule(self) -> list[str]:
        """The operations that had no rule, and whose gradient was used."""
        from lookalike.relevance.names import NO_RULE

        return sorted({use.operation for use in self.rules if use.rule == NO_RULE})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without the maps."""
        return {
            "composite": self.composite,
            "residual": self.residual.tolist(),
            "rules": [vars(use) for use in self.rules],
            "versions": self.versions,
        }

    def plot(self, index: int = 0, ax: "Axes | None" = None) -> "Axes":
        """Draws one image's map, or the first of its maps."""
        from lookalike.plots.heatmap import plot_heat_map

        pixels = self.pixels[index]
        return plot_heat_map((pixels if pixels.ndim == 2 else pixels[0]).float().cpu().numpy(), ax=ax)


def join(parts: list[Relevance]) -> Relevance:
    """Puts the results of several batches together; the rule table is that of one batch, as all go alike."""
    first = parts[0]
    return replace(first, maps=torch.cat([p.maps for p in parts]), residual=torch.cat([p.residual for p in parts]))
