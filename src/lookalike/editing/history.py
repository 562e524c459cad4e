"""The history of a model's edits: every state that there was, and how each came from another.

States are never removed. Undo and redo move the head; an edit after an undo starts a branch.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.records import from_json
from lookalike.editing.edits import Edit, edit_from_dict
from lookalike.editing.state import State
from lookalike.model.prototypes import Prototypes


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A state with the training data and images behind each prototype.

    Attributes:
        state: The state.
        prototypes: Its prototypes, with counts, purity and nearest samples.
        images: Their images, uint8 [P, M, H, W, C], or None.
    """

    state: State
    prototypes: Prototypes
    images: Tensor | None


@dataclass(frozen=True)
class Entry:
    """One state in the history.

    Attributes:
        number: Its number; 0 is the model before all edits.
        parent: Number of the state that it came from; −1 for the first.
        edit: The edit, as ``Edit.to_dict`` gives it; None for the first.
        sentence: The edit in words.
        who: Who made it.
        when: When, as ISO 8601 in UTC.
        note: Why.
        effect: What it did, as ``Effect.to_dict`` gives it; None if it was not measured.
    """

    number: int
    parent: int
    edit: dict[str, Any] | None = None
    sentence: str = ""
    who: str = ""
    when: str = ""
    note: str = ""
    effect: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        first = self.number == 0
        if self.number < 0 or not (-1 if first else 0) <= self.parent < self.number or first != (self.edit is None):
            raise LookalikeError(f"edit {self.number} of parent {self.parent} does not fit the history")

    def to_edit(self) -> Edit:
        """Returns the edit."""
        return edit_from_dict(self.edit, f"edit {self.number}")


@dataclass(frozen=True)
class Opening:
    """One look at the test part.

    Attributes:
        number: The state that was measured.
        who: Who looked.
        when: When, as ISO 8601 in UTC.
        note: Why.
        effect: Figures of the first state and of this one, as ``Effect.to_dict`` gives them.
    """

    number: int
    who: str
    when: str
    note: str
    effect: dict[str, Any]


@dataclass(frozen=True)
class Correction:
    """A note that a training sample's label should be another; the data stay as they are.

    Attributes:
        sample: Number of the sample.
        name: Its file, or "".
        label: Its class in the data.
        corrected: The class that it should have.
        who: Who says so.
        when: When, as ISO 8601 in UTC.
    """

    sample: int
    name: str
    label: str
    corrected: str
    who: str
    when: str


@dataclass
class History:
    """All states of a model, and which one is the present one.

    Attributes:
        entries: The states, by number.
        head: Number of the present state.
        undone: Numbers of the states that redo goes to, the next one last.
        openings: Each look at the test part.
        corrections: Labels that should be others.
        revision: Grows with every change of any of these.
    """

    entries: list[Entry] = field(default_factory=lambda: [Entry(0, -1)])
    head: int = 0
    undone: list[int] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    revision: int = 0

    def __post_init__(self) -> None:
        numbers = [entry.number for entry in self.entries]
        if numbers != list(range(len(numbers))) or not numbers:
            raise LookalikeError("the edits are not numbered 0, 1, 2, …")
        named = [self.head, *self.undone, *(opening.number for opening in self.openings)]
        if any(not 0 <= number < len(numbers) for number in named) or self.revision < 0:
            raise LookalikeError("the history names an edit that it does not have")

    def add(self, entry: Entry) -> None:
        """Adds a state and makes it the present one."""
        self.entries.append(entry)
        self.head, self.undone = entry.number, []
        self.revision += 1

    def undo(self) -> None:
        """Goes back by one edit.

        Raises:
            LookalikeError: If the present state is the first one.
        """
        if self.head == 0:
            raise LookalikeError("there is no edit to undo")
        self.undone.append(self.head)
        self.head = self.entries[self.head].parent
        self.revision += 1

    def redo(self) -> None:
        """Goes forward again by one edit that was undone.

        Raises:
            LookalikeError: If none was undone.
        """
        if not self.undone:
            raise LookalikeError("there is no edit to redo")
        self.head = self.undone.pop()
        self.revision += 1

    def go_to(self, number: int) -> None:
        """Makes any state the present one.

        Raises:
            LookalikeError: If there is none of that number.
        """
        if not 0 <= number < len(self.entries):
            raise LookalikeError(f"there is no edit {number}; the last is {len(self.entries) - 1}")
        self.head, self.undone = number, []
        self.revision += 1

    def open_test(self, opening: Opening) -> None:
        """Notes a look at the test part."""
        self.openings.append(opening)
        self.revision += 1

    def correct(self, sample: int, correction: Correction | None) -> None:
        """Notes that a sample's label should be another; None withdraws an earlier note."""
        others = [earlier for earlier in self.corrections if earlier.sample != sample]
        self.corrections = others if correction is None else [*others, correction]
        self.revision += 1

    def path(self) -> list[Entry]:
        """Returns the edits that led from the first state to the present one."""
        entries, number = [], self.head
        while number > 0:
            entries.append(self.entries[number])
            number = self.entries[number].parent
        return entries[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "History":
        """Reads a history from plain values.

        Raises:
            LookalikeError: If they are none.
        """
        history: History = from_json(cls, values, "edits.json")
        for entry in history.entries[1:]:
            entry.to_edit()
        return history
