"""Prototypes of parts: the patches of each class are clustered instead of its images (paper, appendix A.7).

The embedding of an image is a row of S patches [S · D]. Read as [N · S, D], the embeddings of the training images are
those of N · S samples, and each step is the one of whole images: clustering, survey, temperature. If they take more
than the memory limit, they go to a temporary folder and are read from there in chunks.
"""

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core.errors import BrokenImageError, LookalikeError, warn_of
from lookalike._core.files import read_rows
from lookalike.conversion.assembling import ModelPieces, assemble, embeddings_record, memory_record
from lookalike.conversion.clustering import clustering_on
from lookalike.conversion.options import Settings, refuse_options
from lookalike.conversion.out_of_core import BYTES_OF_SINGLE, bytes_of
from lookalike.conversion.per_class import check_classes, learn_prototypes
from lookalike.conversion.steps import class_names_of, cut_and_order, open_data, options_record
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import choose_temperature
from lookalike.data import Batches
from lookalike.doubt.calibration import best_temperature
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import LoadedClassifier, device_of
from lookalike.encoder.patches import PatchEncoder
from lookalike.model import PrototypeModel
from lookalike.model.decision import DECISIONS, PatchDecision, PatchLinear
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, make_similarity

_SCALED_BY = 256  # images
_ROWS = 256  # images whose patches are compared with all prototypes at a time
_TEMPERATURES = (1e-3, 20.0)  # of images: lowest and highest
_NOT_FOR_PATCHES = dict.fromkeys(
    ("probabilities", "nearest_from", "advice", "embeddings", "working_folder"),
    "is an option of whole images: leave it out, or convert with level='image'",
)


def convert_patches(
    model: nn.Module | LoadedClassifier, train: Any, similarity: str | Similarity, settings: Settings
) -> PrototypeModel:
    """Converts a classifier of images into one that decides by their parts; see ``lookalike.convert``.

    The temperature is fitted to held-out images, with all patches of an image held out together. A patch is labelled
    with its image's class, even if it shows nothing of that class; the fitted probabilities reflect this uncertainty.

    Raises:
        LookalikeError: If the network has no feature map, the data are not images, or an option does not apply to
            patches.
    """
    refuse_options(settings, _NOT_FOR_PATCHES)
    started = time.perf_counter()
    batches, preprocessing = open_data(model, train, settings)
    first = None if batches is None else next(iter(batches), None)
    if batches is None or first is None or not isinstance(first.inputs, Tensor) or first.inputs.ndim != 4:
        raise LookalikeError("patches are parts of images: training images [N, C, H, W] are needed")
    cut, layers = cut_and_order(model, train, batches, settings), settings.patches.layers
    joins = layers == "b234" or not isinstance(layers, str)
    encoder = PatchEncoder(cut, _spread(batches) if joins else first.inputs, layers)
    with _embedded(encoder, batches, settings) as store:
        class_names = class_names_of(settings, store)
        patches = _Patches(store, encoder, settings)
        metric = copy.deepcopy(make_similarity(similarity, settings.similarity_options))
        metric.fit(patches.embeddings, patches.labels, encoder.head_weight)
        with clustering_on(device_of(encoder.model)):
            find = _shared_prototypes if settings.patches.shared else _prototypes_of_classes
            prototypes = _with_positions(find(patches, class_names, metric, settings), patches, store)
        groups = patches.rows // encoder.n_patches
        temperature = choose_temperature(
            settings.probabilities.temperature, patches.embeddings, patches.labels, prototypes, metric,
            seed=settings.clustering.seed, groups=groups,
        )  # fmt: skip
        decision = _decision(settings, encoder, store, prototypes, metric, temperature.value)
        provenance = {
            **options_record(metric, settings, class_names),
            "method": "KMEx of patches",
            **settings.patches.to_dict(),
            **embeddings_record(store),
            **_memory_record(patches, encoder, class_names, settings),
            "n_patches": len(patches.labels),
            "calibration": temperature.to_dict(),
        }
    pieces = ModelPieces(encoder, prototypes, metric, decision)
    return assemble(pieces, batches, preprocessing, settings, provenance, started)


def _spread(batches: Batches) -> Tensor:
    """Returns images on which the scales of several layers are measured, whatever the size of a batch.

    They are spread evenly over the data, whose order may be that of the classes; of a stream they are the first.
    """
    if batches.can_fetch and batches.total:
        rows = np.linspace(0, batches.total - 1, min(batches.total, _SCALED_BY)).round().astype(int)
        with suppress(BrokenImageError):  # a pass over the data skips them, or says which they are
            images: Tensor = batches.fetch(rows if batches.rows is None else batches.rows[rows])
            return images
    parts: list[Tensor] = []
    for batch in batches:
        parts.append(batch.inputs)
        if sum(map(len, parts)) >= _SCALED_BY:
            break
    return torch.cat(parts)[:_SCALED_BY]


@contextmanager
def _embedded(encoder: PatchEncoder, batches: Batches, settings: Settings) -> Iterator[EmbeddingStore]:
    """Embeds the training images, in a temporary folder if all patches take more than the memory limit."""
    reading, needed = settings.reading, (batches.total or 0) * encoder.embedding_dim * BYTES_OF_SINGLE
    if batches.total is not None and needed <= bytes_of(settings.clustering.memory_limit):
        yield embed(encoder, batches, precision=reading.precision, devices=reading.devices, progress=settings.progress)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-patches-") as folder:
        yield embed(
            encoder,
            batches,
            folder=Path(folder) / "patches",
            precision=reading.precision,
            devices=reading.devices,
            progress=settings.progress,
        )


def _memory_record(
    patches: "_Patches", encoder: PatchEncoder, class_names: list[str], settings: Settings
) -> dict[str, Any]:
    """Returns what is recorded about the memory of the clustering, which takes shared patches as one class."""
    labels = np.zeros_like(patches.labels) if settings.patches.shared else patches.labels
    names = ["all classes"] if settings.patches.shared else class_names
    return memory_record(labels, encoder.patch_dim, names, settings)


class _Patches:
    """The patches of stored images, all of them or a random sample of each class.

    Attributes:
        embeddings: [n, D].
        labels: The classes of their images [n].
        rows: Their numbers among all patches of the store [n]: S times the image's row, plus the position.
    """

    def __init__(self, store: EmbeddingStore, encoder: PatchEncoder, settings: Settings) -> None:
        self.n_patches = encoder.n_patches
        all_patches = store.embeddings.reshape(-1, encoder.patch_dim)
        labels, at_most = np.repeat(store.labels, self.n_patches), settings.patches.max_patches
        if at_most is None:
            self.embeddings, self.labels, self.rows = all_patches, labels, np.arange(len(labels))
            return
        rng = np.random.default_rng(settings.clustering.seed)
        of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        drawn = [rng.permutation(rows)[:at_most] for rows in of_classes]
        self.rows = np.sort(np.concatenate(drawn))
        self.embeddings, self.labels = read_rows(all_patches, self.rows, np.dtype(np.float32)), labels[self.rows]


def _prototypes_of_classes(
    patches: _Patches, class_names: list[str], similarity: Similarity, settings: Settings
) -> Prototypes:
    """Clusters the patches of each class."""
    learned = learn_prototypes(
        patches.embeddings, patches.labels, class_names, similarity, settings.clustering, progress=settings.progress
    )
    return survey(learned, similarity, patches.embeddings, patches.labels, n_nearest=settings.gallery.n_nearest)


def _shared_prototypes(
    patches: _Patches, class_names: list[str], similarity: Similarity, settings: Settings
) -> Prototypes:
    """Clusters the patches of all classes together.

    The patches of a shared prototype are all to which it is the most similar one, whatever their class. Its own class
    is the one of which it has the largest share.
    """
    check_classes(np.bincount(patches.labels, minlength=len(class_names)), class_names)
    together = np.zeros(len(patches.labels), np.int64)
    learned = learn_prototypes(
        patches.embeddings, together, ["all"], similarity, settings.clustering, progress=settings.progress
    )
    surveyed = survey(learned, similarity, patches.embeddings, together, n_nearest=settings.gallery.n_nearest)
    by_class = np.zeros((len(learned), len(class_names)))
    for start in range(0, len(patches.labels), _ROWS * patches.n_patches):
        rows = slice(start, start + _ROWS * patches.n_patches)
        z = torch.from_numpy(np.array(patches.embeddings[rows])).to(learned.vectors.dtype)
        with torch.no_grad():
            nearest = similarity(z, learned.vectors).argmax(1).numpy()
        np.add.at(by_class, (nearest, patches.labels[rows]), 1)
    labels = (by_class / np.bincount(patches.labels, minlength=len(class_names)).clip(1)).argmax(1)
    with np.errstate(invalid="ignore"):  # no patch is most similar to the prototype
        purity = by_class[np.arange(len(labels)), labels] / by_class.sum(1)
    names = ("counts", "nearest", "distances", "percentiles", "quantiles")
    return Prototypes(
        surveyed.vectors,
        torch.from_numpy(labels),
        class_names,
        **{name: getattr(surveyed, name) for name in names},
        purity=torch.from_numpy(purity).to(surveyed.purity.dtype),
    )


def _with_positions(surveyed: Prototypes, patches: _Patches, store: EmbeddingStore) -> Prototypes:
    """Turns the rows of the nearest patches into the numbers of their images and their positions there."""
    is_there = surveyed.nearest >= 0
    rows = torch.from_numpy(patches.rows)[surveyed.nearest.clamp_min(0)]
    samples = torch.from_numpy(store.indices)[rows // patches.n_patches]
    names = ("counts", "purity", "distances", "percentiles", "quantiles")
    return Prototypes(
        surveyed.vectors,
        surveyed.labels,
        surveyed.class_names,
        **{name: getattr(surveyed, name) for name in names},
        nearest=torch.where(is_there, samples, -1),
        positions=torch.where(is_there, rows % patches.n_patches, -1),
    )


def _decision(
    settings: Settings,
    encoder: PatchEncoder,
    store: EmbeddingStore,
    prototypes: Prototypes,
    similarity: Similarity,
    temperature: float,
) -> PatchDecision:
    """Returns the rule that turns the patches' similarities into the image's class, with its probabilities fitted."""
    kind = DECISIONS[settings.patches.decision]

    def evidence() -> Iterator[tuple[slice, Tensor]]:
        """Yields the similarities of each patch [n, S, P], batch by batch of the images."""
        for rows in store.parts(_ROWS):
            z = torch.from_numpy(np.array(store.embeddings[rows])).to(prototypes.vectors.dtype)
            similarities: Tensor = similarity(z.reshape(-1, encoder.patch_dim), prototypes.vectors)
            yield rows, similarities.unflatten(0, (-1, encoder.n_patches))

    with torch.no_grad():
        if kind is PatchLinear:
            shares = np.zeros((len(store), len(prototypes)))
            for rows, similarities in evidence():
                nearest = nn.functional.one_hot(similarities.argmax(2), len(prototypes))
                shares[rows] = nearest.double().mean(1).numpy()
            decision: PatchDecision = PatchLinear.fit(shares, store.labels, prototypes.n_classes, temperature)
        else:
            decision = kind(temperature)
        # linear scores have no unit, in which a temperature could be given
        is_fitted = settings.probabilities.temperature == "auto" or kind is PatchLinear
        if is_fitted and prototypes.n_classes > 1:
            log_p = [
                decision.log_probabilities(similarities, prototypes.labels, prototypes.n_classes)
                for _, similarities in evidence()
            ]
            decision.image_temperature = _image_temperature(torch.cat(log_p).double(), torch.from_numpy(store.labels))
    return decision


def _image_temperature(log_p: Tensor, labels: Tensor) -> float:
    """Returns the T for which softmax(log p / T) has the smallest log loss on the training images.

    Unlike the patches' temperature, it is fitted to images that the prototypes were made from: few prototypes of many
    patches do not learn single images by heart. Targets are smoothed by one image in n + 2, as for patches.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(temperature: float) -> float:
        scaled = (log_p / temperature).log_softmax(1)
        of_label = scaled.gather(1, labels[:, None]).mean()
        return -float((1 - smoothing) * of_label + smoothing * scaled.mean())

    temperature = best_temperature(loss, _TEMPERATURES)
    if temperature is None:
        warn_of("the temperature of the images was not fitted and is 1: their log loss is not finite")
    return temperature or 1.0
