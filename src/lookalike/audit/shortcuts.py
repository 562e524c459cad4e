"""Shortcuts: parts of a prototype's images that go with its class, such as a mark or a background [ours].

Two signs are looked for. A part of the image is put on images of other classes: if they are now taken for the
prototype's class, that part alone decides, whatever else the image shows. And a part may be alike on most images of the
class, more than any of them is like one of another class, whether the model decides by it or not. Whether it is the
object or something beside it is for a person to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lookalike._core.progress import Advance
from lookalike._core.wording import counted
from lookalike.audit.alike import AlikePart, Part, find_alike_parts, n_batches
from lookalike.editing.regions import Side, has_masks, objects_in, with_part
from lookalike.editing.sources import Source, read_images
from lookalike.model import PrototypeModel
from lookalike.model.annotations import Region

MOST_PROTOTYPES = 100  # that are tried; each takes ten passes of eight images
_HAVE_IT = 0.25  # of the images behind a prototype, to take an alike part for its own
_HOSTS = 8  # images of other classes that a part is put on
_GUESTS = 2  # of the prototype's nearest images, in turn: a mark need not be on each
_CARRIES = 0.25  # of the hosts: below it, chance and kinship of classes do as much
_HALF = 0.5  # of those images must be more similar to it with the part than without
_INNER = 0.6  # side of the middle square that is left out of the edge
_MIDDLE = 0.5  # weight of the middle, where the object usually is
_NAMES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Shortcut:
    """A part of a prototype's images that goes with its class.

    Attributes:
        prototype: Number of the prototype.
        part: The part in words, such as ``"top left"`` or ``"edge"``.
        region: Left, top, right, bottom as shares of the image.
        side: Whether the part is inside or outside of the region, or the background.
        share: Share of the images of other classes that are taken for the prototype's class with that part on them.
        n: Number of those images.
        alike: Share of the class's images on which the part is alike, as on no image of another class; 0 below 80%.
        samples: Numbers of training samples that have the part.
    """

    prototype: int
    part: str
    region: Region
    side: Side
    share: float
    n: int
    alike: float
    samples: tuple[int, ...]
    n_alike: int = 0

    @property
    def score(self) -> float:
        """The share, less for what may be the object itself: large parts, and the middle.

        The background counts in full. Alike parts come first, by one more than the mean of both shares.
        """
        weight = _MIDDLE if self.part == "middle" else 1.0
        if self.side != "background":
            left, top, right, bottom = self.region
            area = (right - left) * (bottom - top)
            weight *= 1 - area if self.side == "inside" else area
        return 1 + weight * (self.share + self.alike) / 2 if self.alike else weight * self.share

    def sentence(self, class_name: str) -> str:
        """Returns what was found, in words."""
        carries = f"turns {self.share:.0%} of {counted(self.n, 'image')} of other classes into {class_name!r}"
        if not self.alike:
            return f"the {self.part} of its images {carries}"
        of_class = f"on {self.alike:.0%} of the {counted(self.n_alike, 'image')} of {class_name!r} that were compared"
        return (
            f"the {self.part} is alike {of_class}, more than any is like one of another class; put there, it {carries}"
        )


def parts_of_image(*, with_masks: bool = False) -> list[Part]:
    """Returns the parts that are tried: nine cells, and the edge or, where it is known, the background."""
    cells: list[Part] = [
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
    """Tries parts of each prototype's nearest images on images of other classes, and looks for parts that are alike.

    Args:
        model: The model.
        source: The training data that it was converted with, as images.
        seed: Seed of the draw of images.
        advance: Called as the search goes on, ``n_steps_of_search`` times.

    Returns:
        The most suspicious part of each prototype that has one, by ``score``, the most suspicious first. Of a model
        with more than a hundred prototypes, those with most images behind them are tried.

    Raises:
        LookalikeError: If the images cannot be read again, or are not of one size.
    """
    order, parts, classes = _looked_at(model, source)
    alike = find_alike_parts(model, source, parts, classes=classes, seed=seed, advance=advance)
    hosts = _Hosts(model, source, seed)
    found = []
    for j in sorted(order):
        shortcut = _strongest(model, source, hosts, j, parts, alike)
        if shortcut is not None:
            found.append(shortcut)
        if advance is not None:
            advance(1)
    return sorted(found, key=lambda shortcut: -shortcut.score)


def n_steps_of_search(model: PrototypeModel, source: Source, *, seed: int = 0) -> int:
    """Returns how many steps ``find_shortcuts`` takes: batches of parts that may be alike, then prototypes."""
    order, parts, classes = _looked_at(model, source)
    return n_batches(source, parts, classes=classes, seed=seed) + len(order)


def _looked_at(model: PrototypeModel, source: Source) -> tuple[list[int], list[Part], list[int]]:
    """Returns the prototypes that are tried, the parts of their images, and their classes."""
    prototypes = model.prototypes
    order: list[int] = prototypes.counts.argsort(descending=True, stable=True)[:MOST_PROTOTYPES].tolist()
    classes = sorted({int(prototypes.labels[j]) for j in order})
    return order, parts_of_image(with_masks=has_masks(source)), classes


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
def _strongest(
    model: PrototypeModel,
    source: Source,
    hosts: _Hosts,
    prototype: int,
    parts: Sequence[Part],
    alike: dict[tuple[int, str], AlikePart],
) -> Shortcut | None:
    """Returns the most suspicious part of a prototype's images; None if no part goes with its class."""
    label = int(model.prototypes.labels[prototype])
    host_samples = hosts.of(label)
    nearest = [sample for sample in model.prototypes.nearest[prototype].tolist() if sample >= 0][:_GUESTS]
    if not len(host_samples) or not nearest:
        return None
    guest_samples = np.array(nearest)[np.arange(len(host_samples)) % len(nearest)]
    images, guests = read_images(source, host_samples), read_images(source, guest_samples)
    objects = (objects_in(source, host_samples), objects_in(source, guest_samples)) if has_masks(source) else None
    best: Shortcut | None = None
    for part in parts:
        name, region, side = part
        mixed = with_part(images, guests, region, side, objects)
        share = float((model.predict(mixed) == label).float().mean())
        shared = alike.get((label, name))
        if shared is not None and not _rests_on(model, source, prototype, shared, part, host_samples):
            shared = None
        if share < _CARRIES and shared is None:
            continue
        samples = tuple(nearest) if shared is None else shared.samples[prototype]
        alike_share, n_alike = (shared.share, shared.n) if shared else (0.0, 0)
        shortcut = Shortcut(prototype, *part, share, len(images), alike_share, samples, n_alike)
        if best is None or shortcut.score > best.score:
            best = shortcut
    return best


def _rests_on(
    model: PrototypeModel, source: Source, prototype: int, shared: AlikePart, part: Part, host_samples: np.ndarray
) -> bool:
    """Returns whether an alike part is in a prototype: in images behind it, and in what it is most similar to.

    With another image's part in its place, the images behind it are less similar to it. That is no longer so when the
    part was taken out of the prototype.
    """
    if shared.behind.get(prototype, 0.0) < _HAVE_IT:
        return False
    samples = np.array(shared.samples[prototype])[:_HOSTS]
    donors = np.resize(host_samples, len(samples))
    images, others = read_images(source, samples), read_images(source, donors)
    _, region, side = part
    objects = (objects_in(source, samples), objects_in(source, donors)) if side == "background" else None
    without = with_part(images, others, region, side, objects)
    with_it, without_it = (model.similarities(x)[:, prototype] for x in (images, without))
    return bool((with_it > without_it).float().mean() >= _HALF)
