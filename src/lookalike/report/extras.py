"""What a report leaves out when its time is over: the heat-maps on prototypes' images, and the section on parts."""

from dataclasses import dataclass, field

from lookalike.metrics.budget import Budget
from lookalike.model import PrototypeModel
from lookalike.report.examples import Examples

_DRAWING_SHARE = 0.15  # of the budget is kept for charts and pictures, which are drawn in any case [ours]
_PARTS_AS_IMAGES = 20  # test images with heat-maps that take as long as the section on parts


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the test images.

    Attributes:
        prototype_maps: Whether it shows the heat-map on each prototype's image.
        parts: Whether it has the section on parts.
        notes: What is left out.
    """

    prototype_maps: bool = True
    parts: bool = True
    notes: list[str] = field(default_factory=list)


def fitting_extras(model: PrototypeModel, examples: Examples, budget: Budget | None) -> Extras:
    """Returns what fits into the budget, by the time that the test images took."""
    if budget is None:
        return Extras()
    of_maps = examples.seconds_per_image * len(model.prototypes)
    of_parts = examples.seconds_per_image * _PARTS_AS_IMAGES
    left = budget.left - _DRAWING_SHARE * budget.seconds
    shows_maps = left > of_maps
    shows_parts = left - (of_maps if shows_maps else 0) > of_parts
    extras = {"heat-maps on the prototypes' images": shows_maps, "the section on parts": shows_parts}
    left_out = [name for name, is_shown in extras.items() if not is_shown]
    notes = [budget.left_out(", ".join(left_out))] if left_out else []
    return Extras(shows_maps, shows_parts, notes)
