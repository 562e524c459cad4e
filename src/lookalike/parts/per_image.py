"""Arguments that are given once or once per image, pictures to draw on, and the one size of all images."""

import numbers
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError

T = TypeVar("T")


def drawable(picture: T | None) -> T:
    """Returns a picture to draw on.

    Raises:
        LookalikeError: If there is none.
    """
    if picture is None:
        raise LookalikeError("there is nothing to draw: the value range of the images is not known")
    return picture


def one_size(sizes: set[tuple[int, int]]) -> tuple[int, int]:
    """Returns the height and the width of images that are all of one size.

    Raises:
        LookalikeError: If they are of several sizes.
    """
    if len(sizes) > 1:
        listed = ", ".join(f"{height}×{width}" for height, width in sorted(sizes))
        raise LookalikeError(f"the images are of several sizes ({listed}): take those of each size alone")
    return next(iter(sizes))


@dataclass(frozen=True)
class PerImage:
    """Checked numbers of classes or prototypes.

    Attributes:
        name: Name of the argument.
        numbers: One for all images [], or one for each [N]; None if none were given.
    """

    name: str
    numbers: Tensor | None

    @classmethod
    def of(cls, name: str, given: Any, count: int, what: str = "class") -> "PerImage":
        """Checks what a user gave: whole numbers from 0 to ``count`` − 1.

        Raises:
            LookalikeError: If it is something else.
        """
        if given is None:
            return cls(name, None)
        is_one = isinstance(given, numbers.Number) or (hasattr(given, "ndim") and given.ndim == 0)
        return cls(name, checks.class_indices(name, given, count, () if is_one else ("N",), what).cpu())

    def of_rows(self, first: int, n: int) -> Tensor | None:
        """Returns the numbers of a batch of n images [n], the first of which has the given number.

        Raises:
            LookalikeError: If there are fewer numbers than images so far.
        """
        if self.numbers is None:
            return None
        if self.numbers.ndim == 0:
            return self.numbers.expand(n)
        if len(self.numbers) < first + n:
            raise LookalikeError(f"there are at least {first + n} images and {self.name}s for {len(self.numbers)}")
        return self.numbers[first : first + n]

    def check_count(self, n: int) -> None:
        """Checks that there are as many numbers as images.

        Raises:
            LookalikeError: If there are not.
        """
        if self.numbers is not None and self.numbers.ndim and len(self.numbers) != n:
            raise LookalikeError(f"there are {n} images and {self.name}s for {len(self.numbers)}")
