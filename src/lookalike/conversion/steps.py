"""Steps that several kinds of conversion share: opening data, cutting the classifier, checking embeddings."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import BrokenImageError, LookalikeError, listing, warn_of
from lookalike.conversion.automatic_number import LEAST_PER_PROTOTYPE
from lookalike.conversion.options import Cut, Reading, Settings
from lookalike.data import (
    Batches,
    Preprocessing,
    check_preprocessing,
    load_data,
    settle_value_range,
    warn_of_transparency,
)
from lookalike.data.bundle import is_dataset
from lookalike.data.copies import warn_of_copies
from lookalike.embedding import EmbeddingStore, as_encoder, embed, name_samples
from lookalike.embedding.checking import check_store
from lookalike.encoder import Encoder, LoadedClassifier, head_of, load_classifier, ordered
from lookalike.encoder.patches import PatchEncoder
from lookalike.model.images import preprocessing_of, transform_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

_MOST_BROKEN = 100  # images at the beginning of the data that cannot be read, before the data count as broken


def open_classifier(model: Any) -> nn.Module | LoadedClassifier:
    """Loads a classifier that is given as a spec; returns any other classifier unchanged.

    Raises:
        LookalikeError: If it is neither a classifier nor a spec.
    """
    if isinstance(model, str | Path):
        return load_classifier(str(model))
    if not isinstance(model, nn.Module | LoadedClassifier):
        raise LookalikeError(f"a torch.nn.Module or the spec of one is converted, not a {type(model).__name__}")
    return model


def as_batches(
    data: Any, reading: Reading, model_preprocessing: Preprocessing | None = None, *, part: str = "training"
) -> Batches:
    """Returns data as batches in a fixed order.

    Args:
        data: Data as for ``convert``. A name or path is that of a data set or a folder, whose training part is taken.
        reading: How to read the data.
        model_preprocessing: Preprocessing of the classifier's images, if it is known.
        part: Name of the data in warnings.

    Warns:
        LookalikeWarning: If the transparency of pictures is dropped.
    """
    if isinstance(data, Batches):
        warn_of_transparency(data.dataset, part)
        return data
    if isinstance(data, str | Path):
        preprocessing = reading.preprocessing or model_preprocessing
        if preprocessing is None and not is_dataset(data):
            raise LookalikeError(
                f"to read the images of {str(data)!r}, say what they go through: preprocessing=..., a torchvision "
                "transform or a lookalike.data.Preprocessing"
            )
        data = settle_value_range(load_data(data, preprocessing))
    batches = Batches(data, reading.batch_size, reading.num_workers, reading.on_error)
    warn_of_transparency(batches.dataset, part)
    return batches


def preprocessing_for_model(
    batches: Batches | None, reading: Reading, model_preprocessing: Preprocessing | None
) -> Preprocessing | None:
    """Returns what images go through before a converted model: what the data go through, where that is known.

    Args:
        batches: The training data; None if there are only embeddings.
        reading: What the caller gave.
        model_preprocessing: What the classifier's images go through, if it is known; it is taken for ready tensors of
            the size that it makes.

    Raises:
        LookalikeError: If the data have a transform of their own that is another than the one that was given.
    """
    transform = transform_of(batches)
    given_preprocessing: Preprocessing | None = reading.preprocessing
    row = _row_of(batches)
    if given_preprocessing is not None:
        if transform is not None:
            given_preprocessing = _with_channels_of(row, given_preprocessing, transform) or given_preprocessing
        if transform is not None and transform != given_preprocessing:
            check_preprocessing(given_preprocessing, transform)
        elif row is not None and not _makes(given_preprocessing, row):
            raise LookalikeError(
                f"preprocessing={given_preprocessing.describe()!r} does not make inputs of the data's shape "
                f"{tuple(row.shape[1:])}: give what these images went through"
            )
        return given_preprocessing
    if transform is not None or batches is None:
        return _with_channels_of(row, preprocessing_of(batches), transform)
    return model_preprocessing if row is not None and _makes(model_preprocessing, row) else None


def preprocessing_that_comes_with(model: nn.Module | LoadedClassifier) -> Preprocessing | None:
    """Returns the preprocessing that was loaded with a model; None for a network whose attribute is something else."""
    preprocessing = getattr(model, "preprocessing", None)
    return preprocessing if isinstance(preprocessing, Preprocessing) else None


def _row_of(batches: Batches | None) -> Tensor | None:
    """Returns an image of the data [1, C, H, W]; None if they are no images, or cannot be read one by one.

    It is the first that can be read, if images that cannot are left out.
    """
    if batches is None or not batches.can_fetch or batches.total == 0:
        return None
    for index in range(_MOST_BROKEN):
        try:
            row = batches.fetch(np.array([index]))
        except BrokenImageError:
            if batches.on_error == "stop" or index + 1 == min(_MOST_BROKEN, len(batches)):
                raise
            continue
        return row if isinstance(row, Tensor) and row.ndim == 4 else None
    return None


def _makes(preprocessing: Preprocessing | None, row: Tensor) -> bool:
    """Says whether a preprocessing makes images with the channels and the size of a row."""
    if preprocessing is None or row.shape[1] != preprocessing.channels:
        return False
    size = preprocessing.output_size
    return size is None or tuple(size) == tuple(row.shape[2:])


def _with_channels_of(row: Tensor | None, preprocessing: Preprocessing | None, transform: Any) -> Preprocessing | None:
    """Returns a preprocessing for the channels that the data have: a transform alone need not say grey or RGB.

    One number of mean and deviation applies to all channels, and without a normalisation there is none to count.
    """
    if preprocessing is None or row is None or row.shape[1] == preprocessing.channels:
        return preprocessing
    if len(set(preprocessing.mean)) > 1 or len(set(preprocessing.std)) > 1 or row.shape[1] not in (1, 3):
        return None
    mean, std = (values[:1] * int(row.shape[1]) for values in (preprocessing.mean, preprocessing.std))
    adapted = replace(preprocessing, mean=mean, std=std)
    try:
        check_preprocessing(adapted, transform)
    except LookalikeError:
        return None
    return adapted


def cut_classifier(model: nn.Module | LoadedClassifier, batches: Batches | None, cut: Cut) -> Encoder:
    """Returns the encoder of a classifier: everything before its head.

    Args:
        model: The classifier.
        batches: Data to run through the classifier; None if there are only stored embeddings.
        cut: Where to cut; what it leaves open is found by running the classifier.

    Raises:
        LookalikeError: If no head is found, or there are no data and the model is not an encoder.
    """
    spec, output_names, head = None, None, cut.head
    if isinstance(model, LoadedClassifier):
        spec, output_names, head = model.spec, model.class_names, head_of(model, cut.head)
        model = model.model
    if batches is None:
        encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
        if not isinstance(encoder, Encoder):
            raise LookalikeError(
                "stored embeddings do not show where to cut the classifier: give the Encoder that made them"
            )
    else:
        encoder = as_encoder(model, batches, head, output=cut.output, spec=spec, output_names=output_names)
    return encoder.image_encoder if isinstance(encoder, PatchEncoder) else encoder


def options_record(similarity: Similarity, settings: Settings, class_names: list[str]) -> dict[str, Any]:
    """Returns the options that a model records in its provenance."""
    return {
        "method": "KMEx",
        "similarity": similarity.name,
        **settings.clustering.to_dict(class_names),
        "nearest_from": settings.gallery.nearest_from,
    }


def checked_class_names(
    given: Sequence[str] | None, of_data: Sequence[str] | None, highest_label: int, n_samples: int
) -> list[str]:
    """Returns K different class names: those given, else the data's, else numbers.

    Args:
        given: The user's class names.
        of_data: Class names that come with the data.
        highest_label: The highest label of the samples.
        n_samples: Number of samples.

    Raises:
        LookalikeError: If two classes have one name, the labels leave numbers out, or the data's own names are given
            in another order.
    """
    names = given or of_data
    if names is None:
        if highest_label >= n_samples:
            raise LookalikeError(
                f"there is a label {highest_label} and there are {n_samples} samples: some classes have none; "
                "number the classes from 0 without gaps, or give class_names"
            )
        return [str(k) for k in range(highest_label + 1)]
    names = checks.names("class_names", names)
    if len(set(names)) < len(names):
        raise LookalikeError("two classes have the same name")
    if of_data is not None and list(names) != list(of_data) and sorted(names) == sorted(of_data):
        raise LookalikeError(
            f"class_names are the data's own names in another order, not {listing(list(of_data), 8)}: they name the "
            "data's classes; leave them out, or give the order of the network's outputs as class_order"
        )
    warn_of_spellings(names)
    return list(names)


def class_names_of(settings: Settings, store: EmbeddingStore) -> list[str]:
    """Returns the K class names of stored embeddings, as ``checked_class_names`` does."""
    return checked_class_names(settings.class_names, store.class_names, int(store.labels.max()), len(store))


def warn_of_spellings(class_names: Sequence[str]) -> None:
    """Warns of class names that differ only in capitals and spaces; those of single letters may in capitals."""
    spellings: dict[str, list[str]] = {}
    for name in class_names:
        spelling = " ".join(name.split())
        spellings.setdefault(spelling.lower() if len(spelling) > 1 else spelling, []).append(name)
    alike = [" and ".join(map(repr, names)) for names in spellings.values() if len(names) > 1]
    if alike:
        warn_of(
            f"classes whose names differ only in capitals or spaces: {listing(alike, 4)}; if they are one "
            "class, spell it in one way"
        )


def warn_of_few(n_images: np.ndarray, prototypes: Prototypes) -> None:
    """Warns of classes with fewer than three training images per prototype, if they have several prototypes.

    Args:
        n_images: Number of training images of each class [K].
        prototypes: The prototypes.
    """
    numbers = np.bincount(prototypes.labels.cpu().numpy(), minlength=len(n_images))
    few = np.flatnonzero((numbers > 1) & (n_images < LEAST_PER_PROTOTYPE * numbers))
    if len(few):
        have = "has" if len(few) == 1 else "have"
        first = few[np.argmin(n_images[few] / numbers[few])]
        warn_of(
            f"{len(few)} of {len(n_images)} classes {have} fewer than {LEAST_PER_PROTOTYPE} training images per "
            f"prototype ({prototypes.class_names[first]!r} has {n_images[first]} for {numbers[first]}): such "
            "prototypes show single images, not what a class has in common; give fewer, or n_prototypes='auto' "
            "(--n-prototypes auto)"
        )


def check_finite(store: EmbeddingStore) -> None:
    """Checks that all embeddings are finite.

    Raises:
        LookalikeError: If not; it names the samples.
    """
    rows = store.check()
    if len(rows):
        samples = name_samples(store.indices[rows], lambda index: f"sample {index}")
        raise LookalikeError(f"{len(rows)} embeddings have NaN or infinite values: {samples}")


def open_data(
    model: nn.Module | LoadedClassifier, train: Any, settings: Settings
) -> tuple[Batches | None, Preprocessing | None]:
    """Opens training data.

    Returns:
        The data as batches, None if there are only their embeddings; and what images go through before the model, if it
        is known.

    Raises:
        LookalikeError: If the data cannot be read, or went through another preprocessing than the one that was given.

    Warns:
        LookalikeWarning: If files are copies of others.
    """
    model_preprocessing = preprocessing_that_comes_with(model)
    batches = None if isinstance(train, EmbeddingStore) else as_batches(train, settings.reading, model_preprocessing)
    if batches is not None:
        warn_of_copies(batches.dataset)
    return batches, preprocessing_for_model(batches, settings.reading, model_preprocessing)


def cut_and_order(
    model: nn.Module | LoadedClassifier, train: Any, batches: Batches | None, settings: Settings
) -> Encoder:
    """Cuts the classifier, and puts its outputs in the order of the data's classes."""
    encoder = cut_classifier(model, batches, settings.cut)
    sources = (settings.embeddings, batches, train if batches is None else None)
    names_of_data = next((source.class_names for source in sources if source is not None), None)
    return ordered(encoder, settings.cut.class_order, settings.class_names or names_of_data)


def embed_or_check(
    encoder: Encoder, train: Any, batches: Batches | None, settings: Settings, folder: Path | None
) -> EmbeddingStore:
    """Embeds the training data, or checks the embeddings that were given."""
    if batches is not None and settings.embeddings is None:
        return embed(
            encoder,
            batches,
            folder=None if folder is None else folder / "embeddings",
            resume=True,
            precision=settings.reading.precision,
            devices=settings.reading.devices,
            progress=settings.progress,
        )
    store: EmbeddingStore = train if settings.embeddings is None else settings.embeddings
    check_store(store, encoder, batches)
    return store
