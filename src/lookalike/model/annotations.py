"""What people have said about a model's prototypes: names, descriptions, pins, regions."""

from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.records import shown

Region = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the image's width and height

_LONGEST_NAME = 200  # characters
_LONGEST_DESCRIPTION = 10_000


@dataclass(frozen=True)
class Annotations:
    """What people have said about P prototypes.

    Attributes:
        names: A name for each prototype, or None [P].
        descriptions: A description of each prototype; "" for none [P].
        pinned: Whether each prototype is protected from edits [P].
        regions: The part of its image that each prototype is restricted to, or None for all of it [P].
    """

    names: tuple[str | None, ...]
    descriptions: tuple[str, ...]
    pinned: tuple[bool, ...]
    regions: tuple[Region | None, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.descriptions), len(self.pinned), len(self.regions)}
        if len(lengths) != 1:
            raise LookalikeError(f"annotations are of {' and '.join(map(str, sorted(lengths)))} prototypes")
        for name in self.names:
            check_name(name)
        for description in self.descriptions:
            check_description(description)
        for region in self.regions:
            check_region(region)

    def __len__(self) -> int:
        return len(self.names)

    def quoted(self, prototype: int) -> str:
        """Returns a prototype's name for a sentence, as ``", 'sitting'"``; empty if it has none."""
        name = self.names[prototype]
        return "" if name is None else f", '{visible(name)}'"

    @classmethod
    def empty(cls, n_prototypes: int) -> "Annotations":
        """Returns the annotations of prototypes about which nothing was said."""
        return cls((None,) * n_prototypes, ("",) * n_prototypes, (False,) * n_prototypes, (None,) * n_prototypes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said about any prototype."""
        return self == Annotations.empty(len(self))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def check_name(name: str | None) -> str | None:
    """Checks a prototype's name: one line of text, or None.

    Raises:
        LookalikeError: If it is no text, empty, too long or has line breaks.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise LookalikeError(
            f"a prototype's name is one line of 1 to {_LONGEST_NAME} printable characters, not {shown(name)}"
        )
    return name


def check_description(description: str) -> str:
    """Checks a prototype's description.

    Raises:
        LookalikeError: If it is no text, or too long.
    """
    if not isinstance(description, str):
        raise LookalikeError(f"a description is text, not {shown(description)}")
    if len(description) > _LONGEST_DESCRIPTION:
        raise LookalikeError(
            f"a description has at most {_LONGEST_DESCRIPTION:,} characters; this one has {len(description):,}"
        )
    return description


def check_region(region: Region | None) -> Region | None:
    """Checks a region: left < right and top < bottom, all within 0 and 1.

    Raises:
        LookalikeError: If it is no such region.
    """
    if region is None:
        return None
    is_of_numbers = isinstance(region, tuple | list) and all(
        isinstance(share, Real) and not isinstance(share, bool) for share in region
    )
    if (
        not is_of_numbers
        or len(region) != 4
        or not (0 <= region[0] < region[2] <= 1 and 0 <= region[1] < region[3] <= 1)
    ):
        raise LookalikeError(
            f"a region is left, top, right, bottom as shares of the image, with left < right and top < bottom, "
            f"not {shown(region)}"
        )
    return region
