"""A method for each edit: ``session.drop(3)`` for ``session.do(Drop((3,)))``."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.editing.edits import Add, Describe, Drop, Edit, Merge, Move, Pin, Rename, Show, Split
from lookalike.editing.history import Entry


class Shorthands(ABC):
    """The methods of a session that make one edit each."""

    @abstractmethod
    def do(self, edit: Edit, note: str = "") -> Entry:
        """Makes an edit."""

    @abstractmethod
    def vector_of(self, image: Any) -> tuple[float, ...]:
        """Returns the embedding of one image, in any form that ``predict`` takes."""

    def rename(self, prototype: int, title: str | None, note: str = "") -> Entry:
        """Gives a prototype a name; None removes it."""
        return self.do(Rename(prototype, title), note)

    def describe(self, prototype: int, description: str, note: str = "") -> Entry:
        """Gives a prototype a description."""
        return self.do(Describe(prototype, description), note)

    def pin(self, prototype: int, pinned: bool = True, note: str = "") -> Entry:
        """Protects a prototype from edits that remove, replace or move it; False allows them again."""
        return self.do(Pin(prototype, checks.flag("pinned", pinned)), note)

    def drop(self, *prototypes: int, note: str = "") -> Entry:
        """Removes prototypes."""
        return self.do(Drop(prototypes), note)

    def merge(self, *prototypes: int, note: str = "") -> Entry:
        """Replaces prototypes of one class by the mean of the training samples behind them."""
        return self.do(Merge(prototypes), note)

    def split(self, prototype: int, n: int = 2, note: str = "") -> Entry:
        """Replaces a prototype by ``n`` that are clustered from the training samples behind it."""
        return self.do(Split(prototype, n), note)

    def move(self, prototype: int, class_name: str, note: str = "") -> Entry:
        """Moves a prototype to another class."""
        return self.do(Move(prototype, class_name), note)

    def show(self, prototype: int, sample: int | None, note: str = "") -> Entry:
        """Shows a prototype by another training sample; None by the nearest one again."""
        return self.do(Show(prototype, sample), note)

    def add(
        self,
        class_name: str,
        *,
        image: Any = None,
        samples: Sequence[int] | None = None,
        title: str | None = None,
        note: str = "",
    ) -> Entry:
        """Adds a prototype to a class.

        Args:
            class_name: The class.
            image: An image in any form that ``predict`` takes; its embedding becomes the prototype.
            samples: Numbers of training samples; their mean becomes the prototype. Samples that edits are judged
                on are left out, and the entry says how many.
            title: A name for it.
            note: Why, for the log.
        """
        if (image is None) == (samples is None):
            raise LookalikeError("to add a prototype takes either an image or training samples")
        vector = None if image is None else self.vector_of(image)
        return self.do(Add(class_name, vector, None if samples is None else tuple(samples), title), note)
