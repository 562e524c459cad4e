"""What the package raises and warns with."""

import sys
import warnings


class LookalikeError(ValueError):
    """A mistake that the caller can mend: the text names the thing, the value and the way out."""


class BrokenImageError(LookalikeError):
    """An image file that cannot be read.

    Attributes:
        path: The file.
        reason: What its decoder says.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error survives the way back from a worker process
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path!r}: {self.reason}"


class UnfitInputsError(LookalikeError, RuntimeError):
    """Inputs that a network cannot run: of another shape or type; also a RuntimeError, as torch's own."""


class LookalikeWarning(UserWarning):
    """Something the caller should know, though the work goes on."""


_BETWEEN = ("lookalike", "torch", "contextlib")  # packages whose frames lie between a warning and its cause


def warn_of(message: str) -> None:
    """Warns at the line that called the package, however deep inside it this is."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, LookalikeWarning, stacklevel=level)
