"""Updates a prototype model with more data: new classes, or new samples of known classes [ours].

The prototypes of classes without new samples stay as they are, to the last bit.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike._core.files import at_least_single, read_rows
from lookalike._core.names import visible, without_common_folder
from lookalike._core.untouched import keeps_random_states
from lookalike.conversion.options import UPDATE_OPTIONS, Settings, settings_of
from lookalike.conversion.per_class import DEFAULT_N_PROTOTYPES, Clustering, NPrototypes, learn_class, numbers_per_class
from lookalike.conversion.steps import as_batches, check_finite, cut_classifier
from lookalike.conversion.survey import Survey
from lookalike.conversion.temperature import Temperature
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.checking import check_store
from lookalike.encoder import Encoder, match_names
from lookalike.encoder.class_names import are_numbers
from lookalike.model import PrototypeModel
from lookalike.model.class_labels import check_named, labels_in_model
from lookalike.model.classifier import NearestPrototype
from lookalike.model.images import Origin, pixels_of, preprocessing_of, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, euclidean_distances

_CELLS = 20_000_000  # samples × dimensions read at a time: 80 MB of float32


@keeps_random_states
@torch.inference_mode(False)
def update_model(
    model: PrototypeModel,
    more: Any,
    previous: EmbeddingStore | None,
    *,
    n_prototypes: NPrototypes | None,
    seed: int | None,
    options: Mapping[str, Any],
) -> PrototypeModel:
    """Returns a new model, updated with the given data; see ``PrototypeModel.update``.

    Args:
        model: The model to update; it stays as it is.
        more: New data, or their embeddings.
        previous: Embeddings of the previous training data, or None.
        n_prototypes: Number of prototypes of new classes; None takes the number of the conversion.
        seed: Seed of the clustering; None takes that of the conversion.
        options: Further options by name; a temperature of ``"auto"`` keeps the model's temperature.
    """
    if model.has_patches:
        raise LookalikeError("a model of patches is not updated: convert all data again, with level='patch'")
    if not isinstance(model.classifier, NearestPrototype):
        raise LookalikeError(
            f"a model that decides by {model.classifier.name!r} is not updated: its prototypes are no means of "
            "training images, which could move; convert its network with all data (lookalike.convert)"
        )
    settings = _settings_of_update(model, n_prototypes, seed, options)
    if model.is_calibrated:
        warn_of("the updated model has other prototypes and is not calibrated; call calibrate(validation) again")
    if model.annotations is not None:
        warn_of("the updated model has other prototypes: their names, descriptions and pins are not kept")
    checks.optional(checks.instance, "previous", previous, EmbeddingStore, "an EmbeddingStore")
    batches = None if isinstance(more, EmbeddingStore) else as_batches(more, settings.reading, model.preprocessing)
    encoder = cut_classifier(model, batches, settings.cut)
    store = _new_embeddings(more, batches, encoder, settings)
    old_prototypes, similarity = copy.deepcopy(model.prototypes).cpu(), copy.deepcopy(model.similarity).cpu()
    class_names, labels = merge_class_names(old_prototypes.class_names, store.class_names, store.labels)
    _warn_of_moves(model, labels)
    updated, notes = update_prototypes(
        old_prototypes, similarity, store.embeddings, labels, class_names, settings.clustering
    )
    for note in notes:
        warn_of(note)
    offset = _next_number(model, previous)
    nearest_from = model.provenance.get("nearest_from", "class")
    n_images = settings.gallery.n_images if "n_images" in settings.given else None
    n_before = model.provenance.get("n_samples")  # None in models that do not know
    new_data = (store.embeddings, labels, store.indices)
    previous_data = None if previous is None else _previous_data(previous, encoder, class_names)
    prototypes = _survey_update(old_prototypes, updated, similarity, new_data, previous_data, offset, nearest_from)
    temperature = settings.probabilities.temperature
    classifier, calibration = copy.deepcopy(model.classifier), Temperature(model.classifier.temperature, "kept")
    if temperature != "auto":
        classifier = NearestPrototype(classifier.reading, float(temperature))
        calibration = Temperature(float(temperature), "given")
    keys = record_of(batches)[1]
    is_stream = batches is None or not batches.can_fetch
    _warn_of_repeats(model, keys, len(store), None if is_stream else store.info.get("data"))
    entry = {
        "n_samples": len(store),
        "first_sample": offset,
        "new_classes": class_names[old_prototypes.n_classes :],
        "statistics": "put together" if previous is None else "exact",
        "data": store.info.get("data"),
        "method": "KMEx",
        "similarity": similarity.name,
        **settings.clustering.to_dict(),
    }
    return PrototypeModel(
        encoder,
        prototypes,
        similarity,
        classifier,
        preprocessing=model.preprocessing or preprocessing_of(batches),
        origin=Origin(
            images=_updated_images(model, prototypes, batches, offset, n_images),
            value_range=model.value_range,
            provenance={
                **model.provenance,
                "calibration": calibration.to_dict(),
                "joined": [*model.provenance.get("joined", []), entry],
                **({} if n_before is None else {"n_samples": n_before + len(store)}),
                "skipped": model.provenance.get("skipped", 0) + len(store.skipped),
                "next_sample": offset + store.next_index,
            },
            training_keys=_merged_keys(model.training_keys, keys),
            training_names=_updated_names(model, prototypes, batches, offset),
        ),
    )


def _new_embeddings(more: Any, batches: Batches | None, encoder: Encoder, settings: Settings) -> EmbeddingStore:
    """Embeds the new data, or takes the embeddings that were given; checks them either way."""
    store: EmbeddingStore = more
    if batches is not None:
        store = embed(encoder, batches, precision=settings.reading.precision, progress=settings.progress)
    check_store(store, encoder, batches)
    check_finite(store)
    return store


def _warn_of_moves(model: PrototypeModel, labels: np.ndarray) -> None:
    """Warns where prototypes with new images move to something else than the mean of their images, old and new."""
    if not bool((labels < model.n_classes).any()):
        return
    if model.provenance.get("clusterer") == "kmedoids":
        warn_of(
            "prototypes of classes with new images move to means, and are embeddings of training images no more, as "
            "kmedoids chose them; convert all data again to keep that"
        )
    if not model.similarity.falls_with_distance:
        warn_of(
            f"prototypes are means of the images that are nearest by distance, and by {model.similarity.name!r} other "
            "images count behind them: how far they move is approximate; convert all data again for exact means"
        )
    if "edits" in model.provenance:
        warn_of(
            "the model was edited: its prototypes move towards the means of their images, by which what was erased or "
            "moved comes back in part; make such edits again after the update"
        )


def _warn_of_repeats(model: PrototypeModel, keys: Tensor | None, n_new: int, fingerprint: str | None) -> None:
    """Warns if new images are training images already: by the contents of their files, or all of the data at once.

    Args:
        model: The model before the update.
        keys: Keys of the contents of the new files; None if the data are no files.
        n_new: Number of new images.
        fingerprint: Of the new data; None if it does not tell them from others, as of a stream.
    """
    n_known = 0 if keys is None or model.training_keys is None else int(torch.isin(keys, model.training_keys).sum())
    fingerprints = model.provenance.get("fingerprints") or {}
    joined = [fingerprints.get("data"), *(entry.get("data") for entry in model.provenance.get("joined", []))]
    if n_known:
        images_are = f"{n_known:,} of the {n_new:,} new images are"
    elif fingerprint is not None and fingerprint in joined:
        images_are = f"the {n_new:,} new images are"
    else:
        return
    warn_of(f"{images_are} training images of the model already, and now count twice; leave them out of the new data")


def _previous_data(
    previous: EmbeddingStore, encoder: Encoder, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns embeddings [N, D], labels [N] in the numbering of ``class_names``, and indices [N] of the previous data.

    Raises:
        LookalikeError: If these embeddings were made by another network, are not finite, or have other classes.
    """
    check_store(previous, encoder, None)
    check_finite(previous)
    labels = labels_in_model(previous.labels, previous.class_names, class_names, "previous")
    return previous.embeddings, labels, previous.indices


def _settings_of_update(
    model: PrototypeModel, n_prototypes: NPrototypes | None, seed: int | None, options: Mapping[str, Any]
) -> Settings:
    """Returns the options of an update: those that are given, and else those of the conversion."""
    recorded = model.provenance
    number = recorded.get("n_prototypes", DEFAULT_N_PROTOTYPES) if n_prototypes is None else n_prototypes
    if n_prototypes is None and isinstance(number, Mapping):  # a mapping names the previous classes only
        number = DEFAULT_N_PROTOTYPES
    recorded_options: dict[str, Any] = {name: recorded[name] for name in ("clusterer", "n_init") if name in recorded}
    seed = int(recorded.get("seed", recorded.get("random_state", 0))) if seed is None else seed
    return settings_of("update", number, seed, {**recorded_options, **options}, UPDATE_OPTIONS)


def _next_number(model: PrototypeModel, previous: EmbeddingStore | None) -> int:
    """Returns the number of the first new sample, which no previous sample has, not even one that was left out."""
    least = 0 if previous is None else previous.next_index
    recorded = model.provenance.get("next_sample")
    if recorded is not None:
        return max(int(recorded), least)
    nearest = model.prototypes.nearest  # a model of an earlier version
    after_nearest = int(nearest.max()) + 1 if nearest.numel() else 0
    n_read = int(model.provenance.get("n_samples") or 0) + int(model.provenance.get("skipped") or 0)
    return max(after_nearest, n_read, least)


def _survey_update(
    old_prototypes: Prototypes,
    updated: Prototypes,
    similarity: Similarity,
    new_data: tuple[np.ndarray, np.ndarray, np.ndarray],
    previous_data: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    offset: int,
    nearest_from: Literal["class", "any"],
) -> Prototypes:
    """Returns the updated prototypes with the training data behind each; exact if the previous embeddings are given.

    Args:
        old_prototypes: The model's prototypes.
        updated: The updated prototypes, without training data.
        similarity: The model's similarity.
        new_data: Embeddings [N, D], labels [N] and indices [N] of the new samples.
        previous_data: The same of the previous samples, or None.
        offset: Number to add to the new samples' indices.
        nearest_from: As in the conversion.
    """
    embeddings, labels, indices = new_data
    new_survey = Survey.empty(len(updated), old_prototypes.nearest.shape[1] or 1, updated.vectors.dtype)
    if previous_data is None:
        new_survey.add(updated, similarity, embeddings, labels, indices, nearest_from=nearest_from)
        touched = [k for k in range(old_prototypes.n_classes) if bool((labels == k).any())]
        return merge_statistics(old_prototypes, new_survey, updated, touched, offset)
    new_survey.add(updated, similarity, *previous_data, nearest_from=nearest_from)
    new_survey.add(updated, similarity, embeddings, labels, indices + offset, nearest_from=nearest_from)
    return new_survey.finish(updated)


def _merged_keys(previous: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Returns the distinct keys of previous and new training images; None if there are no keys at all."""
    key_tensors = [keys for keys in (previous, new) if keys is not None]
    return torch.cat(key_tensors).unique() if key_tensors else None


def merge_class_names(
    old_names: Sequence[str], new_names: Sequence[str] | None, labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Merges the class names of model and new data, and renumbers the labels of the new data.

    Args:
        old_names: The model's K class names.
        new_names: Class names of the new data; None if the data use the model's class numbers, with new classes from K.
            Names without samples are left out, as a part of a data set has them.
        labels: Classes of the new samples [N], in the numbering of the new data.

    Returns:
        Class names of the updated model, and the labels [N] in its numbering.

    Raises:
        LookalikeError: If numbers of new classes have a gap.
    """
    if new_names is not None:
        check_named(labels, new_names, "new")
        if are_numbers(old_names) and not are_numbers(new_names):
            if len(new_names) != len(old_names):
                raise LookalikeError(
                    f"the model's classes have no names ({listing(list(old_names), 5)}) and the new data's have "
                    f"({listing(list(new_names), 5)}): give the data without names, numbered as the model's, or "
                    "convert again with class_names=…"
                )
            new_names = None  # as many: in their order, as everywhere
    n_of_label = np.bincount(labels, minlength=0 if new_names is None else len(new_names))
    if new_names is None:
        gaps = [k for k in range(len(old_names), len(n_of_label)) if not n_of_label[k]]
        if gaps:
            raise LookalikeError(
                f"the new data have samples of class {len(n_of_label) - 1} and none of class {gaps[0]}; the model has "
                f"{len(old_names)} classes: number new ones from {len(old_names)} without gaps"
            )
        return [*old_names, *(str(k) for k in range(len(old_names), len(n_of_label)))], labels
    with_samples = dict.fromkeys(name for name, n in zip(new_names, n_of_label, strict=True) if n)
    known = match_names(list(with_samples), old_names)  # as everywhere, "Great-White" is "great white"
    if known.ambiguous:
        raise LookalikeError(
            f"the new data have a class '{visible(known.ambiguous[0])}', which stands for several of the model's "
            f"classes, or for one that another name stands for, too: {listing(list(old_names), 8)}"
        )
    class_names = [*old_names, *known.missing]
    numbers = dict(zip(with_samples, known.positions, strict=True))
    numbers |= {name: len(old_names) + position for position, name in enumerate(known.missing)}
    return class_names, np.array([numbers.get(name, -1) for name in new_names], dtype=np.int64)[labels]


def update_prototypes(
    prototypes: Prototypes,
    similarity: Similarity,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    clustering: Clustering,
) -> tuple[Prototypes, list[str]]:
    """Finds prototypes for new classes, and moves the prototypes of known classes that have new samples.

    A new class is clustered as in a conversion. In a known class, each new sample is assigned to the nearest prototype,
    and a prototype p with n previous samples and m new ones z moves to the mean of all of them: (n p + Σ z) / (n + m).

    Args:
        prototypes: The model's prototypes, with their counts.
        similarity: The model's similarity.
        embeddings: Embeddings of the new samples [N, D].
        labels: Classes of the new samples [N], in the numbering of ``class_names``.
        class_names: The model's class names, then those of new classes.
        clustering: Clustering of new classes. With the same seed, a new class gets the prototypes that it would get in
            a conversion of all classes.

    Returns:
        The prototypes in the order of their classes, without training data, and warnings. Prototypes of known classes
        keep their order.
    """
    n_old_classes = prototypes.n_classes
    numbers = _numbers_per_class(clustering.n_prototypes, class_names, n_old_classes)
    vectors: list[Tensor] = []
    prototype_labels: list[int] = []
    notes: list[str] = []
    old_vectors = prototypes.vectors.detach().cpu()
    for k, name in enumerate(class_names):
        rows = np.flatnonzero(labels == k)
        of_class = prototypes.labels.cpu() == k
        if k >= n_old_classes and len(rows):
            members = read_rows(embeddings, rows, at_least_single(embeddings.dtype))
            class_vectors, note = learn_class(members, k, name, similarity, clustering, numbers[k])
            notes += [] if note is None else [note]
        elif len(rows):
            class_vectors = _moved_prototypes(
                old_vectors[of_class], prototypes.counts.cpu()[of_class], similarity, embeddings, rows
            )
        else:
            class_vectors = old_vectors[of_class]
        vectors.append(class_vectors.to(old_vectors.dtype))
        prototype_labels += [k] * len(class_vectors)
    return Prototypes(torch.cat(vectors), torch.tensor(prototype_labels, dtype=torch.int64), class_names), notes


def merge_statistics(
    old: Prototypes, survey_of_new: Survey, updated: Prototypes, changed_classes: Sequence[int], offset: int
) -> Prototypes:
    """Merges the statistics of the previous training data with those of the new samples.

    Classes without new samples keep their statistics. For the others, counts are added, the nearest samples are chosen
    from both, and purity and quantiles are means weighted by the numbers of samples, but for the least and the greatest
    distance. These are close, but not equal, to what a survey of all samples would give. Purity is of the samples at
    hand: no old sample is compared with new classes, and no new one with the classes that keep their statistics.

    Args:
        old: The model's prototypes.
        survey_of_new: Survey of the new samples, numbered from 0.
        updated: Prototypes from ``update_prototypes``.
        changed_classes: Known classes that have new samples.
        offset: Number to add to the new samples' indices.
    """
    new = survey_of_new.finish(updated)
    new.nearest[new.nearest >= 0] += offset
    fields = ("counts", "purity", "nearest", "distances", "percentiles", "quantiles")
    merged = {name: getattr(new, name).clone() for name in fields}
    n_nearest = old.nearest.shape[1]
    for k in range(old.n_classes):
        old_indices, updated_indices = torch.nonzero(old.labels == k)[:, 0], torch.nonzero(updated.labels == k)[:, 0]
        for old_index, index in zip(old_indices.tolist(), updated_indices.tolist(), strict=True):
            if k not in changed_classes:
                for name in fields:
                    merged[name][index] = getattr(old, name)[old_index]
                continue
            n_old, n_new = int(old.counts[old_index]), int(new.counts[index])
            old_share = n_old / max(1, n_old + n_new)
            merged["counts"][index] = n_old + n_new
            distances = torch.cat([old.distances[old_index], new.distances[index]])
            order = distances.argsort(stable=True)[:n_nearest]
            for name in ("nearest", "distances", "percentiles"):
                merged[name][index] = torch.cat([getattr(old, name)[old_index], getattr(new, name)[index]])[order]
            for name in ("purity", "quantiles"):
                old_value, new_value = getattr(old, name)[old_index], getattr(new, name)[index]
                mean = old_share * old_value + (1 - old_share) * new_value
                merged[name][index] = torch.where(
                    new_value.isnan(), old_value, torch.where(old_value.isnan(), new_value, mean)
                )
            # of all distances the least and the greatest are those of either, and no training sample is beyond them
            least, most = merged["quantiles"][index, :1], merged["quantiles"][index, -1:]
            least.copy_(torch.fmin(old.quantiles[old_index, :1], new.quantiles[index, :1]))
            most.copy_(torch.fmax(old.quantiles[old_index, -1:], new.quantiles[index, -1:]))
    return Prototypes(updated.vectors, updated.labels, updated.class_names, **merged)


def _numbers_per_class(n_prototypes: NPrototypes, class_names: Sequence[str], n_old_classes: int) -> list[int | None]:
    """Returns the number of prototypes of each class; a mapping needs entries for new classes only."""
    if isinstance(n_prototypes, Mapping):
        named = {name for k, name in enumerate(class_names) if name in n_prototypes or k in n_prototypes}
        n_prototypes = {**{name: 1 for name in class_names[:n_old_classes] if name not in named}, **n_prototypes}
    return numbers_per_class(n_prototypes, list(class_names))


def _moved_prototypes(
    vectors: Tensor, counts: Tensor, similarity: Similarity, embeddings: np.ndarray, rows: np.ndarray
) -> Tensor:
    """Moves each of a class's prototypes [L, D] to the mean of its previous samples and the new ones nearest to it."""
    sums, n_new = torch.zeros(vectors.shape, dtype=torch.float64), torch.zeros(len(vectors), dtype=torch.float64)
    centres = similarity.project(vectors)
    for chunk in np.array_split(rows, max(1, len(rows) * vectors.shape[1] // _CELLS)):
        z = torch.from_numpy(read_rows(embeddings, chunk)).to(vectors.dtype)
        nearest = euclidean_distances(similarity.project(z), centres).argmin(1)
        sums.index_add_(0, nearest, z.double())
        n_new += torch.bincount(nearest, minlength=len(vectors))
    n_old = counts.double()[:, None]
    moved = ((n_old * vectors.double() + sums) / (n_old + n_new[:, None]).clamp_min(1)).to(vectors.dtype)
    return torch.where(n_new[:, None] > 0, moved, vectors)


def _updated_names(
    model: PrototypeModel, prototypes: Prototypes, batches: Batches | None, offset: int
) -> dict[int, str]:
    """Returns the names of each prototype's nearest samples: previous ones from the model, new ones from the data."""
    indices = prototypes.nearest[prototypes.nearest >= 0].unique().tolist()
    names = {index: model.training_names[index] for index in indices if index in model.training_names}
    if batches is None or not batches.can_fetch:
        return names
    new = {index: batches.name_of(index - offset) for index in indices if index >= offset}
    known_names = {index: name for index, name in new.items() if name is not None}
    return names | dict(zip(known_names, without_common_folder(list(known_names.values())), strict=True))


def _updated_images(
    model: PrototypeModel, prototypes: Prototypes, batches: Batches | None, offset: int, n_images: int | None
) -> Tensor | None:
    """Returns the pixels of each prototype's nearest images [P, M, H, W, C].

    Images of previous samples come from the model; images of new samples are read from the data. ``n_images`` is None
    for as many as the model has.

    Returns:
        None if none are asked for or the model has none; also, with a warning, if an image is available from neither.
    """
    old_images = model.images
    if old_images is None or model.value_range is None or n_images == 0:
        return None
    if batches is None or not batches.can_fetch:
        _warn_without_images("the new data are no images that can be read one by one")
        return None
    n_per_prototype = old_images.shape[1] if n_images is None else min(old_images.shape[1], n_images)
    indices = prototypes.nearest[:, :n_per_prototype]
    indices = torch.where(indices < 0, indices[:, :1], indices)  # too few images: repeat the nearest
    image_of = {
        int(index): image
        for row, images in zip(model.prototypes.nearest[:, : old_images.shape[1]].tolist(), old_images, strict=True)
        for index, image in zip(row, images, strict=False)
    }
    new = torch.unique(indices[indices >= offset])
    for rows in new.split(batches.batch_size) if len(new) else ():
        inputs = batches.fetch((rows - offset).tolist())
        pixels = pixels_of(inputs, model.value_range.cpu(), model.preprocessing)
        if pixels.shape[1:] != old_images.shape[2:]:
            _warn_without_images("the new images have another size than the model's")
            return None
        image_of |= dict(zip(rows.tolist(), pixels, strict=True))
    if any(index not in image_of for index in indices.flatten().tolist()):
        _warn_without_images("the model does not have the image of a previous sample that is now among the nearest")
        return None
    return torch.stack([torch.stack([image_of[index] for index in row]) for row in indices.tolist()])


def _warn_without_images(reason: str) -> None:
    """Warns that the updated model shows no images of its prototypes."""
    warn_of(f"the updated model keeps no images of its prototypes: {reason}; convert all data again to have them")
