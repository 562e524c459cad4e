"""Which prototypes an input looks like, and how much."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lookalike._core.extent import Extent
from lookalike._core.names import visible
from lookalike._core.wording import samples
from lookalike.encoder.patches import PatchEncoder
from lookalike.model.annotations import Region
from lookalike.model.prototype_model import PrototypeModel
from lookalike.model.prototypes import ROUNDING, FamiliarRange, Prototypes, Scope
from lookalike.plots.tiles import shorten

_DESCRIPTION_LENGTH = 200  # characters of a description in a sentence


@dataclass(frozen=True)
class Likeness:
    """One prototype that an input looks like.

    Attributes:
        prototype: Number of the prototype.
        label: Class of the prototype.
        class_name: Name of that class.
        similarity: s(z, p), by the model's similarity.
        distance: Euclidean distance in the space in which the similarity clusters.
        percentile: Percentile of this distance among those of the prototype's own training samples; 100 is as far as
            the farthest, or farther. NaN if the prototype has no training samples.
        farthest: Distance of the farthest of these samples.
        familiar_up_to: Distance beyond which an input is unfamiliar: that of the farthest of these samples, or if they
            are fewer than ten, of the farthest of its class, or of all.
        scope: Whose samples that is the farthest of: the ``"prototype"``'s own, those of its ``"class"``, or of the
            ``"model"``.
        scope_count: Number of these samples.
        count: Number of the prototype's own training samples.
        purity: Share of the prototype's class among the training samples most similar to it.
        nearest: Indices of the training samples nearest to the prototype.
        nearest_names: Their file names; None where the model has none.
        name: Name that a person gave the prototype, or None.
        description: What a person said about the prototype; "" for nothing.
        region: The part of its image that the prototype was restricted to, as left, top, right, bottom, or None.
        image: The nearest training image, uint8 [H, W, C]; None if the model has no images.
        heat_map: Relevance of the input's pixels for the likeness [H, W]; None if relevance was not requested.
        prototype_heat_map: Relevance of the pixels of the prototype's nearest training image for the likeness [H, W].
        sample: What stands behind the prototype: an ``"image"``, or a ``"patch"`` of one.
        part: The part of the input that is most similar to it; None for a whole image.
        prototype_part: The part of ``image`` that is nearest to it; None for a whole image.
    """

    prototype: int
    label: int
    class_name: str
    similarity: float
    distance: float
    percentile: float
    farthest: float
    familiar_up_to: float
    scope: Scope
    scope_count: int
    count: int
    purity: float
    nearest: list[int]
    nearest_names: tuple[str | None, ...] = ()
    name: str | None = None
    description: str = ""
    region: Region | None = None
    image: np.ndarray | None = None
    heat_map: np.ndarray | None = None
    prototype_heat_map: np.ndarray | None = None
    sample: Literal["image", "patch"] = "image"
    part: Extent | None = None
    prototype_part: Extent | None = None

    @property
    def samples(self) -> str:
        """The plural of ``sample``."""
        return samples(self.sample == "patch")

    def caption(self) -> str:
        """Returns a caption for a picture of the prototype: class, number, and its name or else how near the input is.

        Both do not fit below a picture.
        """
        words = self._short_nearness() if self.name is None else shorten(self.name, 18)
        return f"{shorten(self.class_name, 18)}\nno. {self.prototype} · {words}"

    @property
    def n_farther(self) -> int:
        """About how many of the prototype's own training samples are farther from it than the input is.

        A percentile p says that as many as p% of the steps from the nearest to the farthest lie before the input. The
        nearest counts as nearer than the input, as percentiles do not tell whether it is.
        """
        if np.isnan(self.percentile) or self.percentile >= 100:
            return 0
        steps = self.count - 1
        return max(1, steps - int(self.percentile / 100 * steps))  # the farthest is farther

    @property
    def is_beyond_its_own(self) -> bool:
        """Whether the input is farther from the prototype than all of at least two training samples of its own."""
        return self.count > 1 and self.percentile >= 100 and self.distance > self.farthest * (1 + ROUNDING)

    def nearness(self) -> str:
        """Says how far away the input is, in numbers of the prototype's own training images or patches."""
        if np.isnan(self.percentile):
            return f"no training {self.sample} stands behind it"
        if self.count == 1:  # a distance among those of a single image says nothing
            return f"a single training {self.sample} stands behind it"
        of_them = f"{self.count:,} training {self.samples} behind it"
        if self.is_beyond_its_own:
            of_all = f"both training {self.samples} behind it" if self.count == 2 else f"all {of_them}"
            return f"farther from it than {of_all}"
        if not self.n_farther:
            return f"as far from it as the farthest of {of_them}"
        return f"closer to it than about {self.n_farther:,} of the {of_them}"

    def measured(self, similarity: str, *, falls_with_distance: bool, digits: int = 3) -> str:
        """Returns how alike input and prototype are as a number with its name: the distance, or a similarity above 0.

        A negative similarity, such as −12.3 for ``l2``, would say nothing to a reader.

        Args:
            similarity: Name of the model's similarity.
            falls_with_distance: Whether that is a distance turned around.
            digits: Number of significant digits.
        """
        if falls_with_distance or not self.similarity >= 0:
            return f"distance {self.distance:.{digits}g}"
        return f"{similarity} similarity {self.similarity:.{digits}g}"

    def _short_nearness(self) -> str:
        """Says the same for a caption, as a share; without training samples, gives the distance.

        A bare similarity, such as −12.3, says nothing to a reader who does not know its scale.
        """
        if np.isnan(self.percentile):
            return f"distance {self.distance:.3g}"
        if self.count == 1:
            return f"of one {self.sample}"
        if not self.n_farther:
            return "farther than all" if self.is_beyond_its_own else "as far as any"
        return f"closer than {max(self.n_farther / self.count, 0.01):.0%}"

    def called(self) -> str:
        """Returns the prototype's name and description for a sentence; empty if nobody gave any."""
        name = "" if self.name is None else f", called '{visible(self.name)}'"
        description = visible(" ".join(self.description.split()))
        if len(description) > _DESCRIPTION_LENGTH:
            description = f"{description[: _DESCRIPTION_LENGTH - 1]}…"
        return name + (f" ({description})" if description else "")

    def shown_by(self) -> str:
        """Names the training image that shows the prototype, for a sentence; empty if the model has no names."""
        name = self.nearest_names[0] if self.nearest_names else None
        return "" if name is None else f", shown by '{visible(name)}'"

    def __repr__(self) -> str:
        return (
            f"Likeness(no. {self.prototype} of {self.class_name!r}, similarity={self.similarity:.4g}, "
            f"percentile={self.percentile:.0f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "prototype": self.prototype,
            "class": self.class_name,
            "name": self.name,
            "description": self.description,
            "region": None if self.region is None else list(self.region),
            "similarity": self.similarity,
            "distance": self.distance,
            "percentile": None if np.isnan(self.percentile) else self.percentile,
            "familiar_up_to": self.familiar_up_to if np.isfinite(self.familiar_up_to) else None,
            "familiar_by": self.scope,
            "count": self.count,
            "purity": None if np.isnan(self.purity) else self.purity,
            "nearest": self.nearest,
            "nearest_names": list(self.nearest_names),
            "part": None if self.part is None else list(self.part),
            "prototype_part": None if self.prototype_part is None else list(self.prototype_part),
        }


@dataclass(frozen=True)
class _Facts:
    """What a likeness says of its prototype, in lists by prototype."""

    scopes: list[Scope]
    labels: list[int]
    nearest: list[list[int]]
    farthest: list[float]
    familiar_up_to: list[float]
    scope_counts: list[int]
    counts: list[int]
    purities: list[float]

    @classmethod
    def of(cls, prototypes: Prototypes, familiar: FamiliarRange) -> "_Facts":
        columns = (
            prototypes.labels, prototypes.nearest, prototypes.farthest, familiar.farthest, familiar.counts,
            prototypes.counts, prototypes.purity,
        )  # fmt: skip
        return cls(familiar.scopes, *(column.tolist() for column in columns))


def _part_at(model: PrototypeModel, position: Tensor) -> Extent | None:
    """Returns where a patch lies in an image; None if the model's encoder does not say."""
    return Extent(*model.encoder.boxes(position).tolist()) if isinstance(model.encoder, PatchEncoder) else None


@dataclass(frozen=True)
class Likenesses:
    """The likenesses of n inputs to all prototypes; each ``Likeness`` is made when it is asked for.

    Attributes:
        model: The model.
        similarities: [n, P].
        distances: [n, P].
        percentiles: Percentiles of the distances among those of each prototype's own training samples [n, P].
        order: The prototypes of each input, the most similar first [n, P].
        positions: The patch of each input that is most similar to each prototype [n, P]; None for whole images.
        prototype_parts: The part of each prototype's image that is nearest to it; None for whole images.
        facts: What is the same for all inputs, by prototype. It is read from the device once, and not for each input.
    """

    model: PrototypeModel
    similarities: Tensor
    distances: Tensor
    percentiles: Tensor
    order: Tensor
    positions: Tensor | None
    prototype_parts: list[Extent] | None
    facts: "_Facts"

    @classmethod
    def of(cls, model: PrototypeModel, familiar: FamiliarRange, embeddings: Tensor) -> "Likenesses":
        """Compares embeddings [n, D] with all prototypes."""
        distances, positions = model.distances_of(embeddings), None
        similarities = model.evidence_of(embeddings)
        if model.has_patches:
            similarities, positions = similarities.max(1)
            positions = positions.cpu()
        order = similarities.argsort(dim=1, descending=True, stable=True).cpu()
        percentiles = model.prototypes.percentile_of(distances).cpu()
        facts = _Facts.of(model.prototypes, familiar)
        boxes = model.patch_boxes()
        prototype_parts = None if boxes is None else [Extent(*box) for box in boxes[:, 0].tolist()]
        return cls(model, similarities.cpu(), distances.cpu(), percentiles, order, positions, prototype_parts, facts)

    def nearest_of_class(self, row: int, label: int) -> int | None:
        """Returns the most similar prototype of a class; None if the class has none."""
        of_class = [prototype for prototype, own in enumerate(self.facts.labels) if own == label]
        return max(of_class, key=self.similarities[row].__getitem__) if of_class else None

    def likeness(self, row: int, prototype: int) -> Likeness:
        """Returns the likeness of one input to one prototype, without heat-maps."""
        model, facts, annotations = self.model, self.facts, self.model.all_annotations
        nearest = [index for index in facts.nearest[prototype] if index >= 0]
        return Likeness(
            prototype=prototype,
            label=facts.labels[prototype],
            class_name=model.class_names[facts.labels[prototype]],
            similarity=float(self.similarities[row, prototype]),
            distance=float(self.distances[row, prototype]),
            percentile=float(self.percentiles[row, prototype]),
            farthest=facts.farthest[prototype],
            familiar_up_to=facts.familiar_up_to[prototype],
            scope=facts.scopes[prototype],
            scope_count=facts.scope_counts[prototype],
            count=facts.counts[prototype],
            purity=facts.purities[prototype],
            nearest=nearest,
            nearest_names=tuple(model.training_names.get(index) for index in nearest),
            name=annotations.names[prototype],
            description=annotations.descriptions[prototype],
            region=annotations.regions[prototype],
            image=None if model.images is None else model.images[prototype, 0].numpy(),
            sample="patch" if model.has_patches else "image",
            part=None if self.positions is None else _part_at(model, self.positions[row, prototype]),
            prototype_part=None if self.prototype_parts is None else self.prototype_parts[prototype],
        )
