"""Edits that look at a part of the training images: what a prototype would be without it, or by it alone [ours]."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data import HasMasks
from lookalike.editing.edits import NO_MATERIAL, Erase, Restrict
from lookalike.editing.material import Material
from lookalike.editing.sources import Source, read_images
from lookalike.editing.state import State
from lookalike.model.annotations import Region, check_region

if TYPE_CHECKING:
    from lookalike.editing.session import EditSession

Side = Literal["inside", "outside", "background"]
Objects = tuple[Tensor, Tensor]

_MOST_IMAGES = 64  # of those behind a prototype: their mean hardly moves with more
_BATCH = 32
_RIM = 0.02  # of the image's side: soft edges of a cut-out object


def with_part(images: Tensor, others: Tensor, region: Region, side: Side, objects: Objects | None = None) -> Tensor:
    """Returns images [n, C, H, W] that have a part of others.

    Args:
        images: [n, C, H, W].
        others: The images that give the part [n, C, H, W].
        region: The region, as shares of the image; of no account for ``"background"``.
        side: ``"inside"`` or ``"outside"`` the region, or the ``"background"`` of the object. Where the other image has
            its own object, its background's mean colour is taken.
        objects: Where the objects are, in ``images`` and in ``others``, bool [n, H, W] each; for ``"background"``.
    """
    if side != "background" or objects is None:
        mask = region_mask(region, side, *images.shape[-2:]).to(images.device)
        return torch.where(mask, others, images)
    own, of_others = (mask[:, None].to(images.device) for mask in objects)
    n_background = (~of_others).sum((2, 3), keepdim=True).clamp_min(1)
    mean = (others * ~of_others).sum((2, 3), keepdim=True) / n_background
    return torch.where(own, images, torch.where(of_others, mean, others))


def has_masks(source: Source) -> bool:
    """Says whether the data know where the objects in their images are."""
    return _masked(source) is not None


def _masked(source: Source) -> HasMasks | None:
    dataset = None if source.batches is None else source.batches.dataset
    return dataset if isinstance(dataset, HasMasks) else None


def objects_in(source: Source, samples: np.ndarray) -> Tensor:
    """Returns where the objects are in some images of data that have masks, bool [n, H, W].

    Raises:
        LookalikeError: If the data have none.
    """
    dataset = _masked(source)
    if dataset is None:
        raise LookalikeError(
            "the data have no masks, so the background is not known; name a region, such as all outside of "
            "[0.2, 0.2, 0.8, 0.8]"
        )
    return torch.stack([dataset.mask(int(sample)) for sample in samples])


def region_mask(region: Region, side: Side, height: int, width: int) -> Tensor:
    """Returns which pixels [H, W] are inside, or outside, a region; the region has one pixel at least."""
    left, top = min(round(region[0] * width), width - 1), min(round(region[1] * height), height - 1)
    right, bottom = max(left + 1, round(region[2] * width)), max(top + 1, round(region[3] * height))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask if side == "inside" else ~mask


def restriction(session: "EditSession", prototype: int, region: Region) -> Restrict:
    """Returns the edit ``restrict`` with its vector: the embedding of the image with all but the region blanked.

    Raises:
        LookalikeError: If the model holds no images, or edits are judged on the prototype's image.
    """
    prototype = checks.whole_number("prototype", prototype, 0, len(session.state) - 1)
    check_region(region)
    inputs = session.model.prototype_inputs()
    if inputs is None:
        raise LookalikeError("the model holds no images, so that no prototype can be restricted to a part of one")
    if not session.snapshot.prototypes.have_image[prototype]:
        raise LookalikeError(
            f"{session.state.describe(prototype)} has no training image, and cannot be restricted to a part of one"
        )
    sample = int(session.snapshot.prototypes.nearest[prototype, 0])
    if session.material is not None and session.material.is_held_out(sample):
        raise LookalikeError(
            f"{session.state.describe(prototype)} is shown by training sample {sample}, which edits are judged on; "
            "show it by another first (edit 'show'), or give validation=... to judge edits on"
        )
    image = inputs[prototype : prototype + 1]
    mask = region_mask(region, "inside", *image.shape[-2:]).to(image.device)
    blanked = torch.where(mask, image, image.mean((2, 3), keepdim=True))
    return Restrict(prototype, region, tuple(session.model.embed(blanked)[0].float().tolist()))


def erasure(session: "EditSession", prototypes: tuple[int, ...], region: Region, side: Side = "inside") -> Erase:
    """Returns the edit ``erase`` with its vectors.

    In each image behind a prototype, the part is replaced by the same part of an image of another class. The prototype
    moves as the mean of their embeddings does. So what the part says of the class is gone, what images look like there
    in general stays, and so does all else that the prototype has learned, also from images that edits are judged on.

    Raises:
        LookalikeError: If there are no training images to read, or none behind a prototype.
    """
    check_region(region)
    checks.one_of("side", side, ("inside", "outside", "background"))
    material = session.material
    if material is None:
        raise LookalikeError(NO_MATERIAL)
    model, vectors = session.model, []
    for prototype in prototypes:
        prototype = checks.whole_number("prototype", prototype, 0, len(session.state) - 1)
        label = int(session.state.labels[prototype])
        rows = _learned_from(material, session.state, prototype)
        donors = np.flatnonzero((material.labels != label) & ~material.held_out)
        if not len(rows) or not len(donors):
            whose = "images behind it" if not len(rows) else "images of other classes"
            raise LookalikeError(
                f"{session.state.describe(prototype)} has no {whose} to learn from, so no part can be taken out"
            )
        rng = np.random.default_rng([material.seed, 0xE4A5E, prototype])
        rows = np.sort(rng.permutation(rows)[:_MOST_IMAGES])
        mixed = _mixed(session, material.indices[rows], material.indices[rng.choice(donors, len(rows))], region, side)
        without = torch.cat([model.embed(images).cpu() for images in mixed])
        vector = _moved(material, session.state, prototype, material.read(rows), without)
        vectors.append(tuple(vector.float().tolist()))
    return Erase(tuple(prototypes), region, side, tuple(vectors))


def _moved(material: Material, state: State, prototype: int, with_part: Tensor, without: Tensor) -> Tensor:
    """Returns a prototype [D] without a part, given embeddings of images with the part and without it, [n, D] each.

    If the part was taken from it before, the prototype lies that far from the mean of the images behind it, and only
    the rest of the way is left. The mean is that of all these images, because a conversion learns from all.
    """
    project = material.similarity.project
    start, step = state.vectors[prototype : prototype + 1], project(without).double() - project(with_part).double()
    behind = material.members(state, [prototype], with_held_out=True)
    mean = project(material.read(behind) if len(behind) else with_part).double().mean(0)
    step = step.mean(0)
    point = project(start).double()[0]
    moved_before = float(((point - mean) @ step / (step @ step).clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1))
    point = point + (1 - moved_before) * step
    return material.similarity.unproject(point[None].to(start.dtype))[0]


def _grown(objects: Tensor) -> Tensor:
    """Returns objects [n, H, W] with a rim, so that no outline of a donor's object stays on its background."""
    rim = max(1, round(_RIM * min(objects.shape[-2:])))
    return max_pool2d(objects[:, None].float(), 2 * rim + 1, stride=1, padding=rim)[:, 0] > 0


def _learned_from(material: Material, state: State, prototype: int) -> np.ndarray:
    """Returns the rows that stand for a prototype: those behind it, or the most similar one of its class.

    All that are behind a prototype may be images that edits are judged on, from which no edit learns.
    """
    rows = material.members(state, [prototype])
    of_class = np.flatnonzero((material.labels == int(state.labels[prototype])) & ~material.held_out)
    if len(rows) or not len(of_class):
        return rows
    with torch.no_grad():
        similarities = material.similarity(material.read(of_class), state.vectors[prototype : prototype + 1])[:, 0]
    return of_class[[int(similarities.argmax())]]


def _mixed(
    session: "EditSession", samples: np.ndarray, donors: np.ndarray, region: Region, side: Side
) -> Iterator[Tensor]:
    """Yields batches of images [n, C, H, W] that have a part of the donors' images."""
    assert session.source is not None  # as there is material
    for start in range(0, len(samples), _BATCH):
        chunk = slice(start, start + _BATCH)
        images, others = (read_images(session.source, numbers[chunk]) for numbers in (samples, donors))
        objects = None
        if side == "background":
            objects = objects_in(session.source, samples[chunk]), _grown(objects_in(session.source, donors[chunk]))
        yield with_part(images, others, region, side, objects)
