"""The prototypes of a report."""

import math
from typing import Any

import torch

from lookalike._core.errors import RelevanceError
from lookalike._core.names import telling_name, visible
from lookalike.data import Batches
from lookalike.explanation import Explainer
from lookalike.metrics import Scorecard
from lookalike.metrics.verdict import used_prototypes
from lookalike.model import PrototypeModel
from lookalike.plots.heatmap import common_limit, paint, shares, what_stands_out
from lookalike.report.examples import Decisions
from lookalike.report.pictures import picture
from lookalike.report.words import image_names

_IMAGES_SHOWN = 8  # training images of a prototype
_MAP_CAPTIONS = {
    "part": "pixels that make its nearest image look like it: red for, blue against",
    "against": "no pixels of its nearest image stand out as making it look like it; blue ones speak against it",
    "blank": "no pixels of its nearest image stand out",
}
_MOST_WITH_MAPS = 300  # prototypes; if there are more, each is shown by one training image, without a map


def prototypes_by_class(
    explainer: Explainer, card: Scorecard, decisions: Decisions, train: Batches | None, *, with_maps: bool = True
) -> list[dict[str, Any]]:
    """Returns the classes with their prototypes: pictures, counts, purity, number of decisions.

    Args:
        explainer: Explains with heat-maps.
        card: Scorecard of the model, for the activations.
        decisions: Decisions on all test images.
        train: Training data, to read more of the nearest images than the model stores.
        with_maps: Also show the heat-map on each prototype's image.
    """
    model = explainer.model
    p = model.prototypes
    pictures = _nearest_pictures(model, train)
    maps = _draw_maps(explainer) if with_maps else {}
    decoded = model.decoded_prototypes()
    is_used = used_prototypes(card.details)
    decided = decisions.decided_by(len(p))
    wrong = decisions.wrongly_decided_by(len(p))
    classes = []
    for k, name in enumerate(model.class_names):
        prototypes_of_class = torch.nonzero(p.labels == k)[:, 0].tolist()
        classes.append(
            {
                "name": name,
                "prototypes": [
                    {
                        "number": j,
                        "class": name,
                        "count": int(p.counts[j]),
                        "purity": None if p.purity[j].isnan() else float(p.purity[j]),
                        "decides": decided[j],
                        "wrong": wrong[j],
                        "ghost": is_used is not None and not is_used[j],
                        "name": _file_of(model, j),
                        "title": model.all_annotations.names[j],
                        "description": model.all_annotations.descriptions[j],
                        "region": model.all_annotations.regions[j],
                        "images": _with_captions(model, j, pictures[j]),
                        "map": maps[j][0] if j in maps else None,
                        "map_shows": maps[j][1] if j in maps else None,
                        "map_caption": _MAP_CAPTIONS[maps[j][1]] if j in maps else None,
                        "decoded": None if decoded is None else picture(decoded[j].numpy()),
                    }
                    for j in prototypes_of_class
                ],
            }
        )
    return classes


def prototype_entries(model: PrototypeModel, decisions: Decisions) -> list[dict[str, Any]]:
    """Returns what the page's script needs of each prototype, as JSON values."""
    p = model.prototypes
    decided = decisions.decided_by(len(p))
    return [
        {
            "label": int(p.labels[j]),
            "class": visible(p.class_of(j)),
            "decides": decided[j],
            "title": visible(model.all_annotations.names[j] or ""),
            "name": _file_of(model, j) or "",
        }
        for j in range(len(p))
    ]


def _nearest_pictures(model: PrototypeModel, train: Batches | None) -> list[list[str]]:
    """Returns pictures of each prototype's nearest training images: from the training data, or those in the model."""
    p = model.prototypes
    too_many = len(p) > _MOST_WITH_MAPS
    if model.images is None:
        stored_pictures: list[list[str]] = [[] for _ in range(len(p))]
    else:
        stored_images = model.images[:, :1] if too_many else model.images
        stored_pictures = [[picture(pixels_of_image.numpy()) for pixels_of_image in row] for row in stored_images]
    if train is None or too_many or not train.can_fetch or model.value_range is None:
        return stored_pictures
    # A row number of -1 fills the rows of prototypes with fewer nearest images.
    rows = p.nearest[:, :_IMAGES_SHOWN]
    indices = rows[rows >= 0].unique()
    if not len(indices) or int(indices.max()) >= (train.total or 0):
        return stored_pictures
    pixels = model.to_pixels(train.fetch(indices.cpu().numpy()))
    if pixels is None:
        return stored_pictures
    by_index = dict(
        zip(indices.tolist(), (picture(pixels_of_image.numpy()) for pixels_of_image in pixels), strict=True)
    )
    return [[by_index[index] for index in row if index >= 0] for row in rows.tolist()]


def _with_captions(model: PrototypeModel, j: int, pictures: list[str]) -> list[dict[str, Any]]:
    """Returns a prototype's pictures with captions, which are empty if the image's row number is not known."""
    p, captioned = model.prototypes, []
    for rank, picture_source in enumerate(pictures):
        index_known = rank < p.nearest.shape[1] and int(p.nearest[j, rank]) >= 0
        caption = (
            f"{_name_of(model, int(p.nearest[j, rank]), p.class_of(j))} · distance "
            f"{float(p.distances[j, rank]):.3g}{_closer_than(float(p.percentiles[j, rank]), int(p.counts[j]))}"
            if index_known
            else ""
        )
        captioned.append({"source": picture_source, "caption": caption})
    return captioned


def _file_of(model: PrototypeModel, j: int) -> str | None:
    """Returns the name of the file that shows a prototype; None without one that tells a reader anything."""
    nearest = model.prototypes.nearest
    return telling_name(model.training_names.get(int(nearest[j, 0]))) if nearest.shape[1] else None


def _name_of(model: PrototypeModel, index: int, class_name: str) -> str:
    """Returns what to call one of the training images behind a prototype."""
    return image_names([model.training_names.get(index)], [index], [class_name])[0]


def _closer_than(percentile: float, n_images: int) -> str:
    """Says how near an image is; nothing if at most one training image stands behind the prototype."""
    return "" if math.isnan(percentile) or n_images < 2 else f", closer than {100 - percentile:.0f}% of its images"


def _draw_maps(explainer: Explainer) -> dict[int, tuple[str, str]]:
    """Returns the heat-map on each prototype's nearest training image and what stands out on it, by prototype."""
    model = explainer.model
    if model.images is None or len(model.prototypes) > _MOST_WITH_MAPS:
        return {}
    try:
        maps = explainer.maps_on_prototypes()
    except RelevanceError:  # the notes have the reason
        return {}
    relevance_shares = {j: shares(values) for j, values in maps.items()}
    return {
        j: (
            picture(paint(share, common_limit([share]), model.images[j, 0].numpy())),
            what_stands_out(share, common_limit([share])),
        )
        for j, share in relevance_shares.items()
    }
