"""Registries: objects that users choose by name, such as similarities, clusterers and data sets."""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from lookalike._core.errors import LookalikeError
from lookalike._core.wording import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects of one kind, filled by a decorator.

    Args:
        kind: Name of the kind in messages, in the singular.

    Example:
        >>> colours = Registry("colour")
        >>> @colours.register("red")
        ... def red() -> str:
        ...     return "#f00"
        >>> colours["red"]()
        '#f00'
        >>> colours["rad"]
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: no colour is called 'rad'; did you mean 'red'? There are: red
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers an object under ``name``. A class gets it as its attribute ``name``.

        So what a saved folder says of a class is what it is found by later.

        Raises:
            LookalikeError: If the name is registered already, or the class has another.
        """
        if name in self._members:
            raise LookalikeError(f"the {self.kind} {name!r} is registered already")

        def register_member(member: T) -> T:
            if isinstance(member, type):
                if member in self._members.values():
                    raise LookalikeError(f"{member.__name__} is registered already, as {vars(member)['name']!r}")
                member.name = name  # type: ignore[attr-defined]
            self._members[name] = member
            return member

        return register_member

    def names(self, pattern: str = "*") -> list[str]:
        """Returns the registered names that match a shell pattern, in order of registration."""
        return [name for name in self._members if fnmatch.fnmatchcase(name, pattern)]

    def __getitem__(self, name: str) -> T:
        if not isinstance(name, str):
            raise LookalikeError(f"no {self.kind} is called {name!r}; there are: {', '.join(self._members)}")
        if name in self._members:
            return self._members[name]
        similar = did_you_mean(name, self._members)
        hint = f"{similar} There are" if similar else "; there are"
        raise LookalikeError(f"no {self.kind} is called {name!r}{hint}: {', '.join(self._members)}")

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
