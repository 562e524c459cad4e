"""What an edit does: figures before and after it, on the same samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.files import at_least_single, read_rows
from lookalike._core.intervals import Share, paired_difference, share
from lookalike._core.wording import counted
from lookalike.editing.state import State, touched_classes
from lookalike.model.classifier import best_of_classes
from lookalike.model.similarity import Similarity

_CELLS = 20_000_000  # samples × dimensions at a time: 80 MB of float32


@dataclass(frozen=True)
class ClassEffect:
    """What an edit does to one class.

    Attributes:
        class_name: The class.
        before: Accuracy on the class's samples before the edit.
        after: The same after it.
        difference: After minus before, with its interval.
    """

    class_name: str
    before: Share
    after: Share
    difference: Share


@dataclass(frozen=True)
class Change:
    """A sample whose prediction an edit changes.

    Attributes:
        sample: Its number in the data.
        true: Its class.
        before: Class predicted before the edit.
        after: Class predicted after it.
    """

    sample: int
    true: str
    before: str
    after: str


@dataclass(frozen=True)
class Effect:
    """What an edit does.

    Attributes:
        part: The samples that it was measured on: ``"validation"``, ``"held-out training"`` or ``"test"``.
        n: Number of these samples.
        accuracy: Accuracy before and after, and after minus before.
        agreement: The same for the agreement with the black box; None if its predictions are not known.
        classes: The classes whose accuracy changes, the largest loss first.
        changes: Samples whose prediction changes; the losses first.
        empty: Numbers of the prototypes that no training sample uses, after the edit.
    """

    part: str
    n: int
    accuracy: tuple[Share, Share, Share]
    agreement: tuple[Share, Share, Share] | None
    classes: tuple[ClassEffect, ...]
    changes: tuple[Change, ...]
    empty: tuple[int, ...]

    @property
    def gained(self) -> int:
        """Number of samples that are right only after the edit."""
        return sum(change.after == change.true for change in self.changes)

    @property
    def lost(self) -> int:
        """Number of samples that were right only before the edit."""
        return sum(change.before == change.true for change in self.changes)

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """Returns plain JSON values.

        Args:
            most: Largest number of changed samples to list; ``n_changes`` counts all.
        """
        values = asdict(self)
        values["changes"] = values["changes"][:most]
        return {**values, "n_changes": len(self.changes), "gained": self.gained, "lost": self.lost}

    def sentence(self) -> str:
        """Returns the effect in one line."""
        before, after, difference = self.accuracy
        if not self.changes:
            moved = "no prediction changes"
        else:
            moved = f"{len(self.changes)} predictions change ({self.gained} now right, {self.lost} now wrong)"
        empty = f"; {counted(len(self.empty), 'prototype')} without images" if self.empty else ""
        return (
            f"accuracy {before.value:.2%} → {after.value:.2%} ({difference.value * 100:+.2f} points, 95% "
            f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f}) "
            f"on {counted(self.n, f'{self.part} image')}; {moved}{empty}"
        )


class Judge:
    """Predicts the same samples state by state; only touched classes are scored again.

    Args:
        part: Name of the part of the data.
        embeddings: [N, D].
        labels: Classes [N].
        indices: Numbers of the samples [N].
        predictions: What the black box predicts [N], or None.
        similarity: The model's, on the CPU.
    """

    def __init__(
        self,
        part: str,
        embeddings: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        predictions: np.ndarray | None,
        similarity: Similarity,
    ) -> None:
        if not len(labels):
            raise LookalikeError(f"there are no {part} samples to judge edits on")
        self.part = part
        self.embeddings, self.indices, self.similarity = embeddings, indices, similarity
        self.labels = torch.from_numpy(np.asarray(labels))
        self.black_box = None if predictions is None else torch.from_numpy(np.asarray(predictions))
        self._state: State | None = None
        self._scores = torch.zeros(0, dtype=torch.float32)

    @torch.no_grad()
    def predict(self, state: State) -> Tensor:
        """Returns the predicted classes [N] of a state."""
        n_classes = len(state.class_names)
        if self._state is None:
            self._scores = torch.full((len(self.labels), n_classes), -torch.inf, dtype=torch.float32)
            touched: Sequence[int] = range(n_classes)
        else:
            touched = touched_classes(self._state, state)
        positions = torch.nonzero(torch.isin(state.labels, torch.tensor(list(touched), dtype=torch.int64)))[:, 0]
        if len(positions):
            number = torch.full((n_classes,), -1)
            number[list(touched)] = torch.arange(len(touched))
            labels, vectors = number[state.labels[positions]], state.vectors[positions]
            step = max(256, _CELLS // max(self.embeddings.shape[1], len(positions)))
            for start in range(0, len(self.labels), step):
                rows = np.arange(start, min(start + step, len(self.labels)))
                z = torch.from_numpy(read_rows(self.embeddings, rows, at_least_single(self.embeddings.dtype)))
                similarities = self.similarity(z, vectors)
                best = best_of_classes(similarities, labels, len(touched))
                self._scores[start : start + len(rows), list(touched)] = best.to(self._scores.dtype)
        self._state = state
        return self._scores.argmax(1)

    def effect(self, before: Tensor, after: Tensor, state: State, empty: Sequence[int] = ()) -> Effect:
        """Compares the predictions [N] before and after an edit.

        Args:
            before: Predicted classes before the edit.
            after: The same after it.
            state: The state after it.
            empty: Prototypes without training samples, after it.
        """
        names, labels = state.class_names, self.labels
        right_before, right_after = before == labels, after == labels
        changed = torch.nonzero(before != after)[:, 0]
        changed = changed[(right_after[changed].int() - right_before[changed].int()).argsort(stable=True)]
        classes = []
        for k in sorted(set(labels[changed].tolist())):
            of_class = labels == k
            first, second, difference = _compare(right_before[of_class], right_after[of_class])
            classes.append(ClassEffect(names[k], first, second, difference))
        return Effect(
            part=self.part,
            n=len(labels),
            accuracy=_compare(right_before, right_after),
            agreement=None if self.black_box is None else _compare(before == self.black_box, after == self.black_box),
            classes=tuple(sorted(classes, key=lambda item: item.difference.value)),
            changes=tuple(
                Change(int(self.indices[i]), names[int(labels[i])], names[int(before[i])], names[int(after[i])])
                for i in changed.tolist()
            ),
            empty=tuple(empty),
        )


def _compare(before: Tensor, after: Tensor) -> tuple[Share, Share, Share]:
    """Returns two shares of the same samples, and the second minus the first."""
    n = len(before)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return share(int(before.sum()), n), share(int(after.sum()), n), paired_difference(gained, lost, n)
