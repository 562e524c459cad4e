"""Gives a prototype model of the user's own the training images behind its prototypes.

A conversion finds them as it goes. A model that was trained with its prototypes, such as a ProtoPNet, comes without.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_random_states
from lookalike.conversion.assembling import embeddings_record
from lookalike.conversion.survey import survey
from lookalike.data import Batches
from lookalike.embedding import embed
from lookalike.encoder import Encoder
from lookalike.model import Origin, PrototypeModel
from lookalike.model.class_labels import labels_in_model
from lookalike.model.images import preprocessing_of, read_prototype_images, read_prototype_names, record_of
from lookalike.model.prototypes import Prototypes


@keeps_random_states
def with_training_images(
    model: PrototypeModel,
    train: Any,
    *,
    n_nearest: int = 10,
    n_images: int = 3,
    nearest_by: Literal["distance", "similarity"] = "distance",
    spec: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> PrototypeModel:
    """Returns a prototype model that knows its training images: which are nearest to each prototype, and how they look.

    Explanations, galleries and reports show prototypes by these images. Predictions stay as they are.

    Args:
        model: A prototype model, made of its parts. It is not changed, and shares its network with the result.
        train: Training images with labels: a ``Dataset`` or ``DataLoader`` of (x, y), (x, y) tensors or arrays, or
            ``Batches``. Labels are matched with the model's classes by name if the data have names, else by number.
        n_nearest: Number of nearest training images that each prototype remembers.
        n_images: Number of them whose pixels are kept.
        nearest_by: The nearest are those with the smallest ``"distance"``, or with the largest ``"similarity"``. The
            two differ if the similarity grows with an embedding's length.
        spec: How the network is built again when a saved model is loaded; None if ``load(folder, model=…)`` gets it.
        progress: Whether to show a progress bar; None shows it on a terminal.

    Raises:
        LookalikeError: If the model is one of patches, the data are empty or have a class that the model does not have,
            or an option is out of range.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    n_nearest = checks.whole_number("n_nearest", n_nearest, 1)
    n_images = checks.whole_number("n_images", n_images, 0)
    checks.one_of("nearest_by", nearest_by, ("distance", "similarity"))
    if model.has_patches:
        raise LookalikeError("a model of patches is made by convert(..., level='patch'), which finds its images")
    batches = train if isinstance(train, Batches) else Batches(train)
    encoder = _encoder_of(model, batches, spec)
    store, trained = embed(encoder, batches, progress=progress), model.prototypes
    prototypes = survey(
        Prototypes(trained.vectors.detach().cpu().clone(), trained.labels.cpu(), trained.class_names),
        copy.deepcopy(model.similarity).cpu(),
        store.embeddings,
        labels_in_model(store.labels, store.class_names, model.class_names, "training"),
        indices=store.indices,
        n_nearest=n_nearest,
        nearest_by=nearest_by,
    )
    preprocessing = model.preprocessing or preprocessing_of(batches)
    images, value_range = read_prototype_images(batches, prototypes, n_images, preprocessing, model.value_range)
    split, keys = record_of(batches)
    return model.with_parts(
        encoder=encoder,
        prototypes=prototypes,
        preprocessing=preprocessing,
        origin=Origin(
            images=images,
            value_range=model.value_range if value_range is None else value_range,
            provenance={**embeddings_record(store), "split": split, **model.provenance},
            training_keys=keys,
            training_names=read_prototype_names(batches, prototypes),
        ),
    )


def _encoder_of(model: PrototypeModel, batches: Batches, spec: Mapping[str, Any] | None) -> Encoder:
    """Returns a model's encoder, or its network as one, whose output is the embedding."""
    if isinstance(model.encoder, Encoder):
        return model.encoder
    first = next(iter(batches), None)
    if first is None:
        raise LookalikeError("there are no training images")
    return Encoder(model.encoder, first.inputs, head="output", spec=None if spec is None else dict(spec))
