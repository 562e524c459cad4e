"""This part here looks like that part there: regions of an input that correspond to regions of a prototype's image.

The likeness of two images is the inner product of their embeddings, both measured from the mean of all prototypes:
L = (z − c) · (t − c). Where embeddings are means of patches, L is the mean over all pairs of a patch here and a patch
there: L = Σ (a_s − c) · (b_r − c) / S². No single pair carries much of it, so the patches of both images are clustered
together into a few kinds, and a pair of regions is one kind here and there. Its share of L is exact [ours].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.extent import WHOLE, Extent, over_image
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_torch_settings
from lookalike.conversion.clustering import cluster
from lookalike.encoder.finite import check_finite_rows
from lookalike.model import PrototypeModel
from lookalike.model.decision import PatchDecision, PatchLinear
from lookalike.parts.attribution import reader_of
from lookalike.parts.per_image import PerImage, drawable
from lookalike.parts.regions import part_of
from lookalike.parts.segmentation import batches_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PAIRS = 3  # drawn: more outlines are not told apart
_LEAST_SHARE = 0.05  # of the likeness: a pair below it is not worth an outline
_NEARLY = 1e-5  # of the highest similarity: another batch rounds otherwise
ROUNDING = 0.005  # of the likeness: less is not seen in a percentage
MUCH = 2.0  # of the likeness: what is left of the two images' likeness is a small difference of large numbers
LITTLE = 0.5  # of the likeness: pairs that carry less do not explain it


@dataclass(frozen=True)
class RegionPair:
    """A region of an input and the region of a prototype's image that it corresponds to.

    Attributes:
        here: Region of the input [h, w], bool.
        there: Region of the prototype's image [h, w], bool.
        share: Share of the images' likeness that the pair carries.
    """

    here: np.ndarray
    there: np.ndarray
    share: float


@dataclass(frozen=True)
class PairedRegions:
    """The corresponding regions of one input and one prototype's image.

    Attributes:
        prototype: Number of the prototype.
        class_name: Its class.
        likeness: L; the images are not alike if it is not positive.
        pairs: The pairs that carry most of it, the largest share first.
        explained: Share of the likeness that the pairs carry together.
        best_single: Share that the three best pairs of single positions carry.
        image: The input, uint8 [H, W, C]; None if the model does not know its range.
        prototype_image: The prototype's nearest training image, uint8 [H, W, C].
        extent: The part of the input that the cells of its regions cover, see ``PatchEncoder.extent``.
        prototype_extent: The same of the prototype's image.
        is_nearest: Whether no prototype is more similar.
        by_evidence: Whether the prototype is the one that most of the evidence comes from, in a model of patches, and
            not the most similar one.
    """

    prototype: int
    class_name: str
    likeness: float
    pairs: list[RegionPair]
    explained: float
    best_single: float
    image: np.ndarray | None
    prototype_image: np.ndarray
    extent: Extent = WHOLE
    prototype_extent: Extent = WHOLE
    is_nearest: bool = True
    by_evidence: bool = False

    def sentence(self) -> str:
        """Says it in a sentence."""
        which = f"{self.prototype} of class '{visible(self.class_name)}'"
        begin, but = f"This looks like prototype {which}", "but no part explains this"
        if self.by_evidence:
            begin = f"The prototype that speaks most for this is {which}"
        elif not self.is_nearest:
            begin, but = f"Compared with prototype {which}", "no part explains a likeness"
        if self.likeness <= 0:
            if self.by_evidence:
                return f"{begin}, but the images as a whole are not alike."
            # no "does not look like": it may stand behind the sentence that calls this prototype the nearest
            return f"No part explains a likeness to prototype {which}: as a whole, the two images are not alike."
        if not self.pairs or self.explained < LITTLE:
            percent = math.floor(100 * max(self.explained, 0))  # no half by rounding: a half would explain it
            return f"{begin}, {but}: the best carry {percent}%."
        if self.explained > MUCH:
            return f"{begin}, {but}: parts that are alike and parts that are not nearly cancel out."
        links = ", ".join(
            f"{part_of(over_image(pair.here, self.extent))} like "
            f"{part_of(over_image(pair.there, self.prototype_extent))} there ({pair.share:.0%})"
            for pair in self.pairs
        )
        too_much = ""
        if self.explained > 1 + ROUNDING:
            whole = f"{self.explained:.0%} of their likeness, more than all of it"
            too_much = f" That is {whole}: other parts make the images less alike."
        return f"{begin}: {links}.{too_much}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "prototype": self.prototype,
            "class": self.class_name,
            "likeness": self.likeness,
            "explained": self.explained,
            "best_single": self.best_single,
            "pairs": [
                {"share": pair.share, "here": pair.here.tolist(), "there": pair.there.tolist()} for pair in self.pairs
            ],
            "sentence": self.sentence(),
        }

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws both images with linked outlines, one colour per pair.

        Raises:
            LookalikeError: If the model does not know the value range of its images.
        """
        from lookalike.plots import plot_pairs

        image = drawable(self.image)
        regions = [(pair.here, pair.there, pair.share) for pair in self.pairs]
        little = self.likeness <= 0 or self.explained < LITTLE
        captions = ("this image", f"prototype {self.prototype}\nof {visible(self.class_name)}")
        note = "no part explains this" if little else ""
        if not little and self.explained > 1 + ROUNDING:
            note = f"{self.explained:.0%} in all: other parts make them less alike"
            note = "alike and unlike parts nearly cancel out" if self.explained > MUCH else note
        return plot_pairs(
            image,
            self.prototype_image,
            regions,
            captions,
            note=note,
            covered=(self.extent, self.prototype_extent),
            ax=ax,
        )


@keeps_torch_settings
@torch.no_grad()
def pair_regions(
    model: PrototypeModel,
    inputs: Any,
    prototypes: int | Sequence[int] | Tensor | None = None,
    *,
    n_kinds: int = 4,
    seed: int = 0,
    batch_size: int = 64,
) -> list[PairedRegions]:
    """Finds which regions of each input correspond to which regions of a prototype's nearest training image.

    Args:
        model: A prototype model with images, of patches or of whole images with a feature map.
        inputs: Images, as for ``PrototypeModel.predict``.
        prototypes: A prototype, of all inputs or of each [N]; None takes the most similar one, and in a model of
            patches the one that most of the predicted class's evidence comes from.
        n_kinds: Number of kinds that the patches of both images are clustered into.
        seed: Seed of the clustering.
        batch_size: Most images that pass through the network at once.

    Returns:
        One result per input.

    Raises:
        LookalikeError: If the model holds no images, the network has no feature map, or a prototype is unknown or has
            no image.
    """
    pairs = pairs_with_images(model, inputs, prototypes, n_kinds=n_kinds, seed=seed, batch_size=batch_size)
    for row, pair in enumerate(pairs):
        if isinstance(pair, int):
            raise LookalikeError(
                f"image {row} cannot be compared with prototype {pair} of class "
                f"{visible(model.prototypes.class_of(pair))!r}, which has no training image; give another prototype"
            )
    return [pair for pair in pairs if not isinstance(pair, int)]


@keeps_torch_settings
@torch.no_grad()
def pairs_with_images(
    model: PrototypeModel,
    inputs: Any,
    prototypes: int | Sequence[int] | Tensor | None,
    *,
    n_kinds: int = 4,
    seed: int = 0,
    batch_size: int = 64,
) -> list[PairedRegions | int]:
    """Returns for each input what ``pair_regions`` does, or the prototype where that has no image to compare with."""
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    n_kinds = checks.whole_number("n_kinds", n_kinds, 2)
    seed = checks.seed("seed", seed)
    references = model.prototype_inputs()
    if references is None or model.images is None:
        raise LookalikeError("the model holds no prototype images (it was saved or converted without them)")
    asked = PerImage.of("prototype", prototypes, len(model.prototypes), "prototype")
    have_image = model.prototypes.have_image
    results: list[PairedRegions | int] = []
    for x in batches_of(model, inputs, batch_size):
        reader = reader_of(model, x)
        maps, embeddings = reader.maps_and_embeddings(x)
        here = _patches(maps)
        numbers = asked.of_rows(len(results), len(x))
        by_evidence = numbers is None and isinstance(model.classifier, PatchDecision)
        z = maps.flatten(2).transpose(1, 2).flatten(1) if model.has_patches else embeddings
        check_finite_rows(z.isfinite().all(1), first=len(results))
        if numbers is None:
            numbers = _prototypes_shown(model, z).cpu()
        are_nearest = _are_nearest(model, z, numbers)
        drawn, which = numbers.unique(return_inverse=True)  # many inputs have the same nearest prototype
        # images of the prototypes may have another size than these, and so another grid
        reader_there = reader_of(model, references[drawn[:1]].to(x))
        there = torch.cat([_patches(reader_there.maps(rows.to(x))) for rows in references[drawn].split(batch_size)])
        pixels = model.to_pixels(x)
        for row, number in enumerate(numbers.tolist()):
            if not have_image[number]:
                results.append(number)
                continue
            pair = _pair(
                model, number, here[row], there[which[row]], (reader.grid, reader_there.grid), (n_kinds, seed),
                None if pixels is None else pixels[row].numpy(),
            )  # fmt: skip
            results.append(
                replace(
                    pair,
                    extent=reader.extent,
                    prototype_extent=reader_there.extent,
                    is_nearest=are_nearest[row],
                    by_evidence=by_evidence,
                )
            )
    asked.check_count(len(results))
    return results


def _prototypes_shown(model: PrototypeModel, embeddings: Tensor) -> Tensor:
    """Returns the prototype that each image is compared with [n].

    In a model of whole images it is the most similar one. In one of patches that would often be a patch of plain
    background, which many images share. So it is the concept that most of the predicted class's evidence comes from:
    of the concepts of that class, the one of most positions, or by weights the one that adds most [ours].
    """
    if not isinstance(model.classifier, PatchDecision):
        return model.similarities_of(embeddings).argmax(1)
    evidence, labels = model.evidence_of(embeddings), model.prototypes.labels
    predicted = model.classifier(evidence, labels, model.n_classes).argmax(1)
    if isinstance(model.classifier, PatchLinear):
        weights = model.classifier.weight.to(evidence.dtype)[predicted]
    else:
        weights = (labels[None] == predicted[:, None]).to(evidence.dtype)
        evidence = evidence.masked_fill(weights[:, None] == 0, -torch.inf)
    n_positions = nn.functional.one_hot(evidence.argmax(2), evidence.shape[2]).sum(1)
    return (n_positions * weights).argmax(1)


def _are_nearest(model: PrototypeModel, embeddings: Tensor, numbers: Tensor) -> list[bool]:
    """Says of one prototype of each image whether no other is more similar, but for rounding."""
    similarities = model.similarities_of(embeddings)
    of_prototype, best = similarities.gather(1, numbers.to(similarities.device)[:, None])[:, 0], similarities.amax(1)
    is_nearest: list[bool] = (of_prototype >= best - _NEARLY * best.abs()).tolist()
    return is_nearest


def _patches(maps: Tensor) -> Tensor:
    """Returns the positions of maps [n, D, h, w] as patches [n, S, D] in double precision."""
    return maps.flatten(2).transpose(1, 2).double().cpu()


def _pair(
    model: PrototypeModel,
    number: int,
    here: Tensor,
    there: Tensor,
    grids: tuple[tuple[int, int], tuple[int, int]],
    clustering: tuple[int, int],
    image: np.ndarray | None,
) -> PairedRegions:
    """Pairs the regions of two images by kinds of patches, from patches [S, D]."""
    vectors = model.prototypes.vectors.double().cpu()
    centre = vectors.mean(0) if vectors.shape[1] == here.shape[1] else torch.cat([here, there]).mean(0)
    a, b = here - centre, there - centre
    products = (a @ b.T / (len(a) * len(b))).numpy()  # [S, S]: what each pair of patches adds to the likeness
    likeness = float(products.sum())
    n_kinds, seed = clustering
    points = torch.cat([a, b]).float().numpy()
    kinds = cluster(points, min(n_kinds, len(points)), seed=seed).labels
    kinds_here, kinds_there = kinds[: len(a)], kinds[len(a) :]
    pairs = []
    for kind in np.unique(kinds):
        at_here, at_there = kinds_here == kind, kinds_there == kind
        share = float(products[np.ix_(at_here, at_there)].sum() / likeness) if likeness > 0 else 0.0
        if at_here.any() and at_there.any() and share >= _LEAST_SHARE:
            pairs.append(RegionPair(at_here.reshape(grids[0]), at_there.reshape(grids[1]), share))
    pairs = sorted(pairs, key=lambda pair: -pair.share)[:_MOST_PAIRS]
    best = float(np.sort(products, axis=None)[-3:].sum() / likeness) if likeness > 0 else 0.0
    assert model.images is not None  # checked by the caller
    return PairedRegions(
        prototype=number,
        class_name=model.prototypes.class_of(number),
        likeness=likeness,
        pairs=pairs,
        explained=sum(pair.share for pair in pairs),
        best_single=best,
        image=image,
        prototype_image=model.images[number, 0].numpy(),
    )
