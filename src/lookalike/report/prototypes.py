"""The prototypes of a report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from lookalike._core.errors import RelevanceError
from lookalike._core.extent import Extent
from lookalike._core.names import telling_name, visible
from lookalike._core.wording import samples
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.explanation import Explainer
from lookalike.metrics import Scorecard
from lookalike.metrics.verdict import used_prototypes
from lookalike.model import PrototypeModel
from lookalike.plots.heatmap import common_limit, paint, shares, what_stands_out
from lookalike.report.examples import Decisions
from lookalike.report.members import Member, Members, members_of_prototypes
from lookalike.report.pictures import picture
from lookalike.report.words import image_names

_Framed = tuple[int, Extent | None]  # number of a training image, and the part of it that is framed

_IMAGES_SHOWN = 8  # training images of a prototype, and as many of other classes that it takes
_MAP_CAPTIONS = {
    "part": "pixels that make its nearest image look like it: red for, blue against",
    "against": "no pixels of its nearest image stand out as making it look like it; blue ones speak against it",
    "blank": "no pixels of its nearest image stand out",
}
_MOST_WITH_MAPS = 300  # prototypes; if there are more, each is shown by one training image, without a map


def prototypes_by_class(
    explainer: Explainer,
    card: Scorecard,
    decisions: Decisions,
    train: Batches | None,
    train_store: EmbeddingStore | None = None,
    *,
    with_maps: bool = True,
) -> list[dict[str, Any]]:
    """Returns the classes with their prototypes: pictures, counts, purity, number of decisions.

    Args:
        explainer: Explains with heat-maps.
        card: Scorecard of the model, for the activations.
        decisions: Decisions on all test images.
        train: Training data, to read more of the nearest images than the model stores.
        train_store: Their embeddings, which say whose images are whose; None shows the nearest of each class.
        with_maps: Also show the heat-map on each prototype's image.
    """
    model = explainer.model
    p = model.prototypes
    shown = _shown_images(model, train, train_store)
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
                        **shown[j],
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
            "of_patches": model.has_patches,
            "title": visible(model.all_annotations.names[j] or ""),
            "name": _file_of(model, j) or "",
        }
        for j in range(len(p))
    ]


def _shown_images(
    model: PrototypeModel, train: Batches | None, train_store: EmbeddingStore | None
) -> list[dict[str, Any]]:
    """Returns the training images of each prototype, those of other classes that it takes, and their numbers."""
    nearest = [[index for index in row if index >= 0] for row in model.prototypes.nearest[:, :_IMAGES_SHOWN].tolist()]
    if train is None or train_store is None or model.has_patches or len(model.prototypes) > _MOST_WITH_MAPS:
        return _nearest_of_class(model, train, nearest)
    members = members_of_prototypes(model, train_store, _IMAGES_SHOWN)
    indices = {member.number for each in members for member in (*each.own, *each.taken)}
    indices |= {index for row in nearest for index in row[:1]}
    pictures = _pictures_of(model, train, {(index, None) for index in indices})
    if pictures is None:
        return _nearest_of_class(model, train, nearest)
    shown = []
    for j, each in enumerate(members):
        images = _own_images(model, train, j, each, pictures)
        if nearest[j]:  # the image whose name and heat-map stand beside it comes first
            own = [member.number for member in each.own]
            place = own.index(nearest[j][0]) if nearest[j][0] in own else None
            nearest_picture = pictures[nearest[j][0], None]
            first = _with_captions(model, j, [nearest_picture])[0] if place is None else images.pop(place)
            images = [first, *images]
        taken = [
            {"source": pictures[member.number, None], "caption": _caption_of_taken(model, train, member)}
            for member in each.taken
        ]
        shown.append({"images": images, "n_own": each.n_own, "taken": taken, "n_taken": each.n_taken})
    return shown


def _nearest_of_class(model: PrototypeModel, train: Batches | None, nearest: list[list[int]]) -> list[dict[str, Any]]:
    """Returns the same where nobody knows whose images are whose: the nearest of the class, as many as it has at most.

    A prototype without any is shown by one of them, too. The patch that a prototype of patches stands for is framed.
    """
    counts, boxes = model.prototypes.counts.tolist(), model.patch_boxes()
    frames = None if boxes is None else [[Extent(*box) for box in of_prototype] for of_prototype in boxes.tolist()]
    rows = [
        [(index, None if frames is None else frames[j][rank]) for rank, index in enumerate(indices[: max(1, count)])]
        for j, (indices, count) in enumerate(zip(nearest, counts, strict=True))
    ]
    pictures = _pictures_of(model, train, {framed for row in rows for framed in row})
    shown = []
    for j, row in enumerate(rows):
        if pictures is None:
            of_prototype = _stored(model, j, len(row), None if frames is None else frames[j])
        else:
            of_prototype = [pictures[framed] for framed in row]
        images = _with_captions(model, j, of_prototype)
        shown.append({"images": images, "n_own": counts[j], "taken": [], "n_taken": None})
    return shown


def _pictures_of(model: PrototypeModel, train: Batches | None, asked: set[_Framed]) -> dict[_Framed, str] | None:
    """Returns pictures of training images by their numbers and what is framed on them.

    Returns:
        None if the images cannot be read again, or are too many.
    """
    if train is None or len(model.prototypes) > _MOST_WITH_MAPS or not train.can_fetch or model.value_range is None:
        return None
    frames_of: dict[int, list[Extent | None]] = {}
    for index, frame in asked:
        frames_of.setdefault(index, []).append(frame)
    indices = sorted(frames_of)
    if not indices or indices[-1] >= (train.total or 0):
        return None
    pictures: dict[_Framed, str] = {}
    for start in range(0, len(indices), train.batch_size):
        chunk = indices[start : start + train.batch_size]
        pixels = model.to_pixels(train.fetch(np.array(chunk)))
        if pixels is None:
            return None
        for index, of_image in zip(chunk, pixels.numpy(), strict=True):
            pictures |= {(index, frame): picture(of_image, frame=frame) for frame in frames_of[index]}
    return pictures


def _stored(model: PrototypeModel, j: int, n_images: int, frames: Sequence[Extent] | None) -> list[str]:
    """Returns pictures of a prototype's images that the model stores.

    It stores equally many for each prototype, and repeats the nearest where there are fewer.
    """
    if model.images is None:
        return []
    most = 1 if len(model.prototypes) > _MOST_WITH_MAPS else max(1, n_images)
    return [
        picture(pixels_of_image, frame=None if frames is None else frames[rank])
        for rank, pixels_of_image in enumerate(model.images[j, :most].numpy())
    ]


def _own_images(
    model: PrototypeModel, train: Batches, j: int, members: Members, pictures: Mapping[_Framed, str]
) -> list[dict[str, Any]]:
    """Returns a prototype's own images with captions: name, distance, and how many of the others are farther."""
    n_others, shown = members.n_own - 1, []
    for rank, member in enumerate(members.own):
        said = f", closer than {(n_others - rank) / n_others:.0%} of its others" if 0 < rank < n_others else ""
        said = ", the nearest" if rank == 0 and n_others else said
        name = _name_of(model, member.number, model.prototypes.class_of(j), train)
        caption = f"{name} · distance {member.distance:.3g}{said}"
        shown.append({"source": pictures[member.number, None], "caption": caption})
    return shown


def _with_captions(model: PrototypeModel, j: int, pictures: list[str]) -> list[dict[str, Any]]:
    """Returns a prototype's pictures with captions, which are empty if the image's row number is not known."""
    p, captioned = model.prototypes, []
    for rank, picture_source in enumerate(pictures):
        index_known = rank < p.nearest.shape[1] and int(p.nearest[j, rank]) >= 0
        near = _closer_than(float(p.percentiles[j, rank]), int(p.counts[j]), samples(model.has_patches))
        named = _name_of(model, int(p.nearest[j, rank]), p.class_of(j)) if index_known else ""
        caption = f"{named} · distance {float(p.distances[j, rank]):.3g}{near}" if index_known else ""
        captioned.append({"source": picture_source, "caption": caption})
    return captioned


def _caption_of_taken(model: PrototypeModel, train: Batches, member: Member) -> str:
    """Returns the caption of an image of another class."""
    class_name = model.class_names[member.label]
    name = _name_of(model, member.number, class_name, train)
    return f"{name} · it is {visible(class_name)} · distance {member.distance:.3g}"


def _file_of(model: PrototypeModel, j: int) -> str | None:
    """Returns the name of the file that shows a prototype; None without one that tells a reader anything."""
    nearest = model.prototypes.nearest
    return telling_name(model.training_names.get(int(nearest[j, 0]))) if nearest.shape[1] else None


def _name_of(model: PrototypeModel, index: int, class_name: str, train: Batches | None = None) -> str:
    """Returns what to call a training image: by the name that the model has of it, or else by that of the data."""
    name = model.training_names.get(index)
    if name is not None or train is None:
        return image_names([name], [index], [class_name])[0]
    return "/".join(PurePath(image_names([train.name_of(index)], [index], [class_name])[0]).parts[-2:])


def _closer_than(percentile: float, n_samples: int, plural: str) -> str:
    """Says how near an image, or a patch, is; nothing if at most one of them stands behind the prototype."""
    return "" if math.isnan(percentile) or n_samples < 2 else f", closer than {100 - percentile:.0f}% of its {plural}"


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
