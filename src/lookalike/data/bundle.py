"""A dataset as the rest of the package takes it."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_array, fingerprint_json
from lookalike._core.registry import Registry
from lookalike.data.passed_over import PassedOver
from lookalike.data.preprocessing import Preprocessing


class Samples(Protocol):
    """Samples (x, y) by number: a map-style data set that knows its length."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Any:
        """The sample of that number."""


class ImageArray(Dataset[tuple[Tensor, int]]):
    """Images held in memory, prepared one by one when asked for.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: [N].
        classes: The classes' names.
        transform: Prepares one image.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: list[str],
        transform: Callable[[np.ndarray], Tensor],
    ) -> None:
        if not isinstance(images, np.ndarray) or images.ndim not in (3, 4) or images.dtype != np.uint8:
            raise checks.unfit("images", images, "an array of uint8 [N, H, W] or [N, H, W, C]")
        self.images = images
        self.classes = checks.names("classes", classes)
        self.labels = checks.labels_of("labels", labels, self.classes, len(images))
        if not callable(transform):
            raise checks.unfit("transform", transform, "a function that prepares an image")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])

    def select(self, rows: np.ndarray) -> "ImageArray":
        """Returns some of the images, in that order."""
        return ImageArray(self.images[rows], self.labels[rows], self.classes, self.transform)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of the images and labels."""
        return fingerprint_json([fingerprint_array(self.images), fingerprint_array(self.labels)])


@dataclass(frozen=True)
class Split:
    """How a training and a test part came about.

    Attributes:
        by: ``"parts"`` if the data came in two parts; ``"seed"`` if a folder was split at random; of data to test a
            model on also ``"known"`` if the model's training images were found among them, and ``"whole"`` if there
            were none.
        seed: Of the random split, else None.
    """

    by: Literal["parts", "seed", "known", "whole"]
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Split | None":
        """Makes one again from ``to_dict``; None if these are not its values."""
        by, seed = (values.get("by"), values.get("seed")) if isinstance(values, dict) else (None, None)
        if by not in ("parts", "seed", "known", "whole") or (by == "seed") != (type(seed) is int):
            return None
        return cls(by, seed)


@dataclass(frozen=True)
class Attributes:
    """Binary attributes of a data set's samples, beside their classes.

    Attributes:
        names: A names.
        train: Of the training samples [N, A], uint8.
        test: Of the test samples.
    """

    names: list[str]
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class DataBundle:
    """A dataset's two parts and what belongs to both.

    Attributes:
        name: Its registered name, or the folder's.
        train: Training samples (x, y), never augmented.
        test: Test samples.
        class_names: By label.
        preprocessing: What both parts' images go through.
        notes: Anything the user should know, in sentences.
        attributes: Of both parts, where the dataset has any.
        split: How the two parts came about; None where nobody said.
        passed_over: What was in a folder and was not taken, counted by kind.
    """

    name: str
    train: "Samples"
    test: "Samples"
    class_names: list[str]
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    attributes: Attributes | None = None
    split: Split | None = None
    passed_over: PassedOver = field(default_factory=PassedOver)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "DataBundle":
        """Returns the same images, prepared otherwise.

        Raises:
            LookalikeError: If a part's images are not prepared by a ``transform``.
        """
        parts = []
        for part in (self.train, self.test):
            if not hasattr(part, "transform"):
                raise LookalikeError(f"the images of a {type(part).__name__} cannot be prepared otherwise")
            again: Any = copy.copy(part)
            again.transform = preprocessing
            parts.append(again)
        return replace(self, train=parts[0], test=parts[1], preprocessing=preprocessing)

    def fingerprint(self) -> str:
        """Returns a SHA-256 of both parts' samples, the classes, and what the images go through.

        Raises:
            LookalikeError: If a part cannot tell its own.
        """
        parts = []
        for part in (self.train, self.test):
            tell = getattr(part, "fingerprint", None)
            if not callable(tell):
                raise LookalikeError(f"a {type(part).__name__} has no fingerprint")
            parts.append(tell())
        return fingerprint_json([self.class_names, self.preprocessing.to_dict(), *parts])


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset.

    Attributes:
        description: One line.
        load: Makes the bundle; with no preprocessing, the dataset's own size, mean and deviation are used.
    """

    description: str
    load: Callable[[Preprocessing | None], DataBundle]


DATASETS: Registry[DatasetEntry] = Registry("dataset")


def is_dataset(source: str | Path) -> bool:
    """Says whether a dataset is meant, or else a folder.

    Raises:
        LookalikeError: If there is neither a dataset nor a folder of that name, or both.
    """
    if isinstance(source, str) and source in DATASETS:
        if Path(source).is_dir():
            raise LookalikeError(f"{source!r} is a dataset's name and a folder here; write './{source}' for the folder")
        return True
    if not Path(source).exists():
        raise LookalikeError(
            f"{str(source)!r} is neither a folder nor a dataset; there are the datasets {', '.join(DATASETS)}"
        )
    return False
