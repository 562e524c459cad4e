"""Which images a saved model is tested on: never those that it was made from.

A model is converted on one part of a folder. Whoever evaluates it later gives the same folder, a folder of new images,
or a mixture. What each image is follows from what the model remembers of its training images, not from a second
split that might be another one.
"""

from dataclasses import dataclass, replace

import numpy as np

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.names import visible
from lookalike.data.batches import Batches
from lookalike.data.bundle import DataBundle, Split
from lookalike.data.folders import ImageFiles


@dataclass(frozen=True)
class TrainingRecord:
    """What a model remembers of its training data.

    Attributes:
        fingerprint: Of the training part, as ``Batches`` computes it; None where it is not known.
        split: How the training part was chosen; None where it is not known.
        keys: Content keys of its image files, sorted [N]; None where it was no image files.
    """

    fingerprint: str | None = None
    split: Split | None = None
    keys: np.ndarray | None = None

    def holds(self, files: ImageFiles) -> np.ndarray:
        """Says of each file whether it is a training image [n], bool."""
        if self.keys is None or not len(files):
            return np.zeros(len(files), dtype=bool)
        return np.isin(files.content_keys(), self.keys)

    def is_of(self, train: Batches) -> bool:
        """Says whether training data are the model's own, sample by sample.

        A folder's fingerprint is of names and sizes, and other pictures in an uncompressed format have the same sizes:
        where the contents are remembered they decide too.
        """
        if self.fingerprint is None or train.fingerprint() != self.fingerprint:
            return False
        keys = None if self.keys is None else train.content_keys()
        return self.keys is None or keys is None or np.array_equal(keys, np.sort(self.keys))


def with_roles(bundle: DataBundle, record: TrainingRecord, *, asked_seed: int | None = None) -> DataBundle:
    """Returns the data as a model made from ``record`` is to be tested on them.

    - The data that the model was made from keep their two parts.
    - Of a folder with ``train`` and ``test``, the ``test`` part is tested on, less any training images in it; the
      ``train`` part counts as training data as far as the model was made from it.
    - In any other folder the model's training images are found one by one, and all other images are tested on. Unless
      all of them are there, none counts as training data: prototypes would seem unused that are not.

    Args:
        bundle: A data set's two parts, or a folder's, split as the model's was where it has no parts of its own.
        record: What the model remembers.
        asked_seed: The seed of a split that the user asked for; None leaves the choice to this function.

    Returns:
        A bundle whose notes say which images were taken for what.

    Raises:
        LookalikeError: If nothing is left to test on, or the split that was asked for would test on training images.

    Warns:
        LookalikeWarning: If training images were among those to test on, or the training part is another one.
    """
    if record.is_of(Batches(bundle.train)):
        return _told(bundle, f"the model's own training data, {_how(bundle.split)}")
    train, test = bundle.train, bundle.test
    if not isinstance(train, ImageFiles) or not isinstance(test, ImageFiles):
        if record.fingerprint is not None:
            warn_of("the training part of these data is not what the model was made from: other data or preprocessing")
        return _told(bundle, _how(bundle.split))
    split = bundle.split
    if split is None or split.by != "seed":
        return _parts_of_their_own(bundle, record, train, test)
    everything = train.joined(test)
    known = record.holds(everything)
    if asked_seed is not None:
        leaked = int(record.holds(test).sum())
        if leaked:
            raise LookalikeError(
                f"split by seed {asked_seed}, {leaked} of {len(test)} test images are training images of the model: "
                "leave --split-seed out, and the model's own split is used"
            )
        return _told(bundle, _how(split))
    if known.all():
        raise LookalikeError(
            f"all {len(everything)} images of {_named(bundle)} are training images of the model; "
            "give images that it was not made from"
        )
    if known.any():
        warn_of(
            f"{int(known.sum())} images of {_named(bundle)} are training images of the model; they are not tested on"
        )
    chosen = replace(
        bundle,
        train=_complete(record, everything.select(np.flatnonzero(known))),
        test=everything.select(np.flatnonzero(~known)),
        split=Split("known" if known.any() else "whole"),
    )
    return _told(chosen, _how(chosen.split))


def _parts_of_their_own(bundle: DataBundle, record: TrainingRecord, train: ImageFiles, test: ImageFiles) -> DataBundle:
    """Takes the parts as they are named, less what the model knows better."""
    leaked = record.holds(test)
    if leaked.any():
        warn_of(
            f"{int(leaked.sum())} of {len(test)} images in the test part of {_named(bundle)} are training images of "
            "the model; they are not tested on"
        )
        test = test.select(np.flatnonzero(~leaked))
    if not len(test):
        raise LookalikeError(f"{_named(bundle)} has no test images that are new to the model; give others")
    if record.keys is not None and len(train):
        known = record.holds(train)
        if not known.all():
            warn_of(
                f"{int((~known).sum())} of {len(train)} images in the training part of {_named(bundle)} are not what "
                "the model was made from; they are not used"
            )
        train = _complete(record, train.select(np.flatnonzero(known)))
    return _told(replace(bundle, train=train, test=test), _how(bundle.split))


def _complete(record: TrainingRecord, train: ImageFiles) -> ImageFiles:
    """Returns the training images if all that the model was made from are there, else none of them."""
    present = np.unique(train.content_keys())
    whole = record.keys is not None and np.array_equal(present, np.unique(record.keys))
    return train if whole else train.select(np.arange(0))


def _how(split: Split | None) -> str:
    if split is None:
        return "in parts as they come"
    return {
        "seed": f"split by seed {split.seed}",
        "parts": "in parts as they come",
        "known": "by the training images that the model remembers",
        "whole": "all to test on",
    }[split.by]


def _told(bundle: DataBundle, how: str) -> DataBundle:
    """Adds a note that says which images were taken for what."""
    n_train = len(bundle.train)
    training = f"{n_train:,} as the model's training images" if n_train else "none as training images"
    note = f"{_named(bundle)}: {len(bundle.test):,} images to test on, {training} ({how})"
    notes = tuple(other for other in bundle.notes if "split by seed" not in other)
    return replace(bundle, notes=(*notes, note))


def _named(bundle: DataBundle) -> str:
    return f"'{visible(bundle.name)}'"
