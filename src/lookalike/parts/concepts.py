"""Concepts: the prototypes of a model of patches, with what they show and the classes that they serve."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike._core.names import visible
from lookalike.model import PrototypeModel
from lookalike.model.decision import PatchLinear
from lookalike.parts.segmentation import patch_parts

_MOST_NAMED = 3  # classes in a sentence
_LEAST_SHARE = 0.01  # of a concept's weight: a class with less is not served by it


@dataclass(frozen=True)
class Concept:
    """A prototype of patches.

    Attributes:
        number: Number of the prototype.
        class_name: Its class; of a concept of all classes together, the class of which it has the largest share.
        count: Number of training patches behind it: of its class, to which no other concept of the class is more
            similar; of a concept of all classes together, all to which no other concept is.
        purity: Share of the training patches most similar to it that are of its class; NaN without any.
        serves: The classes that it counts for, with their shares of its weight, the largest first: by vote or mean its
            own class alone. Empty if it counts for none.
        images: The training images with its nearest patches, uint8 [M, H, W, C]; None if the model holds none.
        boxes: Where these patches lie in them [M, 4]: top, left, bottom, right, as shares of height and width.
        shared: Whether it is a concept of all classes together.
    """

    number: int
    class_name: str
    count: int
    purity: float
    serves: dict[str, float]
    images: np.ndarray | None
    boxes: np.ndarray
    shared: bool = False

    def sentence(self) -> str:
        """Says it in a sentence."""
        if not self.count:
            return f"Concept {self.number}: no training patch is behind it."
        name = f"'{visible(self.class_name)}'"
        said = f"Concept {self.number}: {self.count:,} training patches"
        if self.shared:
            said += f", {self.purity:.0%} of {name}"
        elif np.isnan(self.purity):
            said += f" of {name}, each of them more similar to a concept of another class"
        else:
            said += f" of {name}; of all patches most similar to it, {self.purity:.0%} are of {name}"
        if not self.serves:
            return f"{said}; it counts for no class."
        named = [f"'{visible(served)}' ({share:.0%})" for served, share in list(self.serves.items())[:_MOST_NAMED]]
        others = len(self.serves) - len(named)
        return f"{said}; it counts for {', '.join(named)}{f' and {others} more' if others else ''}."

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "number": self.number,
            "class": self.class_name,
            "count": self.count,
            "purity": None if np.isnan(self.purity) else self.purity,
            "serves": self.serves,
            "boxes": self.boxes.tolist(),
            "sentence": self.sentence(),
        }


def concepts(model: PrototypeModel) -> list[Concept]:
    """Returns the concepts of a model of patches.

    Raises:
        LookalikeError: If the model is one of whole images.
    """
    patch_parts(model)
    p, boxes, shared = model.prototypes, model.patch_boxes(), bool(model.provenance.get("shared"))
    assert boxes is not None  # a model of patches has them
    return [
        Concept(
            number=number,
            class_name=p.class_of(number),
            count=int(p.counts[number]),
            purity=float(p.purity[number]),
            serves=_serves(model, number),
            images=None if model.images is None else model.images[number].numpy(),
            boxes=boxes[number, : None if model.images is None else model.images.shape[1]].numpy(),
            shared=shared,
        )
        for number in range(len(p))
    ]


def _serves(model: PrototypeModel, number: int) -> dict[str, float]:
    """Returns the classes that a concept counts for, with their shares of its weight."""
    if not isinstance(model.classifier, PatchLinear):
        return {model.prototypes.class_of(number): 1.0}
    weights = model.classifier.weight[:, number].double().cpu()
    if float(weights.sum()) <= 0:
        return {}
    shares = weights / weights.sum()
    order = [k for k in shares.argsort(descending=True, stable=True).tolist() if float(shares[k]) >= _LEAST_SHARE]
    return {model.class_names[k]: float(shares[k]) for k in order}
