"""Prototypes of parts: the patches of each class are clustered instead of its images (paper, appendix A.7)."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.progress import progress_bar
from lookalike._core.provenance import versions
from lookalike.conversion.options import Settings, refuse_options
from lookalike.conversion.per_class import learn_prototypes
from lookalike.conversion.steps import as_batches, cut_classifier
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import choose_temperature
from lookalike.data import Batches
from lookalike.embedding import name_samples
from lookalike.encoder import LoadedClassifier, device_of, dtype_of, place
from lookalike.model.images import pixels_of, preprocessing_of, value_range_of
from lookalike.model.patches import PatchEncoder, PatchModel
from lookalike.model.similarity import Similarity, make_similarity

_NOT_FOR_PATCHES = dict.fromkeys(
    (
        "memory_limit",
        "probabilities",
        "n_nearest",
        "nearest_from",
        "output",
        "class_order",
        "precision",
        "advice",
        "embeddings",
        "working_folder",
    ),
    "is an option of whole images: leave it out, or convert with level='image'",
)


def convert_patches(
    model: nn.Module | LoadedClassifier, train: Any, similarity: str | Similarity, settings: Settings
) -> PatchModel:
    """Converts a classifier of images into one that decides by their parts; see ``lookalike.convert``.

    The temperature is fitted to held-out images, with all patches of an image held out together. A patch is labelled
    with its image's class, even if it shows nothing of that class; the fitted probabilities reflect this uncertainty.

    Raises:
        LookalikeError: If the network has no feature map, the data are not images, or an option does not apply to
            patches.
    """
    refuse_options(settings, _NOT_FOR_PATCHES)
    batches = as_batches(train, settings.reading, getattr(model, "preprocessing", None))
    if batches.is_random():
        warn_of("the training images are augmented at random, and the patches with them; use the plain transform")
    first = next(iter(batches), None)
    if first is None or not isinstance(first.inputs, Tensor) or first.inputs.ndim != 4:
        raise LookalikeError("patches are parts of images: training images [N, C, H, W] are needed")
    encoder = PatchEncoder(cut_classifier(model, batches, settings.cut), first.inputs)
    patches, labels, places = _read_patches(encoder, batches, settings)
    highest = int(labels.max())
    class_names = list(settings.class_names or batches.class_names or map(str, range(highest + 1)))
    metric = copy.deepcopy(make_similarity(similarity, settings.similarity_options))
    metric.fit(patches, labels, encoder.encoder.head_weight)
    clustering = settings.clustering
    learned = learn_prototypes(patches, labels, class_names, metric, clustering, progress=settings.progress)
    temperature = choose_temperature(
        settings.probabilities.temperature, patches, labels, learned, metric, seed=clustering.seed, groups=places[:, 0]
    )
    prototypes = survey(learned, metric, patches, labels, n_nearest=max(1, settings.gallery.n_images))
    rows = prototypes.nearest
    nearest = torch.where((rows < 0)[..., None], -1, torch.from_numpy(places)[rows.clamp_min(0)])
    return PatchModel(
        encoder,
        prototypes,
        metric,
        nearest,
        _read_images(batches, nearest) if settings.gallery.n_images else None,
        {
            "method": "KMEx of patches",
            "similarity": metric.name,
            **clustering.to_dict(),
            "max_patches": settings.max_patches,
            "n_patches": len(patches),
            "calibration": temperature.to_dict(),
            "versions": versions(),
        },
        temperature.value,
    )


def _read_patches(
    encoder: PatchEncoder, batches: Batches, settings: Settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns patches [n, D], their classes [n] and places [n, 3]: sample, row, column."""
    height, width = encoder.grid
    samples_of_class: dict[int, _PatchSample] = {}
    rng = np.random.default_rng(settings.clustering.seed)
    positions = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad(), progress_bar("Reading patches", batches.total, settings.progress) as advance:
        for batch in batches:
            x = place(batch.inputs, device_of(encoder), dtype_of(encoder))
            patches = encoder(x).float().cpu().numpy().reshape(len(batch.labels), -1, encoder.embedding_dim)
            if not np.isfinite(patches).all():
                bad = batch.indices[~np.isfinite(patches).all((1, 2))]
                raise LookalikeError(f"NaN or infinite features: {name_samples(bad, batches.describe)}")
            for label in np.unique(batch.labels):
                of_class = batch.labels == label
                indices = np.repeat(batch.indices[of_class], len(positions))[:, None]
                places = np.concatenate([indices, np.tile(positions, (int(of_class.sum()), 1))], 1)
                sample = samples_of_class.setdefault(int(label), _PatchSample(settings.max_patches, rng))
                sample.add(patches[of_class].reshape(-1, encoder.embedding_dim), places)
            advance(len(batch.labels))
    classes = [(label, *samples_of_class[label].all()) for label in sorted(samples_of_class)]
    return (
        np.concatenate([patches for _, patches, _ in classes]),
        np.concatenate([np.full(len(patches), label, dtype=np.int64) for label, patches, _ in classes]),
        np.concatenate([places for _, _, places in classes]),
    )


class _PatchSample:
    """Patches of one class: all of them, or a random sample of a bounded size.

    Each patch gets a random key, and the patches with the smallest keys are kept. So memory stays bounded while patches
    arrive, and the order in which they arrive does not bias the sample.
    """

    def __init__(self, at_most: int | None, rng: np.random.Generator) -> None:
        self.at_most, self.rng = at_most, rng
        self.chunks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, patches: np.ndarray, places: np.ndarray) -> None:
        self.chunks.append((patches, places, self.rng.random(len(patches))))
        if self.at_most is not None and sum(len(chunk[0]) for chunk in self.chunks) > 2 * self.at_most:
            self._thin()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        self._thin()
        patches, places, _ = self.chunks[0]
        return patches, places

    def _thin(self) -> None:
        """Joins the chunks, and keeps the patches with the smallest keys."""
        patches, places, keys = (np.concatenate(column) for column in zip(*self.chunks, strict=True))
        if self.at_most is not None and len(keys) > self.at_most:
            rows = np.sort(np.argpartition(keys, self.at_most)[: self.at_most])
            patches, places, keys = patches[rows], places[rows], keys[rows]
        self.chunks = [(patches, places, keys)]


def _read_images(batches: Batches, places: Tensor) -> Tensor | None:
    """Reads the training images that contain patches at places [P, M, 3]; uint8 [P, M, H, W, C]."""
    if not batches.can_fetch:
        return None
    samples = torch.where(places[..., 0] < 0, places[:, :1, 0], places[..., 0]).numpy()
    unique, position = np.unique(samples, return_inverse=True)
    inputs = batches.fetch(unique)
    if not isinstance(inputs, Tensor) or inputs.shape[1] not in (1, 3):
        return None
    preprocessing = preprocessing_of(batches)
    pixels = pixels_of(inputs, value_range_of(inputs, preprocessing), preprocessing)
    return pixels[torch.from_numpy(position.reshape(samples.shape))]
