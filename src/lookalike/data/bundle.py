"""``DataBundle``, the training and test part of a dataset, and the registry of datasets."""

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
from lookalike._core.identity import identify_array, identify_json
from lookalike._core.registry import Registry
from lookalike.data.passed_over import PassedOver
from lookalike.data.preprocessing import Preprocessing


class Samples(Protocol):
    """A map-style data set of (x, y) with a length."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def __getitem__(self, index: int) -> Any:
        """Returns one sample (x, y)."""


class ImageArray(Dataset[tuple[Tensor, int]]):
    """Images in memory; each image is prepared when it is read.

    Args:
        images: uint8 [N, H, W] or [N, H, W, C].
        labels: [N].
        classes: Class names, by label.
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

    def fitted(self, index: int) -> tuple[Tensor, int]:
        """Returns an image before ``Preprocessing.finish``, and its label; the transform is a ``Preprocessing``."""
        return self.transform.fit_picture(self.images[index]), int(self.labels[index])  # type: ignore[attr-defined]

    def select(self, rows: np.ndarray) -> "ImageArray":
        """Returns the images of the given rows, in the order of ``rows``."""
        return ImageArray(self.images[rows], self.labels[rows], self.classes, self.transform)

    def fingerprint(self) -> str:
        """Returns a fingerprint of the images and labels."""
        return identify_json([identify_array(self.images), identify_array(self.labels)])


@dataclass(frozen=True)
class Split:
    """How data were divided into a training and a test part.

    Attributes:
        by: ``"parts"`` if the data came in two parts; ``"seed"`` if a folder was split at random. Data to test a
            model on may also have ``"known"``, if the model's training images were found among them and became the
            training part, or ``"whole"``, if none was found and all images are tested on.
        seed: Seed of the random split, else None.
    """

    by: Literal["parts", "seed", "known", "whole"]
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Split | None":
        """Restores a split from the values of ``to_dict``; returns None if they are not valid."""
        by, seed = (values.get("by"), values.get("seed")) if isinstance(values, dict) else (None, None)
        if by not in ("parts", "seed", "known", "whole") or (by == "seed") != (type(seed) is int):
            return None
        return cls(by, seed)


@dataclass(frozen=True)
class Attributes:
    """Binary attributes of a data set's samples, in addition to their classes.

    Attributes:
        names: Names of the A attributes.
        train: Attributes of the training samples [N, A], uint8.
        test: Attributes of the test samples [M, A], uint8.
    """

    names: list[str]
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class DataBundle:
    """The training and the test part of a dataset, with class names and preprocessing.

    Attributes:
        name: The dataset's registered name, or the folder's name.
        train: Training samples (x, y), never augmented.
        test: Test samples (x, y).
        class_names: Class names, by label.
        preprocessing: Preprocessing of the images of both parts.
        notes: Sentences that the user should read.
        attributes: Binary attributes of both parts, if the dataset has any.
        split: How the data were divided into the two parts; None if unknown.
        passed_over: Counts, by kind, of a folder's files that were not read.
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
        """Returns the same images with another preprocessing.

        Raises:
            LookalikeError: If a part has no ``transform`` to replace.
        """
        copies = []
        for samples in (self.train, self.test):
            if not hasattr(samples, "transform"):
                raise LookalikeError(
                    f"a {type(samples).__name__} has no transform: its images cannot be prepared differently"
                )
            samples_copy: Any = copy.copy(samples)
            samples_copy.transform = preprocessing
            copies.append(samples_copy)
        return replace(self, train=copies[0], test=copies[1], preprocessing=preprocessing)

    def fingerprint(self) -> str:
        """Returns a fingerprint of both parts' samples, the class names and the preprocessing.

        Raises:
            LookalikeError: If a part has no ``fingerprint`` method.
        """
        fingerprints = []
        for samples in (self.train, self.test):
            fingerprint = getattr(samples, "fingerprint", None)
            if not callable(fingerprint):
                raise LookalikeError(f"a {type(samples).__name__} has no fingerprint")
            fingerprints.append(fingerprint())
        return identify_json([self.class_names, self.preprocessing.to_dict(), *fingerprints])


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset.

    Attributes:
        description: One line about the dataset.
        load: Loads the dataset with a preprocessing; None stands for the dataset's own size, mean and deviation.
        fetch: Downloads what ``load`` does not download by itself, and returns where it is; None if there is nothing.
        fetching: What it does, in a sentence; empty without ``fetch``.
    """

    description: str
    load: Callable[[Preprocessing | None], DataBundle]
    fetch: Callable[[], Path] | None = None
    fetching: str = ""


DATASETS: Registry[DatasetEntry] = Registry("dataset")


def is_dataset(source: str | Path) -> bool:
    """Says whether ``source`` names a registered dataset and not a folder.

    Raises:
        LookalikeError: If it names neither, or both.
    """
    if isinstance(source, str) and source in DATASETS:
        if Path(source).is_dir():
            raise LookalikeError(f"{source!r} is a dataset's name and a folder here; write './{source}' for the folder")
        return True
    if not Path(source).exists():
        raise LookalikeError(
            f"{str(source)!r} is neither a folder nor a dataset; the datasets are {', '.join(DATASETS)}"
        )
    return False
