"""Test images that the network takes for the same as a training image or as another test image.

Such images make an accuracy look better than it is on new images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.intervals import Share, share
from lookalike._core.wording import counted
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.embedding.neighbours import Pair, in_groups, look_around, look_for
from lookalike.metrics.context import aligned_labels
from lookalike.metrics.findings import Finding
from lookalike.model import PrototypeModel
from lookalike.report.examples import Decisions
from lookalike.report.pictures import picture
from lookalike.report.words import image_names

if TYPE_CHECKING:
    from lookalike.report.material import Material

_MOST_IMAGES = 7000  # compared in pairs; more would make a report wait for seconds, and ``audit`` compares them
_FEWEST_IMAGES = 10
_FEWEST_FOR_GROUPS, _MOSTLY = 30, 0.6  # test images, and the share of them in groups that gets a warning
_MOST_MIRRORED = 500  # test images that pass through the network again, mirrored
_MIRRORED_TOGETHER = 64
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
        mirrored: Whether they are alike when one is mirrored.
    """

    row: int
    other: int
    is_training: bool
    exact: bool
    mirrored: bool = False

    @property
    def how(self) -> str:
        """How they are alike, in words."""
        return f"{'mirrored, ' if self.mirrored else ''}{_BY_NAME[self.exact]}"


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        twins: The pairs, those with training images first, and the most alike first among these.
        with_training: Whether training images were compared.
        n_test: Number of test images.
        accuracy: Share of correct answers on all test images.
        without: The same without test images that are alike to a training image, and with one of each group of test
            images that are alike; None if none are left.
        audit: The command that lists all pairs; None where there is none.
        note: What was not compared, why, and what to do about it; empty if all was.
        original_without: Share of the original's answers that are correct on the images of ``without``; None without
            an original.
        n_leaked: Number of test images that are training images of the model, by their contents.
        with_mirrored: Whether test images were compared mirrored, too.
        n_grouped: Number of test images that have another one which is much nearer than their fifth.
    """

    twins: list[Twin]
    with_training: bool
    n_test: int
    accuracy: float
    without: Share | None
    audit: str | None
    note: str = ""
    original_without: float | None = None
    n_leaked: int = 0
    with_mirrored: bool = False
    n_grouped: int = 0

    @property
    def of_training(self) -> set[int]:
        """The rows of test images that are alike to a training image."""
        return {twin.row for twin in self.twins if twin.is_training}

    def finding(self) -> Finding | None:
        """Returns the finding for the first section; None if there is nothing to say.

        Copies that are training images of the model are counted once: the finding stands for that on leaked images.
        """
        of_training = self.of_training
        within = {row for twin in self.twins if not twin.is_training for row in (twin.row, twin.other)}
        if not self.twins:
            claim = "No test image is a near duplicate of a training image or of another test image"
            claim += f"{', mirrored or not' if self.with_mirrored else ''}. {self._not_found()}"
            return Finding("duplicates", "info", claim) if self.with_training else None
        lead, parts = "", []
        n_leaked = min(self.n_leaked, len(of_training))
        if n_leaked:
            are = "is a training image" if n_leaked == 1 else "are training images"
            lead = f"{n_leaked:,} of the {self.n_test:,} test images {are} of the model: its accuracy on "
            lead += f"{'it' if n_leaked == 1 else 'them'} says nothing about new images."
        n_near = len(of_training) - n_leaked
        if n_near:
            others = "other" if n_near == 1 else "others"
            of_all = others if n_leaked else f"of the {self.n_test:,} test images"
            are = "is a near duplicate" if n_near == 1 else "are near duplicates"
            parts.append(f"{n_near:,} {of_all} {are} of training images")
        if within:
            of_all = "" if of_training else f"of the {self.n_test:,} test images "
            parts.append(f"{len(within):,} {of_all}are near duplicates of one another")
        more = f"{', and '.join(parts)}: such images are easier than new ones." if parts else ""
        claim = " ".join(text for text in (lead, more) if text)
        claim, figures = self._without_them(claim)
        claim = f"{claim} {self._way_out()}"
        if n_leaked:
            return Finding("leak", "bad", claim, figures, headline=lead)
        return Finding("duplicates", "caution", claim, figures)

    def of_groups(self) -> Finding | None:
        """Returns the finding that most test images come in groups; None if not, or if there are too few to say."""
        if self.n_test < _FEWEST_FOR_GROUPS or self.n_grouped < _MOSTLY * self.n_test:
            return None
        claim = (
            f"{self.n_grouped:,} of the {self.n_test:,} test images have another test image that the network sees much "
            "nearer than all but a few: they may be several pictures of the same things, as mirrored copies are. Then "
            "there are fewer independent images than the figures count, and all intervals are too narrow."
        )
        headline = "Most test images seem to show the same things as others: all this rests on fewer than are counted."
        return Finding("groups", "caution", claim, headline=headline)

    def _without_them(self, claim: str) -> tuple[str, str]:
        """Returns a claim with the accuracy on the other images, and the interval of that."""
        if self.without is None:
            return f"{claim} No other test images are left to measure the accuracy on.", ""
        n_training = len(self.of_training)
        n_within = self.n_test - self.without.n - n_training  # those that are in both are counted once
        left_out = [*([f"these {n_training:,}"] if n_training else []), *([f"{n_within:,}"] if n_within else [])]
        of_them = "" if not n_within else " of the others" if n_training else " of these"
        kept = ", so that one of each group stays," if n_within else ","
        of_original = "" if self.original_without is None else f" (of the original's, {self.original_without:.1%})"
        claim += (
            f" Without {' and '.join(left_out)}{of_them}{kept} {self.without.value:.1%} of the other "
            f"{counted(self.without.n, 'answer')} {'is' if self.without.n == 1 else 'are'} correct{of_original}; "
            f"of all {self.n_test:,}, {self.accuracy:.1%}."
        )
        return claim, f"95% interval without them {self.without.low:.1%} to {self.without.high:.1%}"

    def _not_found(self) -> str:
        """Says what such a comparison does not find."""
        kinds = "Copies that are cropped, coloured" if self.with_mirrored else "Copies that are mirrored, cropped"
        return f"{kinds} or otherwise edited, and several pictures of one thing, are not found in this way."

    def _way_out(self) -> str:
        """Says how to list the pairs and what to do with them."""
        groups = any(not twin.is_training for twin in self.twins)
        keep_one = ", all but one of each group of test images that are alike," if groups else ""
        lists = "" if self.audit is None else f" '{self.audit}' lists all pairs."
        return f"Take them out of the test images{keep_one} and evaluate again.{lists}"


def find_duplicates(
    model: PrototypeModel,
    store: EmbeddingStore,
    train: EmbeddingStore | None,
    decisions: Decisions,
    why_no_training: str = "",
    *,
    audit: str | None,
    n_leaked: int = 0,
    mirrored: np.ndarray | None = None,
) -> Duplicates | None:
    """Looks for near duplicates as the audit does, in the space in which the model compares images.

    Args:
        model: The model.
        store: Embeddings of the test data.
        train: Embeddings of its training data; None compares the test images with one another.
        decisions: Decisions on the test data.
        why_no_training: Why there are no training data, and the way out.
        audit: The command that lists all pairs; None where there is none.
        n_leaked: Number of test images that are training images of the model, by their contents.
        mirrored: Embeddings of the test images, mirrored [N, D]; None if they were not embedded.

    Returns:
        None if there are too few images to say what a usual distance is.
    """
    accuracy = 1 - float(decisions.wrong.double().mean())
    too_many = f"as a report compares at most {_MOST_IMAGES:,} images"
    too_many += "" if audit is None else f": '{audit}' compares any number"
    if len(store) > _MOST_IMAGES:
        note = f"near duplicates were not looked for among {len(store):,} test images, {too_many}"
        return Duplicates([], False, len(store), accuracy, None, audit, note)
    if train is not None and len(train) + len(store) > _MOST_IMAGES:
        why_no_training = f"with the test images they are {len(train) + len(store):,} images, {too_many}"
        train = None
    note = "" if train is not None else f"test images were not compared with training images: {why_no_training}"
    n_train = 0 if train is None else len(train)
    if n_train + len(store) < _FEWEST_IMAGES:
        return None
    points = np.concatenate([_points(model, of.embeddings) for of in (train, store) if of is not None])
    around = look_around(points)
    pairs = [(pair, False) for pair in around.pairs]
    if mirrored is not None:
        own = np.arange(n_train, len(points))
        pairs += [(pair, True) for pair in look_for(_points(model, mirrored), points, around.usual, own)]
    twins = _twins_among(pairs, n_train)
    is_kept = _one_of_each_group(twins, len(store))
    correct = ~decisions.wrong.numpy()
    without = share(int(correct[is_kept].sum()), int(is_kept.sum())) if is_kept.any() else None
    original_without = None
    if decisions.original is not None and is_kept.any():
        original_without = float((decisions.original == decisions.labels).numpy()[is_kept].mean())
    return Duplicates(
        twins, train is not None, len(store), accuracy, without, audit, note, original_without, n_leaked,
        mirrored is not None, int(in_groups(points[n_train:]).sum()),
    )  # fmt: skip


def _twins_among(pairs: list[tuple[Pair, bool]], n_train: int) -> list[Twin]:
    """Returns the test images among pairs, those with a training image first.

    Args:
        pairs: Pairs of rows, the training images' first, and whether one of both is mirrored.
        n_train: Number of training images.
    """
    twins, seen = [], set()
    for pair, is_mirrored in pairs:
        first, second = sorted((pair.first, pair.second))
        if second < n_train or (first, second) in seen:
            continue  # both are training images; or two test images are each other's mirror image
        seen.add((first, second))
        is_training = first < n_train
        row, other = (second, first) if is_training else (first, second)
        other = other if is_training else other - n_train
        twins.append(Twin(row - n_train, other, is_training, pair.exact, is_mirrored))
    return sorted(twins, key=lambda twin: not twin.is_training)


def _one_of_each_group(twins: list[Twin], n_test: int) -> np.ndarray:
    """Returns which test images are neither copies of training images nor of an earlier test image, bool [n_test]."""
    group = np.arange(n_test)  # the first image of the group that each belongs to

    def first_of(row: int) -> int:
        while group[row] != row:
            row = int(group[row])
        return row

    is_kept = np.ones(n_test, bool)
    for twin in twins:
        if twin.is_training:
            is_kept[twin.row] = False
        else:
            first, second = sorted((first_of(twin.row), first_of(twin.other)))
            group[second] = first
    seen: set[int] = set()
    for row in np.flatnonzero(is_kept).tolist():
        is_kept[row] = first_of(row) not in seen
        seen.add(first_of(row))
    return is_kept


def mirrored_embeddings(model: PrototypeModel, batches: Batches, store: EmbeddingStore) -> np.ndarray | None:
    """Embeds the test images mirrored, in the order of their embeddings.

    Args:
        model: The model.
        batches: The test data.
        store: Embeddings of them.

    Returns:
        [N, D]; None if they are no images, cannot be read again, or are more than 500, for which a report would wait.
    """
    if not batches.can_fetch or len(store) > _MOST_MIRRORED:
        return None
    embedded = []
    for start in range(0, len(store), _MIRRORED_TOGETHER):
        inputs = batches.fetch(store.indices[start : start + _MIRRORED_TOGETHER])
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            return None
        embedded.append(model.embed(inputs.flip(3)).float().cpu().numpy())
    return np.concatenate(embedded) if embedded else None


@torch.no_grad()
def _points(model: PrototypeModel, embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings in the space of the similarity [N, D']; of a model of patches, their means."""
    z = torch.from_numpy(np.asarray(embeddings, dtype=np.float32)).to(model.device)
    points: np.ndarray = model.similarity.project(model.patches_of(z).mean(1)).float().cpu().numpy()
    return points


def duplicates(material: "Material") -> dict[str, Any] | None:
    """Returns the values of the section, with a picture of both images of each pair; None if there are no pairs."""
    found = material.duplicates
    finding = None if found is None else found.finding()
    if found is None or finding is None or not found.twins:
        return None
    shown = found.twins[:_PAIRS_SHOWN]
    names_shown = {entry["row"]: entry["name"] for entry in material.examples.entries}
    pairs = [
        {
            "how": twin.how,
            "images": [
                _test_image(material, "test image", twin.row, names_shown),
                _training_image(material, twin.other)
                if twin.is_training
                else _test_image(material, "another test image", twin.other, names_shown),
            ],
        }
        for twin in shown
    ]
    n_training = sum(twin.is_training for twin in found.twins)
    return {
        "finding": finding,
        "pairs": pairs,
        "n_pairs": len(found.twins),
        "n_training": n_training,
        "note": found.note,
        "with_mirrored": found.with_mirrored,
    }


def _test_image(material: "Material", kind: str, row: int, names_shown: Mapping[int, str]) -> dict[str, Any]:
    """Returns what the template needs of a test image; ``row`` is None if the page does not show it on its own."""
    decisions, names = material.decisions, material.model.class_names
    index, class_name = int(material.store.indices[row]), names[int(decisions.labels[row])]
    name = names_shown.get(row) or _short_name(material.test, index, class_name)
    return {
        "kind": kind,
        "name": name,
        "source": _picture_of(material, material.test, index),
        "row": row if row in names_shown else None,
        "predicted": names[int(decisions.predicted[row])],
        "wrong": bool(decisions.wrong[row]),
    }


def _training_image(material: "Material", row: int) -> dict[str, Any]:
    """Returns what the template needs of a training image."""
    data, store = material.train, material.train_store
    assert data is not None  # else no training images were compared
    assert store is not None
    labels = aligned_labels(store, material.model, "training")
    index, class_name = int(store.indices[row]), material.model.class_names[int(labels[row])]
    return {
        "kind": "training image",
        "name": _short_name(data, index, class_name),
        "source": _picture_of(material, data, index),
        "row": None,
        "predicted": None,
        "wrong": False,
    }


def _short_name(data: Batches, index: int, class_name: str) -> str:
    """Returns an image's name: its file and the folder that it is in, or its number and class."""
    name = image_names([data.name_of(index)], [index], [class_name])[0]
    return "/".join(PurePath(name).parts[-2:])


def _picture_of(material: "Material", data: Batches, index: int) -> str | None:
    """Returns an image's picture; None if it cannot be read again."""
    inputs = data.fetch([index]) if data.can_fetch else None
    pixels = material.model.to_pixels(inputs) if isinstance(inputs, Tensor) else None
    return None if pixels is None else picture(pixels[0].numpy())
