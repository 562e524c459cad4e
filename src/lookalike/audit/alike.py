"""Parts that most images of one class share and no image of another has, such as a mark [ours].

A model need not decide by such a part: a network that was not trained on a mark hardly looks at it. So it is looked for
in the images, and not in what they are taken for. Each part is embedded by itself. It counts as shared if the three
parts most similar to it in its own class are nearer than any part, at the same place, of an image of another class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lookalike._core.progress import Advance
from lookalike.editing.regions import Side, has_masks, objects_in, region_mask, with_part
from lookalike.editing.sources import Source, read_images
from lookalike.model import PrototypeModel
from lookalike.model.annotations import Region

Part = tuple[str, Region, Side]

_MOST = 240  # images in all, for up to twenty classes
_PER_CLASS = (12, 24)  # images, at least and at most
_FEWEST = 8  # images of a class; a share of fewer says little
_NEAREST = 3  # of its own class that must be nearer than any other
_MOST_IMAGES = 0.8  # share of a class: "most"
_ROUNDING = 1e-3  # of the usual distance: parts that are equal but for rounding are no nearer than one another
_BATCH = 32


@dataclass(frozen=True)
class AlikePart:
    """A part that most images of a class share, of those that were drawn, and no such image of another class has.

    Attributes:
        label: The class.
        share: Share of the class's images that share it.
        n: Number of those that were looked at.
        behind: Share of the images behind a prototype that share it, by its number.
        samples: Numbers of those samples, by the same.
    """

    label: int
    share: float
    n: int
    behind: dict[int, float]
    samples: dict[int, tuple[int, ...]]


@torch.no_grad()
def find_alike_parts(
    model: PrototypeModel,
    source: Source,
    parts: Sequence[Part],
    *,
    classes: Sequence[int],
    seed: int = 0,
    advance: Advance | None = None,
) -> dict[tuple[int, str], AlikePart]:
    """Looks for parts that most images of a class share and no image of another has.

    Args:
        model: The model.
        source: The training data that it was converted with, as images.
        parts: Name, region and side of the parts.
        classes: The classes to look at.
        seed: Seed of the draw of images.
        advance: Called after each batch of one part.

    Returns:
        What was found, by class and name of the part.

    Raises:
        LookalikeError: If the images cannot be read again, or are not of one size.
    """
    rows = _drawn(source.labels, classes, seed)
    labels = source.labels[rows]
    winners = _prototypes_of(model, source, rows)
    found = {}
    for (name, _, _), embedded in zip(parts, _embedded(model, source, rows, parts, advance), strict=True):
        is_shared = _is_shared(embedded, torch.from_numpy(labels))
        for label in classes:
            own = labels == label
            share = float(is_shared[own].mean()) if own.sum() >= _FEWEST else 0.0
            if share < _MOST_IMAGES or len(np.unique(labels)) < 2:
                continue
            of_prototypes = {int(j): own & (winners == j) for j in np.unique(winners[own])}
            behind = {j: float(is_shared[members].mean()) for j, members in of_prototypes.items()}
            samples = {
                j: tuple(source.store.indices[rows[members & is_shared]].tolist())
                for j, members in of_prototypes.items()
            }
            found[label, name] = AlikePart(label, share, int(own.sum()), behind, samples)
    return found


def _drawn(labels: np.ndarray, classes: Sequence[int], seed: int) -> np.ndarray:
    """Returns the rows of some images of each class."""
    rng = np.random.default_rng([seed, 0xA11CE])
    per_class = min(max(_MOST // max(len(classes), 1), _PER_CLASS[0]), _PER_CLASS[1])
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in classes])


def _prototypes_of(model: PrototypeModel, source: Source, rows: np.ndarray) -> np.ndarray:
    """Returns the number of each image's most similar prototype of its own class [n]."""
    z = torch.from_numpy(np.array(source.store.embeddings[rows], dtype=np.float32)).to(model.device)
    similarities = model.similarities_of(z)
    is_own = torch.from_numpy(source.labels[rows]).to(model.device)[:, None] == model.prototypes.labels
    return similarities.masked_fill(~is_own, -torch.inf).argmax(1).cpu().numpy()


def n_batches(source: Source, parts: Sequence[Part], *, classes: Sequence[int], seed: int = 0) -> int:
    """Returns how often ``find_alike_parts`` calls ``advance``."""
    return math.ceil(len(_drawn(source.labels, classes, seed)) / _BATCH) * len(parts)


def _embedded(
    model: PrototypeModel, source: Source, rows: np.ndarray, parts: Sequence[Part], advance: Advance | None
) -> list[Tensor]:
    """Returns the embeddings of each part of some images, by themselves: a tensor [n, D] for each part."""
    knows_objects = has_masks(source)
    embedded: list[list[Tensor]] = [[] for _ in parts]
    for start in range(0, len(rows), _BATCH):
        samples = source.store.indices[rows[start : start + _BATCH]]
        images = read_images(source, samples)
        objects = objects_in(source, samples) if knows_objects else None
        for of_part, (_, region, side) in zip(embedded, parts, strict=True):
            of_part.append(model.embed(_alone(images, region, side, objects)).float().cpu())
            if advance is not None:
                advance(1)
    return [torch.cat(of_part) for of_part in embedded]


def _alone(images: Tensor, region: Region, side: Side, objects: Tensor | None) -> Tensor:
    """Returns a part of images [n, C, H, W] by itself: enlarged to the whole image, or with the rest in one colour."""
    if side == "inside":
        inside = region_mask(region, side, *images.shape[-2:])
        rows, columns = inside.any(1), inside.any(0)
        cut = images[:, :, rows][..., columns]
        return interpolate(cut.float(), images.shape[-2:], mode="bilinear", align_corners=False).to(images.dtype)
    plain = torch.zeros_like(images)  # the usual colour of prepared images
    return with_part(plain, images, region, side, None if objects is None else (torch.zeros_like(objects), objects))


def _is_shared(embedded: Tensor, labels: Tensor) -> np.ndarray:
    """Returns whether each part [n, D] is shared with its own class and with no other, bool [n]."""
    distances = torch.cdist(embedded.double(), embedded.double())
    is_own = labels[:, None] == labels
    nearest_other = distances.masked_fill(is_own, torch.inf).amin(1)
    own = distances.masked_fill(~is_own, torch.inf).fill_diagonal_(torch.inf)
    nearest_own = own.sort(1).values[:, min(_NEAREST, len(labels)) - 1]
    rounding = _ROUNDING * distances.median()
    return (nearest_own + rounding < nearest_other).numpy()
