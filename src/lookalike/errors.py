"""What the package raises and warns with."""


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


class RelevanceError(LookalikeError):
    """A network of which no relevance map can be made; the rest of an evaluation goes on without."""


class LookalikeWarning(UserWarning):
    """Something the caller should know, though the work goes on."""
