"""Decides which images a saved model is tested on: never its own training images.

A model is converted on the training part of some data. Later it may be evaluated on the same folder, on a folder of new
images, or on a mixture. The model remembers its training images (``TrainingRecord``), and each image's role follows
from that record; a second random split might put training images into the test part.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.identity import are_comparable, identifying_as
from lookalike._core.names import visible
from lookalike.data.batches import Batches
from lookalike.data.bundle import DataBundle, Split
from lookalike.data.folders import ImageFiles

_OF_SPLIT = re.compile(r"\d+ / \d+ split by seed \d+$")  # a note of the loader, which the roles replace


@dataclass(frozen=True)
class TrainingRecord:
    """A model's record of its training data.

    Attributes:
        fingerprint: ``Batches.fingerprint`` of the training part; None if unknown.
        split: How the training part was chosen; None if unknown.
        keys: Hashes of the training images' files, sorted [N]; None if the data were not image files.
        joined: Fingerprints of the data that the model was updated with later; None where one is unknown.
        n_samples: Number of samples, updates included; None if unknown.
    """

    fingerprint: str | None = None
    split: Split | None = None
    keys: np.ndarray | None = None
    joined: tuple[str | None, ...] = ()
    n_samples: int | None = None

    def contains(self, files: ImageFiles) -> np.ndarray:
        """Returns for each file whether it is one of the model's training images [n], bool."""
        if self.keys is None or not len(files):
            return np.zeros(len(files), dtype=bool)
        return np.isin(files.content_keys(), self.keys)

    def has_fingerprint_of(self, data: Batches | None, known: str | None = None) -> bool | None:
        """Says whether data have the recorded fingerprint; None if that cannot be known.

        Args:
            data: The data; None if only their fingerprint is known.
            known: The data's fingerprint, if it was computed before.
        """
        if self.fingerprint is None:
            return None
        if are_comparable(known, self.fingerprint):
            return known == self.fingerprint
        if data is None:
            return None
        with identifying_as(self.fingerprint):  # a model of an earlier version
            return data.fingerprint() == self.fingerprint

    def includes(self, data: Batches | None, known: str | None = None) -> bool:
        """Says whether data are known to be some that the model was made from or updated with, by their fingerprint.

        Args:
            data: The data; None if only their fingerprint is known.
            known: The data's fingerprint, if it was computed before.
        """
        records = (self, *(TrainingRecord(fingerprint) for fingerprint in self.joined))
        return any(record.has_fingerprint_of(data, known) for record in records)

    def is_all_of(
        self, data: Batches | None, n_samples: int, n_skipped: int = 0, *, known: str | None = None
    ) -> bool | None:
        """Says whether data are all that the prototypes were made from; None if that cannot be known.

        Of a model that was updated, a wrong number of samples tells that they are not, and so do files that are
        missing. Their order and their labels cannot be checked then.

        Args:
            data: The data; None if only their fingerprint is known.
            n_samples: Number of samples of the data that were read.
            n_skipped: Number of those that could not be read. The record may count them.
            known: The data's fingerprint, if it was computed before.
        """
        if not self.joined:
            return self.has_fingerprint_of(data, known)
        if self.n_samples is not None and not n_samples <= self.n_samples <= n_samples + n_skipped:
            return False
        keys = None if data is None or self.keys is None else data.content_keys()
        if keys is None or self.keys is None:
            return None
        # data that joined without files have no keys, and a file that cannot be read is known by its path
        n_missing = int((~np.isin(self.keys, keys)).sum())
        return None if n_missing <= n_skipped else False

    def matches(self, train: Batches) -> bool:
        """Says whether ``train`` is exactly the data that the model was made from.

        Some fingerprints cover only names and sizes, which other pictures in an uncompressed format may share.
        Therefore the hashes of the files are compared too, if the record has them.
        """
        if not self.has_fingerprint_of(train):
            return False
        keys = None if self.keys is None else train.content_keys()
        return self.keys is None or keys is None or np.array_equal(keys, np.sort(self.keys))


def with_roles(bundle: DataBundle, record: TrainingRecord, *, asked_seed: int | None = None) -> DataBundle:
    """Divides data into the training and test part for evaluating the model that ``record`` belongs to.

    - The data that the model was made from keep their two parts.
    - In a folder with ``train`` and ``test``, the model is tested on ``test`` without any of its training images.
      ``train`` is the training part if it contains all of the model's training images.
    - In any other folder, the model's training images are recognised by their content, and the model is tested on all
      other images.

    If some of the model's training images are missing, the training part is empty: with an incomplete one, prototypes
    would seem to represent no training image.

    Args:
        bundle: The data. A folder without parts must be split with the seed of the model's own split.
        record: The model's record of its training data.
        asked_seed: Seed of a split that the user asked for; None lets this function choose.

    Returns:
        A bundle whose notes say how many images have which role.

    Raises:
        LookalikeError: If no image is left to test on, or the requested split would test on training images.

    Warns:
        LookalikeWarning: If there were training images in the test part, or the training part is not the model's.
    """
    if record.matches(Batches(bundle.train)):
        return _with_note(bundle, f"those that it was made from; {_describe_split(bundle.split)}")
    train, test = bundle.train, bundle.test
    if not isinstance(train, ImageFiles) or not isinstance(test, ImageFiles):
        if record.fingerprint is not None:
            warn_of("the training part of these data is not what the model was made from: other data or preprocessing")
        return _with_note(bundle, _describe_split(bundle.split))
    # A folder with parts of its own keeps them. In one that was split at random the roles follow from the record.
    if bundle.split is None or bundle.split.by != "seed":
        return _with_given_parts(bundle, record, train, test)
    if asked_seed is not None:
        return _with_asked_split(bundle, record, test, asked_seed)
    return _with_known_training_images(bundle, record, train.joined(test))


def _with_asked_split(bundle: DataBundle, record: TrainingRecord, test: ImageFiles, asked_seed: int) -> DataBundle:
    """Keeps the split that the user asked for.

    Raises:
        LookalikeError: If the model would be tested on its training images.
    """
    n_leaked = int(record.contains(test).sum())
    if n_leaked:
        raise LookalikeError(
            f"split by seed {asked_seed}, {n_leaked} of {len(test)} test images are training images of the model: "
            "leave --split-seed out, and the model's own split is used"
        )
    return _with_note(bundle, _describe_split(bundle.split))


def _with_known_training_images(bundle: DataBundle, record: TrainingRecord, files: ImageFiles) -> DataBundle:
    """Takes the images that the model was made from as its training part, and tests on all others.

    Raises:
        LookalikeError: If no image is left to test on.
    """
    is_training = record.contains(files)
    if is_training.all():
        raise LookalikeError(
            f"all {len(files)} images of {_quoted_name(bundle)} are training images of the model; "
            "give images that it was not made from"
        )
    if is_training.any():
        warn_of(
            f"{int(is_training.sum())} images of {_quoted_name(bundle)} are training images of the model; they are not "
            "tested on"
        )
    split = Split("known" if is_training.any() else "whole")
    train = _all_or_none(record, files.select(np.flatnonzero(is_training)))
    test = files.select(np.flatnonzero(~is_training))
    return _with_note(replace(bundle, train=train, test=test, split=split), _describe_split(split))


def _with_given_parts(bundle: DataBundle, record: TrainingRecord, train: ImageFiles, test: ImageFiles) -> DataBundle:
    """Keeps the folder's parts, but removes training images from the test part and unknown ones from the other."""
    is_leaked = record.contains(test)
    if is_leaked.any():
        warn_of(
            f"{int(is_leaked.sum())} of {len(test)} images in the test part of {_quoted_name(bundle)} are training "
            "images of the model; they are not tested on"
        )
        test = test.select(np.flatnonzero(~is_leaked))
    if not len(test):
        raise LookalikeError(f"{_quoted_name(bundle)} has no test images that are new to the model; give others")
    if record.keys is not None and len(train):
        is_training = record.contains(train)
        if not is_training.all():
            warn_of(
                f"{int((~is_training).sum())} of {len(train)} images in the training part of {_quoted_name(bundle)} "
                "are not what the model was made from; they are not used"
            )
        train = _all_or_none(record, train.select(np.flatnonzero(is_training)))
    return _with_note(replace(bundle, train=train, test=test), _describe_split(bundle.split))


def _all_or_none(record: TrainingRecord, train: ImageFiles) -> ImageFiles:
    """Returns ``train`` if it contains all of the model's training images, else no images."""
    present = np.unique(train.content_keys())
    is_complete = record.keys is not None and np.array_equal(present, np.unique(record.keys))
    return train if is_complete else train.select(np.arange(0))


def _describe_split(split: Split | None) -> str:
    if split is None:
        return "divided as the data came"
    return {
        "seed": f"split by seed {split.seed}",
        "parts": "divided as the data came",
        "known": "by the training images that the model remembers",
        "whole": "all to test on",
    }[split.by]


def _with_note(bundle: DataBundle, split_description: str) -> DataBundle:
    """Adds a note that says how many images have which role; it replaces the note about a split by seed."""
    n_train = len(bundle.train)
    training = f"{n_train:,} as the model's training images" if n_train else "none as training images"
    role_note = f"{_quoted_name(bundle)}: {len(bundle.test):,} images to test on, {training} ({split_description})"
    notes = tuple(note for note in bundle.notes if not _OF_SPLIT.search(note))
    return replace(bundle, notes=(*notes, role_note))


def _quoted_name(bundle: DataBundle) -> str:
    return f"'{visible(bundle.name)}'"
