"""The state that edits change: vectors, classes and annotations of the prototypes. Nothing here knows of images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.records import shown
from lookalike.model.annotations import Annotations
from lookalike.model.prototypes import Prototypes


@dataclass(frozen=True, eq=False)
class State:
    """P prototypes as edits see them. A state never changes; an edit returns another one.

    Attributes:
        vectors: [P, D], on the CPU.
        labels: Classes [P].
        keys: A number that depends on each prototype's vector and class alone [P]; equal keys, equal prototypes.
        annotations: Names, descriptions, pins and regions.
        shown: Number of the training sample that shows each prototype first, or None for the nearest one [P].
        class_names: K names.
        erased: How far each prototype was moved by taking parts out of its images [P, D].
    """

    vectors: Tensor
    labels: Tensor
    keys: Tensor
    annotations: Annotations
    shown: tuple[int | None, ...]
    class_names: tuple[str, ...]
    erased: Tensor

    @classmethod
    def of(cls, prototypes: Prototypes, annotations: Annotations | None) -> "State":
        """Returns the state of a model's prototypes."""
        vectors, labels = prototypes.vectors.detach().cpu().clone(), prototypes.labels.cpu().clone()
        n = len(vectors)
        initial_annotations = annotations or Annotations.empty(n)
        return cls(
            vectors,
            labels,
            keys_of(vectors, labels),
            initial_annotations,
            (None,) * n,
            tuple(prototypes.class_names),
            torch.zeros_like(vectors),
        )

    def __len__(self) -> int:
        return len(self.vectors)

    def class_number(self, name: str) -> int:
        """Returns the number of a class.

        Raises:
            LookalikeError: If no class has that name.
        """
        if name not in self.class_names:
            raise LookalikeError(f"no class is called {shown(name)}; there are: {', '.join(self.class_names[:20])}")
        return self.class_names.index(name)

    def of_class(self, k: int) -> Tensor:
        """Returns the positions of a class's prototypes."""
        return torch.nonzero(self.labels == k)[:, 0]

    def describe(self, position: int) -> str:
        """Returns a prototype in words, such as ``prototype 3 (cat, 'sitting')``."""
        name = self.annotations.names[position]
        of_class = self.class_names[int(self.labels[position])]
        return f"prototype {position} ({of_class}{'' if name is None else f', {name!r}'})"

    def annotated(self, position: int, **said: object) -> "State":
        """Returns a state in which one prototype has other ``names``, ``descriptions``, ``pinned`` or ``regions``."""
        changed: dict[str, Any] = {
            field: tuple(value if j == position else old for j, old in enumerate(getattr(self.annotations, field)))
            for field, value in said.items()
        }
        return replace(self, annotations=replace(self.annotations, **changed))

    def without(self, positions: Sequence[int]) -> "State":
        """Returns a state without some prototypes.

        Raises:
            LookalikeError: If a class would lose its last prototype, as a model decides between its classes only.
        """
        gone = set(positions)
        remaining_positions = [j for j in range(len(self)) if j not in gone]
        lost = set(self.labels[list(gone)].tolist()) - set(self.labels[remaining_positions].tolist())
        if lost:
            raise LookalikeError(
                f"class {self.class_names[min(lost)]!r} would have no prototypes left; add another to it first"
            )
        return self.keeping(remaining_positions)

    def keeping(self, kept: list[int]) -> "State":
        """Returns a state of some of the prototypes; a class may have none, which the caller puts right."""
        annotations = self.annotations
        return replace(
            self,
            vectors=self.vectors[kept],
            labels=self.labels[kept],
            keys=self.keys[kept],
            erased=self.erased[kept],
            annotations=Annotations(
                tuple(annotations.names[j] for j in kept),
                tuple(annotations.descriptions[j] for j in kept),
                tuple(annotations.pinned[j] for j in kept),
                tuple(annotations.regions[j] for j in kept),
            ),
            shown=tuple(self.shown[j] for j in kept),
        )

    def joined_by(
        self, vectors: Tensor, label: int, name: str | None = None, description: str = "", erased: Tensor | None = None
    ) -> "State":
        """Returns a state with more prototypes [n, D] of one class, after the others.

        Args:
            vectors: The prototypes.
            label: Their class.
            name: Their name; several are numbered.
            description: Their description.
            erased: How far taking parts out has moved them already [D]; None is not at all.

        Raises:
            LookalikeError: If one of them is there already, or is not finite.
        """
        vectors = vectors.to(self.vectors.dtype)
        if not bool(vectors.isfinite().all()):
            raise LookalikeError("a new prototype has values that are not finite")
        labels = torch.full((len(vectors),), label, dtype=torch.int64)
        keys = keys_of(vectors, labels)
        equal = torch.nonzero(torch.isin(self.keys, keys))[:, 0]
        if len(equal):
            raise LookalikeError(f"{self.describe(int(equal[0]))} is the same prototype; there would be two of it")
        n, annotations = len(vectors), self.annotations
        moved = torch.zeros_like(vectors) if erased is None else erased.to(vectors.dtype).expand_as(vectors)
        return replace(
            self,
            vectors=torch.cat([self.vectors, vectors]),
            labels=torch.cat([self.labels, labels]),
            keys=torch.cat([self.keys, keys]),
            erased=torch.cat([self.erased, moved]),
            annotations=Annotations(
                (*annotations.names, *(name if n == 1 or name is None else f"{name} {i + 1}" for i in range(n))),
                (*annotations.descriptions, *(description,) * n),
                (*annotations.pinned, *(False,) * n),
                (*annotations.regions, *(None,) * n),
            ),
            shown=(*self.shown, *(None,) * n),
        )

    def with_part_erased(self, position: int, vector: Tensor) -> "State":
        """Returns a state in which taking a part out has moved one prototype to another vector [D]."""
        erased = self.erased.clone()
        erased[position] += vector.to(erased.dtype) - self.vectors[position]
        return replace(self.with_row(position, vector, int(self.labels[position])), erased=erased)

    def with_row(self, position: int, vector: Tensor, label: int) -> "State":
        """Returns a state in which one prototype has another vector [D] or class; its number stays."""
        vectors, labels, keys = self.vectors.clone(), self.labels.clone(), self.keys.clone()
        vectors[position], labels[position] = vector.to(vectors.dtype), label
        if not bool(vectors[position].isfinite().all()):
            raise LookalikeError(f"{self.describe(position)} would have values that are not finite")
        keys[position] = keys_of(vectors[position : position + 1], labels[position : position + 1])[0]
        same_vector = [j for j in torch.nonzero(keys == keys[position])[:, 0].tolist() if j != position]
        if same_vector:
            raise LookalikeError(f"{self.describe(same_vector[0])} is the same prototype; there would be two of it")
        return replace(self, vectors=vectors, labels=labels, keys=keys)


def keys_of(vectors: Tensor, labels: Tensor) -> Tensor:
    """Returns a number for each prototype that depends on its vector and class alone: 63 bits of a hash [P]."""
    rows, classes = vectors.contiguous().numpy(), labels.tolist()
    digests = [
        hashlib.blake2b(row.tobytes() + k.to_bytes(8, "little"), digest_size=8).digest()
        for row, k in zip(rows, classes, strict=True)
    ]
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)


def touched_classes(old: State, new: State) -> list[int]:
    """Returns the classes whose prototypes, or what shows them, differ between two states."""
    differing = set(old.labels[~torch.isin(old.keys, new.keys)].tolist())
    differing |= set(new.labels[~torch.isin(new.keys, old.keys)].tolist())
    shown_before = dict(zip(old.keys.tolist(), old.shown, strict=True))
    for key, label, sample in zip(new.keys.tolist(), new.labels.tolist(), new.shown, strict=True):
        if shown_before.get(key) != sample:
            differing.add(label)
    return sorted(differing)
