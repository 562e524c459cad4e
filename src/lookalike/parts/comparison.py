"""A rather than B: which parts make the difference between two classes, as parts, as a map and in words.

The lead of class A over class B is a sum over positions (``contributions``). The parts that decide are positions
without whose terms in this sum B would be at least as likely [ours]: those that add most to the lead, in order, and as
few as will do. A position without its term speaks for neither class. (Left out of the average, as if the image were
smaller, they leave B ahead as well, but where biases add to the lead.)

In a model of whole images the lead is that of A's most similar prototype over B's. Without these terms another
prototype of A may be the most similar one, so as many are taken as put all prototypes of A behind one of B.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.extent import WHOLE, Extent, over_image
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_torch_settings
from lookalike.model import PrototypeModel
from lookalike.model.classifier import LinearHead
from lookalike.model.decision import PatchVote
from lookalike.parts.attribution import Contributions, ExplainedBatch, explained_batches
from lookalike.parts.per_image import drawable
from lookalike.parts.regions import connected, place_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MORE_THAN_ALL = 1.05  # of the lead: below it, the other positions add up to nothing worth a word
_NAMED = 2  # places in a sentence; all are drawn
_IN_NO_PART = 0.05  # of the lead: a smaller residual is not mentioned
_ROUNDING = 1e-5  # of the lead: the positions add up to it in single precision


@dataclass(frozen=True)
class Difference:
    """Why one class rather than another, for one image.

    Attributes:
        class_name: A, the class that is explained.
        other_name: B, the class that it is compared with.
        lead: The lead of A over B; negative if B is ahead.
        map: What each position adds to the lead [h, w].
        deciding: Positions without whose terms the lead would be gone [h, w], bool; empty if there is no lead.
        parts: The connected parts of these, the largest share first: mask [h, w], share of the lead, place in words.
        residual: What the positions do not add up to.
        meaning: What the lead is measured in.
        image: The image, uint8 [H, W, C]; None if the model does not know its range.
        extent: The part of the image that the cells of the map cover, see ``PatchEncoder.extent``.
        of_votes: Whether the lead is one of votes: where these are equal, the similarities decide, often for A.
        of_biases: Whether the residual is the difference between the biases of a head's own model.
    """

    class_name: str
    other_name: str
    lead: float
    map: np.ndarray
    deciding: np.ndarray
    parts: list[tuple[np.ndarray, float, str]]
    residual: float
    meaning: str
    image: np.ndarray | None = None
    extent: Extent = WHOLE
    of_votes: bool = False
    of_biases: bool = False

    def sentence(self) -> str:
        """Says it in a sentence, and in another one what is in no part, if that is much."""
        a, b = visible(self.class_name), visible(self.other_name)
        if self.lead <= 0:
            return f"'{b}' rather than '{a}': '{a}' has no lead to explain."
        in_no_part = [f"{clause}." for clause in self._in_no_part()]
        return " ".join([f"'{a}' rather than '{b}': {self._why(b)}.", *in_no_part])

    def _why(self, b: str) -> str:
        """Says which parts decide."""
        if not self.deciding.any():
            return "no part explains this"
        n, total = int(self.deciding.sum()), self.deciding.size
        if n == total:
            return f"no part decides alone; it takes all {total} positions"
        places = list(dict.fromkeys(place for _, _, place in self.parts))
        named = " and ".join(places[:_NAMED]) + (", and others" if len(places) > _NAMED else "")
        parts, adds = ("part", "adds") if len(self.parts) == 1 else (f"{len(self.parts)} parts", "add")
        where = f"the {parts} {named} ({n} of {total} positions)"
        if self.of_votes:
            return f"but for the votes of {where}, '{b}' would have at least as many votes"
        return f"but for what {where} {adds}, '{b}' would be at least as likely"

    def _in_no_part(self) -> list[str]:
        """Says which share of the lead no part adds, if that is worth a word."""
        share = self.residual / self.lead if self.lead > 0 else 0.0
        if abs(share) < _IN_NO_PART:
            return []
        subject = "The biases of the head" if self.of_biases else "What is in no part"
        if share > 0:
            return [f"{subject} {'make' if self.of_biases else 'makes'} {share:.0%} of the lead"]
        speaks = "speak" if self.of_biases else "speaks"
        return [f"{subject} {speaks} for '{visible(self.other_name)}', by {-share:.0%} of the lead"]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, without pictures."""
        return {
            "class": self.class_name,
            "rather_than": self.other_name,
            "lead": self.lead,
            "meaning": self.meaning,
            "residual": self.residual,
            "map": np.round(self.map, 6).tolist(),
            "deciding": int(self.deciding.sum()),
            "parts": [{"share": share, "place": place} for _, share, place in self.parts],
            "sentence": self.sentence(),
        }

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the image with the parts that decide, and beside it the map.

        Raises:
            LookalikeError: If the model does not know the value range of its images.
        """
        from lookalike.plots import plot_difference

        image = drawable(self.image)
        masks = [mask for mask, _, _ in self.parts]
        title = f"place by place\nred for {visible(self.class_name)}, blue for {visible(self.other_name)}"
        return plot_difference(image, self.map, masks, self._share(), title=title, covered=self.extent, ax=ax)

    def _share(self) -> str:
        """Says what the deciding parts give of the lead; together they give all of it, or more."""
        if not self.deciding.any():
            return "\n".join(["no part decides", *self._in_no_part()])
        share = sum(share for _, share, _ in self.parts)
        if self.deciding.all():
            return "no part decides\nit takes the whole image"
        it = "the outlined part gives" if len(self.parts) == 1 else "the outlined parts give"
        if share < _MORE_THAN_ALL:
            return f"what decides\n{it} all of the lead"
        return f"what decides\n{it} {share:.1f} times the lead; the rest pulls the other way"


@keeps_torch_settings
@torch.no_grad()
def difference(
    model: PrototypeModel,
    inputs: Any,
    target: int | Sequence[int] | Tensor | None = None,
    rival: int | Sequence[int] | Tensor | None = None,
    *,
    batch_size: int = 64,
) -> list[Difference]:
    """Explains why images are of one class rather than another.

    Args:
        model: A prototype model, as for ``contributions``.
        inputs: Images, as for ``PrototypeModel.predict``.
        target: A, of all images or of each [N]; None takes the predicted class.
        rival: B; None takes the class with the next highest score: the second most likely one, or that with the next
            most votes.
        batch_size: Most images that pass through the network at once.

    Returns:
        One difference per image.

    Raises:
        LookalikeError: As ``contributions`` does, or if both are the same class.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    results: list[Difference] = []
    for batch in explained_batches(model, inputs, target, rival, batch_size, compares=True):
        names = _names(model, batch.contributions)
        pixels = model.to_pixels(batch.inputs)
        results += [
            replace(
                _difference_of(batch, row, names[row], None if pixels is None else pixels[row].numpy()),
                of_votes=isinstance(model.classifier, PatchVote),
                of_biases=isinstance(model.classifier, LinearHead),
            )
            for row in range(len(batch.inputs))
        ]
    return results


def _names(model: PrototypeModel, explained: Contributions) -> list[tuple[str, str]]:
    """Returns the names of the class that each image is explained by, and of the one that it is compared with.

    Raises:
        LookalikeError: If both are the same.
    """
    assert explained.rivals is not None  # a lead was asked for
    targets, rivals = explained.targets, explained.rivals
    if explained.of_prototypes:
        targets, rivals = (model.prototypes.labels.cpu()[numbers] for numbers in (targets, rivals))
    names = [
        (model.class_names[a], model.class_names[b]) for a, b in zip(targets.tolist(), rivals.tolist(), strict=True)
    ]
    same = next((a for a, b in names if a == b), None)
    if same is not None:
        raise LookalikeError(f"{visible(same)!r} is compared with itself: give another rival")
    return names


def _difference_of(batch: ExplainedBatch, row: int, names: tuple[str, str], image: np.ndarray | None) -> Difference:
    """Finds the positions that decide, and their connected parts."""
    explained = batch.contributions
    by_position, lead = explained.maps[row].double().numpy(), float(explained.values[row])
    deciding = np.zeros(by_position.shape, bool)
    if lead > 0:
        order = np.argsort(-by_position, axis=None, kind="stable")
        remaining = _without(by_position[None], np.array([lead]), order)
        if batch.of_class is not None and batch.of_other is not None:
            of_class, of_other = (
                _without(of.maps[row].double().numpy(), of.values[row].double().numpy(), order)
                for of in (batch.of_class, batch.of_other)
            )
            remaining = np.maximum(remaining, of_class - of_other)  # the lead that the map shows is to be gone, too
        is_gone = remaining <= _ROUNDING * lead
        n_deciding = int(np.argmax(is_gone)) + 1 if is_gone.any() else 0
        deciding.flat[order[:n_deciding]] = True
    deciding_parts = [
        (mask, float(by_position[mask].sum() / lead), place_of(over_image(mask, explained.extent)))
        for mask in connected(deciding)
    ]
    return Difference(
        class_name=names[0],
        other_name=names[1],
        lead=lead,
        map=by_position,
        deciding=deciding,
        parts=sorted(deciding_parts, key=lambda part: -part[1]),
        residual=float(explained.residuals[row]),
        meaning=explained.meaning,
        image=image,
        extent=explained.extent,
    )


def _without(maps: np.ndarray, leads: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns the largest of M leads [S] without the first position of an order, without the first two, and so on.

    Args:
        maps: What each position adds to each lead [M, h, w].
        leads: The leads [M].
        order: All positions [S].
    """
    largest: np.ndarray = (leads[:, None] - np.cumsum(maps.reshape(len(maps), -1)[:, order], axis=1)).max(0)
    return largest
