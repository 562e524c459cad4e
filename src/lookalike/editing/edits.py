"""The edits: each a small frozen record, and a pure function from one state to the next.

To add one, write a frozen dataclass with ``apply`` and ``sentence`` and register it under a name.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.records import from_json, shown
from lookalike._core.registry import Registry
from lookalike._core.wording import counted
from lookalike.editing.material import Material
from lookalike.editing.state import State
from lookalike.model.annotations import Region, check_description, check_name, check_region

EDITS: Registry[type["Edit"]] = Registry("edit")


@dataclass(frozen=True)
class Edit(ABC):
    """A change of a model's prototypes.

    Prototypes are numbered as the model numbers them when the edit is made; a dropped one moves those behind it up.

    Attributes:
        name: Name under which it is registered.
        needs_material: Whether it needs the training embeddings, for itself or to count again what is behind the
            prototypes.
    """

    name: ClassVar[str]
    needs_material: ClassVar[bool] = True

    @abstractmethod
    def apply(self, state: State, material: Material | None) -> State:
        """Returns the next state; the given one stays as it is.

        Raises:
            LookalikeError: If the edit is not possible.
        """

    def without_held_out(self, material: Material | None) -> "Edit":  # noqa: ARG002 - for edits that name samples
        """Returns the edit without the training samples that edits are judged on.

        Raises:
            LookalikeError: If it learns from no others.
        """
        return self

    @abstractmethod
    def sentence(self, state: State) -> str:
        """Returns what the edit does, in words; ``state`` is the one before it."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"edit": self.name, **asdict(self)}


def edit_from_dict(values: Any, where: str = "edit") -> Edit:
    """Reads an edit from plain values, as ``to_dict`` gives them.

    Raises:
        LookalikeError: If there is no such edit, or a value is unknown or of another type.
    """
    if not isinstance(values, dict) or not isinstance(values.get("edit"), str):
        raise LookalikeError(
            f"{where} must name an edit, as in {{'edit': 'drop', 'prototypes': [3]}}, not {shown(values)}"
        )
    kind = EDITS[values["edit"]]
    edit: Edit = from_json(kind, {key: value for key, value in values.items() if key != "edit"}, where)
    return edit


@EDITS.register("rename")
@dataclass(frozen=True)
class Rename(Edit):
    """Gives a prototype a name; None takes it away."""

    needs_material = False
    prototype: int
    title: str | None

    @override
    def apply(self, state: State, material: Material | None) -> State:
        return state.annotated(_one(state, self.prototype), names=check_name(self.title))

    @override
    def sentence(self, state: State) -> str:
        described = state.describe(self.prototype)
        return f"take the name from {described}" if self.title is None else f"call {described} {self.title!r}"


@EDITS.register("describe")
@dataclass(frozen=True)
class Describe(Edit):
    """Gives a prototype a description."""

    needs_material = False
    prototype: int
    description: str

    @override
    def apply(self, state: State, material: Material | None) -> State:
        return state.annotated(_one(state, self.prototype), descriptions=check_description(self.description))

    @override
    def sentence(self, state: State) -> str:
        return f"describe {state.describe(self.prototype)}"


@EDITS.register("pin")
@dataclass(frozen=True)
class Pin(Edit):
    """Protects a prototype from all edits but name, description and picture; False allows them again."""

    needs_material = False
    prototype: int
    pinned: bool = True

    @override
    def apply(self, state: State, material: Material | None) -> State:
        return state.annotated(_one(state, self.prototype), pinned=self.pinned)

    @override
    def sentence(self, state: State) -> str:
        return f"{'pin' if self.pinned else 'unpin'} {state.describe(self.prototype)}"


@EDITS.register("drop")
@dataclass(frozen=True)
class Drop(Edit):
    """Removes prototypes."""

    prototypes: tuple[int, ...]

    @override
    def apply(self, state: State, material: Material | None) -> State:
        return state.without(_free(state, self.prototypes))

    @override
    def sentence(self, state: State) -> str:
        return f"drop {_listed(state, self.prototypes)}"


@EDITS.register("merge")
@dataclass(frozen=True)
class Merge(Edit):
    """Replaces prototypes of one class by the mean of all training samples behind them.

    A part that was taken out of them stays out of the mean, by as much as it moved each of them.
    """

    prototypes: tuple[int, ...]

    @override
    def apply(self, state: State, material: Material | None) -> State:
        positions = _free(state, self.prototypes)
        if len(positions) < 2:
            raise LookalikeError("to merge takes two prototypes or more")
        label = _one_class(state, positions)
        needed = _needed(material)
        rows = needed.members(state, positions)
        erased = _erased_of(state, positions, needed)
        if len(rows):
            vector = needed.mean(rows) + erased
        else:
            points = needed.similarity.project(state.vectors[positions])
            vector = needed.similarity.unproject(points.mean(0, keepdim=True))[0]
        annotations = state.annotations
        name = next((annotations.names[j] for j in positions if annotations.names[j] is not None), None)
        description = "\n".join(annotations.descriptions[j] for j in positions if annotations.descriptions[j])
        return _others(state, positions).joined_by(vector[None], label, name, description, erased)

    @override
    def sentence(self, state: State) -> str:
        return f"merge {_listed(state, self.prototypes)}"


@EDITS.register("split")
@dataclass(frozen=True)
class Split(Edit):
    """Clusters the training samples behind a prototype, and replaces it by the ``n`` centres.

    A part that was taken out of the prototype stays out of the centres.
    """

    prototype: int
    n: int = 2

    @override
    def apply(self, state: State, material: Material | None) -> State:
        position = _free(state, (self.prototype,))[0]
        n = checks.whole_number("n", self.n, 2)
        needed = _needed(material)
        rows = needed.members(state, [position])
        if len(rows) < n:
            raise LookalikeError(
                f"{state.describe(position)} has {counted(len(rows), 'training sample')} to learn from; it cannot be "
                f"split into {n}"
            )
        centres = needed.split(rows, n)
        if len(centres) < 2:
            raise LookalikeError(f"all {len(rows)} training samples of {state.describe(position)} are equal")
        label, annotations = int(state.labels[position]), state.annotations
        name, description = annotations.names[position], annotations.descriptions[position]
        erased = state.erased[position]
        return _others(state, [position]).joined_by(centres + erased, label, name, description, erased)

    @override
    def sentence(self, state: State) -> str:
        return f"split {state.describe(self.prototype)} into {self.n}"


@EDITS.register("add")
@dataclass(frozen=True)
class Add(Edit):
    """Adds a prototype to a class: a vector, such as an image's embedding, or the mean of training samples.

    Samples that edits are judged on are left out of the mean; ``n_left_out`` says how many were.
    """

    class_name: str
    vector: tuple[float, ...] | None = None
    samples: tuple[int, ...] | None = None
    title: str | None = None
    description: str = ""
    n_left_out: int | None = None

    @override
    def without_held_out(self, material: Material | None) -> "Add":
        if material is None or not self.samples:
            return self
        usable_samples = tuple(sample for sample in self.samples if not material.is_held_out(sample))
        if not usable_samples:
            raise LookalikeError(
                f"{'sample' if len(self.samples) == 1 else 'samples'} {shown(list(self.samples))} of the training data "
                "judge edits, so no edit may learn from them; name others, or give validation=... to judge edits on"
            )
        n_left_out = len(self.samples) - len(usable_samples)
        return replace(self, samples=usable_samples, n_left_out=n_left_out) if n_left_out else self

    @override
    def apply(self, state: State, material: Material | None) -> State:
        label = state.class_number(self.class_name)
        if (self.vector is None) == (self.samples is None):
            raise LookalikeError("to add a prototype takes either a vector or training samples")
        if self.vector is not None:
            vector = torch.tensor(self.vector, dtype=state.vectors.dtype)
            if len(vector) != state.vectors.shape[1]:
                raise LookalikeError(
                    f"the vector has {len(vector)} dimensions; the model's have {state.vectors.shape[1]}"
                )
        else:
            needed = _needed(material)
            if not self.samples:
                raise LookalikeError("to add a prototype takes at least one training sample")
            samples = self.without_held_out(needed).samples or ()
            rows = [needed.row_of(sample) for sample in dict.fromkeys(samples)]
            vector = needed.mean(torch.tensor(rows).numpy())
        return state.joined_by(vector[None], label, check_name(self.title), check_description(self.description))

    @override
    def sentence(self, state: State) -> str:
        source = "an image" if self.samples is None else f"{counted(len(self.samples), 'training sample')}"
        left_out = f" (left out, because edits are judged on them: {self.n_left_out})" if self.n_left_out else ""
        return f"add a prototype of {self.class_name!r} from {source}{left_out}"


@EDITS.register("move")
@dataclass(frozen=True)
class Move(Edit):
    """Moves a prototype to another class."""

    prototype: int
    class_name: str

    @override
    def apply(self, state: State, material: Material | None) -> State:
        position = _free(state, (self.prototype,))[0]
        label = state.class_number(self.class_name)
        if label == int(state.labels[position]):
            raise LookalikeError(f"{state.describe(position)} is of class {self.class_name!r} already")
        state.without([position])  # refuses the last prototype of a class
        return state.with_row(position, state.vectors[position], label)

    @override
    def sentence(self, state: State) -> str:
        return f"move {state.describe(self.prototype)} to class {self.class_name!r}"


@EDITS.register("show")
@dataclass(frozen=True)
class Show(Edit):
    """Shows a prototype by another training sample; None by the nearest one again. No decision changes."""

    prototype: int
    sample: int | None

    @override
    def apply(self, state: State, material: Material | None) -> State:
        position = _one(state, self.prototype)
        if self.sample is not None:
            _needed(material).row_of(self.sample)
        return replace(state, shown=tuple(self.sample if j == position else old for j, old in enumerate(state.shown)))

    @override
    def sentence(self, state: State) -> str:
        description = "its nearest training sample" if self.sample is None else f"training sample {self.sample}"
        return f"show {state.describe(self.prototype)} by {description}"


@EDITS.register("restrict")
@dataclass(frozen=True)
class Restrict(Edit):
    """Restricts a prototype to a part of its image: it becomes the embedding of the image with the rest blanked.

    The session finds the vector; see ``EditSession.restrict``.
    """

    prototype: int
    region: Region
    vector: tuple[float, ...] | None = None

    @override
    def apply(self, state: State, material: Material | None) -> State:
        position = _free(state, (self.prototype,))[0]
        check_region(self.region)
        if self.vector is None or len(self.vector) != state.vectors.shape[1]:
            raise LookalikeError(f"to restrict {state.describe(position)} takes the embedding of that part")
        vector = torch.tensor(self.vector, dtype=state.vectors.dtype)
        return state.with_row(position, vector, int(state.labels[position])).annotated(position, regions=self.region)

    @override
    def sentence(self, state: State) -> str:
        shares = ", ".join(f"{share:.0%}" for share in self.region)
        return f"restrict {state.describe(self.prototype)} to a part of its image (left, top, right, bottom: {shares})"


@EDITS.register("erase")
@dataclass(frozen=True)
class Erase(Edit):
    """Takes a part out of the images behind prototypes, such as a mark or the background.

    The session finds the vectors; see ``EditSession.erase``.
    """

    prototypes: tuple[int, ...]
    region: Region
    side: Literal["inside", "outside", "background"] = "inside"
    vectors: tuple[tuple[float, ...], ...] | None = None

    @override
    def apply(self, state: State, material: Material | None) -> State:
        positions = _free(state, self.prototypes)
        check_region(self.region)
        vectors = self.vectors or ()
        if len(vectors) != len(positions) or any(len(vector) != state.vectors.shape[1] for vector in vectors):
            raise LookalikeError("to take a part out of prototypes takes the embedding of each without it")
        for position, vector in zip(positions, vectors, strict=True):
            values = torch.tensor(vector, dtype=state.vectors.dtype)
            state = state.with_part_erased(position, values)
        return state

    @override
    def sentence(self, state: State) -> str:
        shares = ", ".join(f"{share:.0%}" for share in self.region)
        if self.side == "background":
            return f"take the background out of {_listed(state, self.prototypes)}"
        where = "a part" if self.side == "inside" else "all but a part"
        return f"take {where} (left, top, right, bottom: {shares}) out of {_listed(state, self.prototypes)}"


def _one(state: State, position: int) -> int:
    """Checks a prototype's number."""
    return checks.whole_number("prototype", position, 0, len(state) - 1)


def _free(state: State, positions: tuple[int, ...]) -> list[int]:
    """Checks that there are such prototypes, each named once, and none of them pinned."""
    found = [_one(state, position) for position in positions]
    if not found or len(set(found)) < len(found):
        raise LookalikeError(f"prototypes must be named, each once, not {shown(list(positions))}")
    pinned = [position for position in found if state.annotations.pinned[position]]
    if pinned:
        raise LookalikeError(f"{state.describe(pinned[0])} is pinned; unpin it first")
    return found


def _one_class(state: State, positions: list[int]) -> int:
    """Returns the class of some prototypes, which must be of one."""
    labels = sorted(set(state.labels[positions].tolist()))
    if len(labels) > 1:
        names = " and ".join(repr(state.class_names[k]) for k in labels)
        raise LookalikeError(f"prototypes of {names} cannot be merged; move them to one class first")
    return int(labels[0])


def _erased_of(state: State, positions: list[int], material: Material) -> Tensor:
    """Returns how far taking parts out has moved some prototypes, on average over the samples behind them [D]."""
    counts = [len(material.members(state, [position])) for position in positions]
    weights = torch.tensor(counts if any(counts) else [1] * len(positions), dtype=state.erased.dtype)
    return weights / weights.sum() @ state.erased[positions]


def _others(state: State, positions: list[int]) -> State:
    return state.keeping([j for j in range(len(state)) if j not in positions])


def _listed(state: State, positions: tuple[int, ...]) -> str:
    return " and ".join(state.describe(position) for position in positions)


def _needed(material: Material | None) -> Material:
    if material is None:
        raise LookalikeError(NO_MATERIAL)
    return material


NO_MATERIAL = (
    "this edit needs the embeddings of the training data: give the data or their EmbeddingStore, as in "
    "sem.edit(train), on the command line --data DATA"
)
