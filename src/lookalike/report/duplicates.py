"""Test images that the network takes for the same as a training image or as another test image.

Such images make an accuracy look better than it is on new images.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.intervals import Share, share
from lookalike._core.names import visible
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.embedding.neighbours import look_around
from lookalike.metrics.findings import Finding
from lookalike.model import PrototypeModel
from lookalike.report.examples import Decisions
from lookalike.report.pictures import picture

if TYPE_CHECKING:
    from lookalike.report.material import Material

_MOST_IMAGES = 7000  # compared in pairs; more would make a report wait for seconds, and ``audit`` compares them
_PAIRS_SHOWN = 12
_BY_NAME = {True: "equal to the network", False: "nearly equal to the network"}


@dataclass(frozen=True)
class Twin:
    """Two images that are alike to the network.

    Attributes:
        row: Row of the test image.
        other: Row of the other: a training image, or a test image.
        is_training: Whether the other is a training image.
        exact: Whether the network sees no difference.
    """

    row: int
    other: int
    is_training: bool
    exact: bool


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        twins: The pairs, those with training images first, and the most alike first among these.
        with_training: Whether training images were compared.
        n_test: Number of test images.
        accuracy: Share of correct answers on all test images.
        without: The same without test images that are alike to a training image, and with one of each pair of test
            images; None if none are left.
    """

    twins: list[Twin]
    with_training: bool
    n_test: int
    accuracy: float
    without: Share | None

    def finding(self) -> Finding | None:
        """Returns the finding for the first section; None if there is nothing to say."""
        of_training = {twin.row for twin in self.twins if twin.is_training}
        within = {row for twin in self.twins if not twin.is_training for row in (twin.row, twin.other)}
        if not self.twins:
            claim = "No test image is a near duplicate of a training image or of another test image."
            return Finding("duplicates", "good", claim) if self.with_training else None
        parts = []
        if of_training:
            parts.append(
                f"{len(of_training):,} of the {self.n_test:,} test images are near duplicates of training images"
            )
        if within:
            of_all = "" if of_training else f"of the {self.n_test:,} "
            parts.append(f"{len(within):,} {of_all}test images are near duplicates of one another")
        claim = f"{', and '.join(parts)}: such images are easier than new ones."
        if self.without is None:
            return Finding(
                "duplicates", "caution", f"{claim} No other test images are left to measure the accuracy on."
            )
        claim += f" Without them, {self.without.value:.1%} of {self.without.n:,} answers are correct; with them, "
        claim += f"{self.accuracy:.1%}."
        figures = f"95% interval without them {self.without.low:.1%} to {self.without.high:.1%}"
        return Finding("duplicates", "caution", claim, figures)


def find_duplicates(
    model: PrototypeModel, store: EmbeddingStore, train: EmbeddingStore | None, decisions: Decisions
) -> Duplicates | None:
    """Looks for near duplicates as the audit does, in the space in which the model compares images.

    Args:
        model: The model.
        store: Embeddings of the test data.
        train: Embeddings of its training data; None compares the test images with one another.
        decisions: Decisions on the test data.

    Returns:
        None if there are too few images to say what a usual distance is, or too many to compare all.
    """
    n_train = 0 if train is None else len(train)
    if not 10 <= n_train + len(store) <= _MOST_IMAGES:
        return None
    points = [_points(model, embedded) for embedded in (train, store) if embedded is not None]
    twins = []
    for pair in look_around(np.concatenate(points)).pairs:
        first, second = sorted((pair.first, pair.second))
        if second < n_train:
            continue  # both are training images
        is_training = first < n_train
        row, other = (second, first) if is_training else (first, second)
        twins.append(Twin(row - n_train, other if is_training else other - n_train, is_training, pair.exact))
    twins.sort(key=lambda twin: not twin.is_training)
    is_kept = np.ones(len(store), bool)
    for twin in twins:
        if twin.is_training:
            is_kept[twin.row] = False
        elif is_kept[twin.row]:
            is_kept[twin.other] = False
    correct = ~decisions.wrong.numpy()
    without = share(int(correct[is_kept].sum()), int(is_kept.sum())) if is_kept.any() else None
    return Duplicates(twins, train is not None, len(store), float(correct.mean()), without)


@torch.no_grad()
def _points(model: PrototypeModel, store: EmbeddingStore) -> np.ndarray:
    """Returns the embeddings in the space of the similarity [N, D']; of a model of patches, their means."""
    z = torch.from_numpy(np.asarray(store.embeddings, dtype=np.float32)).to(model.device)
    points: np.ndarray = model.similarity.project(model.patches_of(z).mean(1)).float().cpu().numpy()
    return points


def duplicates(material: "Material") -> dict[str, Any] | None:
    """Returns the values of the section, with a picture of both images of each pair; None if there are no pairs."""
    found = material.duplicates
    finding = None if found is None else found.finding()
    if found is None or finding is None or not found.twins:
        return None
    shown = found.twins[:_PAIRS_SHOWN]
    rows = {entry["row"]: entry for entry in material.examples.entries}
    names = material.model.class_names
    pairs = [
        {
            "how": _BY_NAME[twin.exact],
            "row": twin.row if twin.row in rows else None,
            "predicted": names[int(material.decisions.predicted[twin.row])],
            "wrong": bool(material.decisions.wrong[twin.row]),
            "images": [
                ("test image", *_described(material, material.test, material.store, twin.row)),
                ("training image", *_described(material, material.train, material.train_store, twin.other))
                if twin.is_training
                else ("another test image", *_described(material, material.test, material.store, twin.other)),
            ],
        }
        for twin in shown
    ]
    return {"finding": finding, "pairs": pairs, "n_pairs": len(found.twins), "with_training": found.with_training}


def _described(
    material: "Material", data: Batches | None, store: EmbeddingStore | None, row: int
) -> tuple[str, str | None]:
    """Returns an image's name and its picture, if it can be read again."""
    if data is None or store is None or not data.can_fetch:
        return str(row), None
    index = int(store.indices[row])
    inputs = data.fetch([index])
    pixels = material.model.to_pixels(inputs) if isinstance(inputs, Tensor) else None
    return visible(data.describe(index)), None if pixels is None else picture(pixels[0].numpy())
