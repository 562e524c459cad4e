"""What the package raises and warns with."""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lookalike._core.names import visible

_FROM_WORKER = re.compile(
    r"\ACaught \w+ in DataLoader worker process .*\n(?:\w+\.)*(?:Lookalike|BrokenImage)Error: ", re.S
)
_BROKEN_IMAGE = re.compile(r"cannot read the image (?P<path>'[^\n]*'|\"[^\n]*\"): (?P<reason>[^\n]*)")


class LookalikeError(ValueError):
    """A mistake that the caller can mend: the text names the thing, the value and the way out.

    torch raises an error of a loader's worker process again as one of the same class whose only argument is the
    worker's traceback. The text is taken out of that, so that it is the same with and without workers.
    """

    def __init__(self, *args: Any) -> None:
        if args and isinstance(args[0], str):
            args = (without_traceback(args[0]), *args[1:])
        super().__init__(*args)


class WriteError(LookalikeError):
    """A file that could not be written: its cause is the system's error."""


class BrokenImageError(LookalikeError):
    """An image that cannot be read or used.

    Args:
        path: The file; "" for an image without one.
        reason: What is wrong with it, in one line.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        if reason is None:  # as torch raises it again
            text = without_traceback(path)
            told = _BROKEN_IMAGE.fullmatch(text)
            path, reason = (told["path"][1:-1], told["reason"]) if told else ("", text)
        super().__init__(path, reason)  # both, so that pickling restores them
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        named = f" '{visible(self.path)}'" if self.path else ""
        return f"cannot read the image{named}: {visible(self.reason)}"


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its class's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listing(items: Sequence[str], most: int) -> str:
    """Returns the first items with commas between, and how many more there are.

    Example:
        >>> listing(["ant", "bee", "cat"], 2)
        'ant, bee and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def without_traceback(text: str) -> str:
    """Returns an error's own text, where torch has put a worker's traceback around it."""
    found = _FROM_WORKER.match(text)
    return text[found.end() :].rstrip() if found else text


class UnfitInputsError(LookalikeError, RuntimeError):
    """Inputs that a network cannot run: of another shape or type; also a RuntimeError, as torch's own."""


class RelevanceError(LookalikeError):
    """A network of which no relevance map can be made; the rest of an evaluation goes on without."""


class LookalikeWarning(UserWarning):
    """Something the caller should know, though the work goes on."""


_BETWEEN = ("lookalike", "torch", "contextlib")  # packages whose frames lie between a warning and its cause


def warn_of(message: str) -> None:
    """Warns at the line that called the package, however deep inside it this is."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, LookalikeWarning, stacklevel=level)
