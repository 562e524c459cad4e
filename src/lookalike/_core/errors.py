"""Errors and warnings of the package."""

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
    """A mistake that the caller can correct. The message has the thing, its value and the way out.

    When an error is raised in a data loader's worker process, torch raises another of the same class whose only
    argument is the worker's traceback. The message is extracted from it, so that it is the same with and without
    workers.
    """

    def __init__(self, *args: Any) -> None:
        if args and isinstance(args[0], str):
            args = (without_traceback(args[0]), *args[1:])
        super().__init__(*args)


class WriteError(LookalikeError):
    """A file that could not be written. The error's cause is the system's error."""


class BrokenImageError(LookalikeError):
    """An image that cannot be read or used.

    Args:
        path: File of the image; "" for an image without one.
        reason: Reason in one line.

    Attributes:
        path: File of the image.
        reason: Reason in one line.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        if reason is None:  # torch raises a worker's error with one argument, its traceback
            text = without_traceback(path)
            match = _BROKEN_IMAGE.fullmatch(text)
            path, reason = (match["path"][1:-1], match["reason"]) if match else ("", text)
        super().__init__(path, reason)  # both, so that pickling restores them
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        path_text = f" '{visible(self.path)}'" if self.path else ""
        return f"cannot read the image{path_text}: {visible(self.reason)}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its class if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listing(items: Sequence[str], most: int) -> str:
    """Joins the first items by commas, and counts the others.

    Example:
        >>> listing(["ant", "bee", "cat"], 2)
        'ant, bee and 1 more'
    """
    remaining = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + remaining


def without_traceback(text: str) -> str:
    """Returns an error's own message if torch has put a worker's traceback around it."""
    match = _FROM_WORKER.match(text)
    return text[match.end() :].rstrip() if match else text


class UnfitInputsError(LookalikeError, RuntimeError):
    """Inputs of a shape or type that a network does not take. Also a RuntimeError, like torch's own error."""


class RelevanceError(LookalikeError):
    """No relevance map can be made for a network. The rest of an evaluation goes on without maps."""


class LookalikeWarning(UserWarning):
    """Something that the caller should know; the work goes on."""


_SKIPPED_PACKAGES = ("lookalike", "torch", "contextlib")  # packages whose frames are not the caller's


def warn_of(message: str) -> None:
    """Warns with the line outside the package that called it, from any depth of calls."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _SKIPPED_PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, LookalikeWarning, stacklevel=level)
