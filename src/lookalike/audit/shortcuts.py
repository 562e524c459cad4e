"""Shortcuts: parts of a prototype's images that carry its class to other images, such as a mark or a background [ours].

A part of the image is put on images of other classes. If they are now taken for the prototype's class, that part alone
decides, whatever else the image shows. Whether it is the object or something beside it is for a person to say.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lookalike._core.progress import Advance
from lookalike.data import HasMasks
from lookalike.editing.regions import Side, objects_in, with_part
from lookalike.editing.sources import Source, read_images
from lookalike.model import PrototypeModel
from lookalike.model.annotations import Region

MOST_PROTOTYPES = 100  # that are tried; each takes ten passes of eight images
_HOSTS = 8  # images of other classes that a part is put on
_GUESTS = 2  # of the prototype's nearest images, in turn: a mark need not be on each
_CARRIES = 0.25  # of the hosts: below it, chance and kinship of classes do as much
_INNER = 0.6  # side of the middle square that is left out of the edge
_MIDDLE = 0.5  # weight of the middle, where the object usually is
_NAMES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Shortcut:
    """A part of a prototype's images that carries its class along.

    Attributes:
        prototype: Number of the prototype.
        part: The part in words, such as ``"top left"`` or ``"edge"``.
        region: Left, top, right, bottom as shares of the image.
        side: Whether the part is inside or outside of the region, or the background.
        share: Share of the images of other classes that are taken for the prototype's class with that part on them.
        n: Number of those images.
    """

    prototype: int
    part: str
    region: Region
    side: Side
    share: float
    n: int

    @property
    def score(self) -> float:
        """Share, less for what may be the object itself: large parts, and the middle. All of it for the background."""
        if self.side == "background":
            return self.share
        left, top, right, bottom = self.region
        area = (right - left) * (bottom - top)
        weight = _MIDDLE if self.part == "middle" else 1
        return weight * self.share * (1 - area if self.side == "inside" else area)


def parts_of_image(*, with_masks: bool = False) -> list[tuple[str, Region, Side]]:
    """Returns the parts that are tried: nine cells, and the edge or, where it is known, the background."""
    cells: list[tuple[str, Region, Side]] = [
        (name, (column / 3, row / 3, (column + 1) / 3, (row + 1) / 3), "inside")
        for name, (row, column) in zip(_NAMES, np.ndindex(3, 3), strict=True)
    ]
    if with_masks:
        return [*cells, ("background", (0.0, 0.0, 1.0, 1.0), "background")]
    low, high = (1 - _INNER) / 2, (1 + _INNER) / 2
    return [*cells, ("edge", (low, low, high, high), "outside")]


def find_shortcuts(
    model: PrototypeModel, source: Source, *, seed: int = 0, advance: Advance | None = None
) -> list[Shortcut]:
    """Tries parts of each prototype's nearest images on images of other classes.

    Args:
        model: The model.
        source: The training data that it was converted with, as images.
        seed: Seed of the draw of images.
        advance: Called with the number of prototypes that were tried.

    Returns:
        The most suspicious part of each prototype that has one, by ``score``, the most suspicious first. Of a model
        with more than a hundred prototypes, those with most images behind them are tried.

    Raises:
        LookalikeError: If the images cannot be read again, or are not of one size.
    """
    prototypes = model.prototypes
    order = prototypes.counts.argsort(descending=True, stable=True)[:MOST_PROTOTYPES].tolist()
    hosts = _Hosts(model, source, seed)
    found = []
    for j in sorted(order):
        shortcut = _strongest(model, source, hosts, j)
        if shortcut is not None:
            found.append(shortcut)
        if advance is not None:
            advance(1)
    return sorted(found, key=lambda shortcut: -shortcut.score)


class _Hosts:
    """Training images that the model gets right, to put parts on, drawn anew for each class."""

    def __init__(self, model: PrototypeModel, source: Source, seed: int) -> None:
        self._source, self._seed = source, seed
        store, right = source.store, []
        for rows in store.parts():
            z = torch.from_numpy(np.array(store.embeddings[rows], dtype=np.float32)).to(model.device)
            right.append(model.scores_of(z).argmax(1).cpu().numpy() == source.labels[rows])
        self._right = np.concatenate(right)

    def of(self, label: int) -> np.ndarray:
        """Returns the numbers of images of other classes than one."""
        rows = np.flatnonzero(self._right & (self._source.labels != label))
        rows = np.random.default_rng([self._seed, 0x5C07, label]).permutation(rows)[:_HOSTS]
        return self._source.store.indices[rows]


@torch.no_grad()
def _strongest(model: PrototypeModel, source: Source, hosts: _Hosts, prototype: int) -> Shortcut | None:
    """Returns the most suspicious part of a prototype's images; None if no part carries its class."""
    label = int(model.prototypes.labels[prototype])
    host_samples = hosts.of(label)
    nearest = [sample for sample in model.prototypes.nearest[prototype].tolist() if sample >= 0][:_GUESTS]
    if not len(host_samples) or not nearest:
        return None
    guest_samples = np.array(nearest)[np.arange(len(host_samples)) % len(nearest)]
    images, guests = read_images(source, host_samples), read_images(source, guest_samples)
    has_masks = source.batches is not None and isinstance(source.batches.dataset, HasMasks)
    objects = (objects_in(source, host_samples), objects_in(source, guest_samples)) if has_masks else None
    best: Shortcut | None = None
    for name, region, side in parts_of_image(with_masks=has_masks):
        mixed = with_part(images, guests, region, side, objects)
        share = float((model.predict(mixed) == label).float().mean())
        shortcut = Shortcut(prototype, name, region, side, share, len(images))
        if share >= _CARRIES and (best is None or shortcut.score > best.score):
            best = shortcut
    return best
