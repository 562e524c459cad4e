"""The prototypes of a report."""

from collections import Counter
from typing import Any

import numpy as np
import torch

from lookalike._core.errors import RelevanceError
from lookalike.data import Batches
from lookalike.metrics import Scorecard
from lookalike.model import PrototypeModel
from lookalike.plots.heatmap import common_limit, paint, shares
from lookalike.relevance import PrpRule, prp
from lookalike.report.pictures import picture

_NEAREST = 8
_MANY = 300  # prototypes; of more than these one training image is shown each, and no map


def gallery_of(
    model: PrototypeModel, card: Scorecard, decides: Counter[int], train: Batches | None, rules: tuple[str, PrpRule]
) -> list[dict[str, Any]]:
    """Returns the classes with their prototypes: pictures, counts, purity, how often each decides.

    Args:
        model: The prototype model.
        card: Its scorecard, for the activations.
        decides: How many test images each prototype decides.
        train: The training data, to read more of the nearest images than the model holds.
        rules: Of relevance propagation: the composite, and how it starts at the similarity layer.
    """
    p = model.prototypes
    pictures = _nearest_pictures(model, train)
    maps = _maps(model, rules)
    decoded = model.decoded_prototypes()
    activations = card.details.get("transparency", [{}])[0].get("activations")
    classes = []
    for k, name in enumerate(model.class_names):
        members = torch.nonzero(p.labels == k)[:, 0].tolist()
        classes.append(
            {
                "name": name,
                "prototypes": [
                    {
                        "number": j,
                        "class": name,
                        "count": int(p.counts[j]),
                        "purity": None if p.purity[j].isnan() else float(p.purity[j]),
                        "decides": decides[j],
                        "ghost": activations is not None and activations[j] == 0,
                        "images": _captioned(model, j, pictures[j]),
                        "map": maps.get(j),
                        "decoded": None if decoded is None else picture(decoded[j].numpy()),
                    }
                    for j in members
                ],
            }
        )
    return classes


def _nearest_pictures(model: PrototypeModel, train: Batches | None) -> list[list[str]]:
    """Returns pictures of the training images nearest to each prototype."""
    p = model.prototypes
    many = len(p) > _MANY
    if model.images is None:
        held: list[list[str]] = [[] for _ in range(len(p))]
    else:
        shown = model.images[:, :1] if many else model.images
        held = [[picture(one.numpy()) for one in row] for row in shown]
    if train is None or many or not train.can_fetch or model.value_range is None:
        return held
    rows = p.nearest[:, :_NEAREST]
    known = rows[rows >= 0].unique()
    if not len(known) or int(known.max()) >= (train.total or 0):
        return held
    pixels = model.to_pixels(train.fetch(known.cpu().numpy()))
    if pixels is None:
        return held
    by_index = dict(zip(known.tolist(), (picture(one.numpy()) for one in pixels), strict=True))
    return [[by_index[index] for index in row if index >= 0] for row in rows.tolist()]


def _captioned(model: PrototypeModel, j: int, pictures: list[str]) -> list[dict[str, Any]]:
    """Returns pictures with what is known of them."""
    p, found = model.prototypes, []
    for rank, source in enumerate(pictures):
        known = rank < p.nearest.shape[1] and int(p.nearest[j, rank]) >= 0
        caption = (
            f"image {int(p.nearest[j, rank])}, distance {float(p.distances[j, rank]):.3g}, "
            f"closer than {100 - float(p.percentiles[j, rank]):.0f}% of its images"
            if known
            else ""
        )
        found.append({"source": source, "caption": caption})
    return found


@torch.no_grad()
def _maps(model: PrototypeModel, rules: tuple[str, PrpRule]) -> dict[int, str]:
    """Returns, for each prototype, which pixels of its own training image make the likeness."""
    inputs = model.prototype_inputs()
    if inputs is None or model.images is None or len(inputs) > _MANY:
        return {}
    numbers = torch.arange(len(inputs), device=inputs.device)[:, None]
    composite, rule = rules
    try:
        found = prp(model, inputs, numbers, composite, rule=rule)
    except RelevanceError:  # the notes of the scorecard say why
        return {}
    maps: np.ndarray = found.pixels[:, 0].float().cpu().numpy()
    drawn = [shares(one) for one in maps]
    return {j: picture(paint(one, common_limit([one]), model.images[j, 0].numpy())) for j, one in enumerate(drawn)}
