"""Updates a prototype model with more data: classes that it does not know, or more samples of those it knows [ours].

The prototypes of other classes stay as they are, to the last bit.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.files import at_least_single, read_rows
from lookalike._core.untouched import keeps_random_states
from lookalike.conversion.options import Settings
from lookalike.conversion.per_class import Clustering, NPrototypes, learn_class, numbers_per_class
from lookalike.conversion.steps import as_batches, check_finite, check_store, cut_classifier
from lookalike.conversion.survey import Survey
from lookalike.conversion.temperature import Temperature
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype, TransparentClassifier
from lookalike.model.images import pixels_of, preprocessing_of, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, euclidean_distances

_CELLS = 20_000_000  # rows × dimensions moved at a time


@keeps_random_states
@torch.inference_mode(False)
def update_model(
    model: PrototypeModel,
    more: Any,
    previous: EmbeddingStore | None,
    settings: Settings,
) -> PrototypeModel:
    """Returns a new model, updated with the given data; see ``PrototypeModel.update``.

    Args:
        model: Stays as it is.
        more: New data, or their embeddings.
        previous: The embeddings of the previous training data, or None.
        settings: Options; a temperature of ``"auto"`` keeps the model's.
    """
    checks.optional(checks.instance, "previous", previous, EmbeddingStore, "an EmbeddingStore")
    batches = None if isinstance(more, EmbeddingStore) else as_batches(more, settings.reading, model.preprocessing)
    encoder = cut_classifier(model, batches, settings.cut)
    reading = settings.reading
    store = (
        more if batches is None else embed(encoder, batches, precision=reading.precision, progress=settings.progress)
    )
    check_store(store, encoder, batches)
    check_finite(store)
    before, similarity = copy.deepcopy(model.prototypes).cpu(), copy.deepcopy(model.similarity).cpu()
    class_names, labels = joined_labels(before.class_names, store.class_names, store.labels)
    joined, notes = join(before, similarity, store.embeddings, labels, class_names, settings.clustering)
    for note in notes:
        warn_of(note)
    offset = _first_new_number(model, previous)
    new_data = (store.embeddings, labels, store.indices)
    surveyed = _surveyed(before, joined, similarity, new_data, previous, offset)
    temperature = settings.probabilities.temperature
    classifier, calibration = _joined_classifier(model, None if temperature == "auto" else float(temperature))
    entry = {
        "n_samples": len(store),
        "first_sample": offset,
        "new_classes": class_names[before.n_classes :],
        "statistics": "put together" if previous is None else "exact",
        "data": store.info.get("data"),
        "method": "KMEx",
        "similarity": similarity.name,
        **settings.clustering.to_dict(),
    }
    return PrototypeModel(
        encoder,
        surveyed,
        similarity,
        classifier,
        preprocessing=model.preprocessing or preprocessing_of(batches),
        images=_joined_images(model, surveyed, batches, offset, settings.gallery.n_images),
        value_range=model.value_range,
        provenance={
            **model.provenance,
            **({} if calibration is None else {"calibration": calibration.to_dict()}),
            "joined": [*model.provenance.get("joined", []), entry],
            "n_samples": offset + len(store),
        },
        training_keys=_joined_keys(model.training_keys, record_of(batches)[1]),
    )


def _first_new_number(model: PrototypeModel, previous: EmbeddingStore | None) -> int:
    """Returns the number of the first new sample: one more than that of any previous sample."""
    nearest = model.prototypes.nearest
    last = int(nearest.max()) if nearest.numel() else -1
    if previous is not None:
        last = max(last, int(previous.indices.max(initial=-1)))
    return max(int(model.provenance.get("n_samples") or 0), last + 1)


def _surveyed(
    before: Prototypes,
    joined: Prototypes,
    similarity: Similarity,
    new_data: tuple[np.ndarray, np.ndarray, np.ndarray],
    previous: EmbeddingStore | None,
    offset: int,
) -> Prototypes:
    """Returns the updated prototypes with the training data behind each: exact with the previous embeddings.

    Args:
        before: The model's prototypes.
        joined: The updated ones, without data.
        similarity: The model's.
        new_data: Embeddings [N, D], labels [N] and indices [N] of the new samples.
        previous: The embeddings of the previous training data, or None.
        offset: What to add to the new samples' indices.
    """
    embeddings, labels, indices = new_data
    seen = Survey.empty(len(joined), before.nearest.shape[1] or 1, joined.vectors.dtype)
    if previous is None:
        seen.add(joined, similarity, embeddings, labels, indices)
        touched = [k for k in range(before.n_classes) if bool((labels == k).any())]
        return merged_survey(before, seen, joined, touched, offset)
    seen.add(joined, similarity, previous.embeddings, previous.labels, previous.indices)
    seen.add(joined, similarity, embeddings, labels, indices + offset)
    return seen.finish(joined)


def _joined_classifier(
    model: PrototypeModel, temperature: float | None
) -> tuple[TransparentClassifier, Temperature | None]:
    """Returns the classifier of the joined model, and its temperature if similarities have one."""
    classifier = copy.deepcopy(model.classifier)
    if not isinstance(classifier, NearestPrototype):
        if temperature is not None:
            raise LookalikeError(
                f"temperature={temperature} was given, and the model's {classifier.name!r} classifier has none"
            )
        return classifier, None
    if temperature is not None:
        return NearestPrototype(classifier.reading, temperature), Temperature(temperature, "given")
    return classifier, Temperature(classifier.temperature, "kept")


def _joined_keys(previous: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Returns the training images' keys of both; None where there are none at all."""
    known = [keys for keys in (previous, more) if keys is not None]
    return torch.cat(known).unique() if known else None


def joined_labels(
    known: Sequence[str], names: Sequence[str] | None, labels: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Returns the class names of the joined model, and the new samples' classes in its numbering [N].

    Args:
        known: The model's K names.
        names: The new data's; None if they are numbered as the model's classes are, and new ones from K.
        labels: Their classes [N].
    """
    if names is None:
        top = int(labels.max(initial=-1))
        return [*known, *(str(k) for k in range(len(known), top + 1))], labels
    found = [*known, *(name for name in dict.fromkeys(names) if name not in known)]
    return found, np.array([found.index(name) for name in names], dtype=np.int64)[labels]


def join(
    prototypes: Prototypes,
    similarity: Similarity,
    embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    clustering: Clustering,
) -> tuple[Prototypes, list[str]]:
    """Gives new classes prototypes, and moves those of known classes that have new samples.

    A new class is clustered as any is. A known class's new samples go to its nearest prototypes, each of which moves to
    the mean of all samples that it stands for: (n p + Σ z) / (n + m) for n samples of before and m new ones z.

    Args:
        prototypes: The model's, surveyed.
        similarity: The model's.
        embeddings: Of the new samples [N, D].
        labels: Their classes [N], in the numbering of ``class_names``.
        class_names: The model's names, then those of new classes.
        clustering: Of new classes. A new class gets the prototypes that it would get if all classes were clustered
            with this seed.

    Returns:
        Prototypes by class, those of before first within each, not surveyed; and what to warn of.
    """
    known = prototypes.n_classes
    numbers = _numbers(clustering.n_prototypes, class_names, known)
    vectors: list[Tensor] = []
    owners: list[int] = []
    notes: list[str] = []
    old = prototypes.vectors.detach().cpu()
    for k, name in enumerate(class_names):
        rows = np.flatnonzero(labels == k)
        own = prototypes.labels.cpu() == k
        if k >= known and len(rows):
            members = read_rows(embeddings, rows, at_least_single(embeddings.dtype))
            found, note = learn_class(members, k, name, similarity, clustering, numbers[k])
            notes += [] if note is None else [note]
        elif len(rows):
            found = _moved(old[own], prototypes.counts.cpu()[own], similarity, embeddings, rows)
        else:
            found = old[own]
        vectors.append(found.to(old.dtype))
        owners += [k] * len(found)
    return Prototypes(torch.cat(vectors), torch.tensor(owners, dtype=torch.int64), class_names), notes


def merged_survey(
    before: Prototypes, seen: Survey, joined: Prototypes, touched: Sequence[int], offset: int
) -> Prototypes:
    """Fills joined prototypes in with what was known before and what the new samples alone say.

    Classes without new samples keep all of theirs. For others counts add up, the nearest samples are those of both, and
    quantiles, percentiles and purity are means weighted by the numbers of samples: near to, and not the same as, what a
    survey of all samples would say.

    Args:
        before: The model's prototypes.
        seen: Of the new samples, numbered from 0.
        joined: From ``join``.
        touched: Known classes that have new samples.
        offset: What to add to the new samples' numbers.
    """
    new = seen.finish(joined)
    new.nearest[new.nearest >= 0] += offset
    names = ("counts", "purity", "nearest", "distances", "percentiles", "quantiles")
    filled = {name: getattr(new, name).clone() for name in names}
    m = before.nearest.shape[1]
    for k in range(before.n_classes):
        theirs, ours = torch.nonzero(before.labels == k)[:, 0], torch.nonzero(joined.labels == k)[:, 0]
        for j, i in zip(theirs.tolist(), ours.tolist(), strict=True):
            if k not in touched:
                for name in names:
                    filled[name][i] = getattr(before, name)[j]
                continue
            n, added = int(before.counts[j]), int(new.counts[i])
            share = n / max(1, n + added)
            filled["counts"][i] = n + added
            distances = torch.cat([before.distances[j], new.distances[i]])
            order = distances.argsort(stable=True)[:m]
            for name in ("nearest", "distances", "percentiles"):
                filled[name][i] = torch.cat([getattr(before, name)[j], getattr(new, name)[i]])[order]
            for name in ("purity", "quantiles"):
                old_value, new_value = getattr(before, name)[j], getattr(new, name)[i]
                mean = share * old_value + (1 - share) * new_value
                filled[name][i] = torch.where(
                    new_value.isnan(), old_value, torch.where(old_value.isnan(), new_value, mean)
                )
    return Prototypes(joined.vectors, joined.labels, joined.class_names, **filled)


def _numbers(n_prototypes: NPrototypes, class_names: Sequence[str], known: int) -> list[int | None]:
    """Returns how many prototypes each class gets; a mapping need name new classes only."""
    if isinstance(n_prototypes, Mapping):
        named = {name for k, name in enumerate(class_names) if name in n_prototypes or k in n_prototypes}
        n_prototypes = {**{name: 1 for name in class_names[:known] if name not in named}, **n_prototypes}
    return numbers_per_class(n_prototypes, list(class_names))


def _moved(vectors: Tensor, counts: Tensor, similarity: Similarity, embeddings: np.ndarray, rows: np.ndarray) -> Tensor:
    """Returns a class's prototypes [L, D] as means of what they stood for and the new samples nearest to each."""
    sums, added = torch.zeros(vectors.shape, dtype=torch.float64), torch.zeros(len(vectors), dtype=torch.float64)
    centres = similarity.project(vectors)
    for part in np.array_split(rows, max(1, len(rows) * vectors.shape[1] // _CELLS)):
        z = torch.from_numpy(read_rows(embeddings, part)).to(vectors.dtype)
        nearest = euclidean_distances(similarity.project(z), centres).argmin(1)
        sums.index_add_(0, nearest, z.double())
        added += torch.bincount(nearest, minlength=len(vectors))
    n = counts.double()[:, None]
    moved = ((n * vectors.double() + sums) / (n + added[:, None]).clamp_min(1)).to(vectors.dtype)
    return torch.where(added[:, None] > 0, moved, vectors)


def _joined_images(
    model: PrototypeModel, surveyed: Prototypes, batches: Batches | None, offset: int, n_images: int
) -> Tensor | None:
    """Returns the pixels of each prototype's nearest images [P, M, H, W, C]: old ones the model has, new ones are read.

    Returns:
        None where pixels that are needed are not at hand.
    """
    old = model.images
    if old is None or model.value_range is None or batches is None or not batches.can_fetch:
        return None
    m = min(old.shape[1], max(1, n_images))
    wanted = surveyed.nearest[:, :m]
    wanted = torch.where(wanted < 0, wanted[:, :1], wanted)
    held = {
        int(index): image
        for row, images in zip(model.prototypes.nearest[:, : old.shape[1]].tolist(), old, strict=True)
        for index, image in zip(row, images, strict=False)
    }
    new = torch.unique(wanted[wanted >= offset])
    for rows in new.split(batches.batch_size):
        inputs = batches.fetch((rows - offset).tolist())
        pixels = pixels_of(inputs, model.value_range.cpu(), model.preprocessing)
        held |= dict(zip(rows.tolist(), pixels, strict=True))
    if any(index not in held for index in wanted.flatten().tolist()):
        return None
    return torch.stack([torch.stack([held[index] for index in row]) for row in wanted.tolist()])
