"""Conversion on a Ray cluster, from the data to the self-explainable model."""

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.identity import identifying_as
from lookalike._core.progress import progress_bar
from lookalike._core.provenance import versions
from lookalike._core.untouched import copy_of, process_settings, undoing
from lookalike._core.wording import counted
from lookalike._core.working_folder import alone, lock_in
from lookalike.conversion.assembling import ModelPieces, assemble
from lookalike.conversion.cluster_folder import similarity_key
from lookalike.conversion.on_ray.cluster import connected, import_ray, n_nodes
from lookalike.conversion.on_ray.embedding import Actors, embed_shards
from lookalike.conversion.on_ray.record import prepare_folder, recorded_identity
from lookalike.conversion.on_ray.shards import Shard, count_classes, open_shards, repeated_rows
from lookalike.conversion.on_ray.sources import MapStyle, ShardedSource, Source, open_source
from lookalike.conversion.on_ray.tasks import (
    TaskSettings,
    check_similarity,
    cluster_classes,
    fit_similarity,
    survey_shards,
)
from lookalike.conversion.options import Settings, refuse_options
from lookalike.conversion.per_class import check_classes
from lookalike.conversion.steps import (
    checked_class_names,
    cut_classifier,
    options_record,
    preprocessing_for_model,
    preprocessing_that_comes_with,
    warn_of_few,
)
from lookalike.conversion.temperature import Temperature, fit_temperature
from lookalike.data import Batches, Preprocessing, warn_of_transparency
from lookalike.data.copies import warn_of_copies
from lookalike.embedding.key import embedding_key
from lookalike.encoder import Encoder, LoadedClassifier, ordered
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths, make_similarity

P = ParamSpec("P")

_LISTED = 5  # images named in a warning
_BATCH_SIZE = 256  # as on one machine


def _keeps_process_settings(function: Callable[P, PrototypeModel]) -> Callable[P, PrototypeModel]:
    """Makes a function restore the loggers and environment variables that are changed to silence Ray."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> PrototypeModel:
        restore = process_settings(loggers=["ray.data"], variables=["RAY_BACKEND_LOG_LEVEL"])
        return undoing(restore, lambda: function(*args, **kwargs))

    return call


@dataclass(frozen=True)
class Ray:
    """Runs a conversion on a Ray cluster: ``convert(model, data, backend=Ray(), working_folder=...)``.

    The model is the same as from this process: with the same seed, its prototypes are equal up to rounding. Embeddings
    and clusters are stored in the working folder, which must have the same path on all nodes. After an interruption the
    same call resumes from it.

    The data are a folder with one sub-folder per class; a Parquet file or a folder of them, with columns ``image``
    (an encoded file, or an array) and ``label``; a ``ray.data.Dataset`` with these columns; or a map-style ``Dataset``
    of (x, y). A column ``index`` numbers the rows; without it they are numbered in their order.

    Args:
        address: ``"auto"`` for the running cluster if there is one, else one of this machine alone; or an address.
        n_actors: Largest number of actors that embed; None takes as many as fit into the cluster.
        num_cpus: CPUs of an actor.
        num_gpus: GPUs of an actor; above 0 it embeds on a GPU.
        shard_rows: Approximate number of rows in a file of embeddings: the most work that is lost with an actor.

    Raises:
        LookalikeError: If a value is invalid.

    Example:
        >>> Ray(num_gpus=1).n_actors is None
        True
    """

    address: str = "auto"
    n_actors: int | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    shard_rows: int = 8_192

    def __post_init__(self) -> None:
        checks.text("address", self.address)
        checks.field(self, "n_actors", checks.whole_number, 1, optional=True)
        checks.number("num_cpus", self.num_cpus, above=0)
        checks.number("num_gpus", self.num_gpus, least=0)
        checks.field(self, "shard_rows", checks.whole_number, 1)

    def convert(
        self, model: nn.Module | LoadedClassifier, train: Any, similarity: str | Similarity, settings: Settings
    ) -> PrototypeModel:
        """Converts a classifier; ``lookalike.convert`` calls this.

        Raises:
            LookalikeError: As ``lookalike.convert``; and if Ray is not installed, the cluster cannot be reached, there
                is no working folder, or an option or the similarity needs all data on one machine.
        """
        import_ray()
        _refuse_unsupported_options(settings)
        metric = copy.deepcopy(make_similarity(similarity, settings.similarity_options))
        check_similarity(metric)
        return _convert(self, model, train, metric, settings)


_NOT_ON_A_CLUSTER = {
    "devices": "are those of one machine; on a cluster, Ray(n_actors=…) sets how many embed",
    "num_workers": "sets the reading processes of one machine; on a cluster, Ray(n_actors=…) sets how many embed",
    "memory_limit": "is not kept on a cluster, where each class is clustered in a task of its own; leave it out",
    "advice": "is given where all embeddings are in one place; leave it out",
    "embeddings": "are made on the cluster; leave them out",
}


def _refuse_unsupported_options(settings: Settings) -> None:
    """Refuses options that a cluster does not support.

    Raises:
        LookalikeError: If one was given, or there is no working folder.
    """
    refuse_options(settings, _NOT_ON_A_CLUSTER)
    if settings.reading.precision not in ("auto", "float32"):
        raise LookalikeError(f"a cluster embeds in float32, not in {settings.reading.precision}; leave precision out")
    if settings.gallery.nearest_from != "class":
        raise LookalikeError("on a cluster nearest images come from the prototype's own class: nearest_from='class'")
    if settings.working_folder is None:
        raise LookalikeError("a cluster needs a working_folder: a folder that all nodes reach")


@_keeps_process_settings
def _convert(
    cluster: Ray, model: nn.Module | LoadedClassifier, data: Any, similarity: Similarity, settings: Settings
) -> PrototypeModel:
    """Converts on a cluster, step by step: embed, cluster, survey, read the prototypes' images."""
    started = time.perf_counter()
    lengths = given_lengths(similarity)
    folder = Path(str(settings.working_folder)).resolve()
    with alone(lock_in(folder)), connected(cluster.address):
        job = _open_job(cluster, model, data, similarity, settings, folder)
        n_actors = job.embed()
        embedded = time.perf_counter()
        learned = job.learn()
        batches = _data_of_images(job.sharded, learned.prototypes, settings.gallery.n_images)
        skipped = {index: message for shard in job.shards for index, message in shard.skipped.items()}
        _warn_of_skipped(skipped)
        nodes = n_nodes()
    provenance = {
        **options_record(similarity, settings, learned.prototypes.class_names),
        "similarity_options": similarity.options(),
        "calibration": learned.temperature.to_dict(),
        "given_lengths": lengths,
        "n_samples": learned.n_samples,
        "skipped": len(skipped),
        "skipped_samples": [skipped[index] for index in sorted(skipped)],
        "next_sample": max(shard.last for shard in job.shards) + 1,
        "precision": "float32",
        "embed_seconds": round(embedded - started, 3),
        "fingerprints": job.fingerprints,
        "cluster": {
            "nodes": nodes,
            "actors": n_actors,
            "shards": len(job.shards),
            "num_gpus": cluster.num_gpus,
        },
        "versions": {**versions(), "ray": import_ray().__version__},
    }
    classifier = NearestPrototype(settings.probabilities.probabilities, learned.temperature.value)
    pieces = ModelPieces(job.encoder, learned.prototypes, learned.similarity, classifier)
    return assemble(pieces, batches, job.preprocessing, settings, provenance, started)


@dataclass(frozen=True)
class _Learned:
    """Everything that was learned from the embeddings."""

    prototypes: Prototypes
    similarity: Similarity
    temperature: Temperature
    n_samples: int


@dataclass
class _Job:
    """One conversion on a connected cluster, with its working folder.

    Attributes:
        cluster: Options of the cluster.
        settings: Options of the conversion.
        encoder: The classifier before its head.
        similarity: The similarity, before it is fitted.
        source: The data as the user gave them.
        preprocessing: What images go through before the model, if it is known.
        sharded: The data, split into jobs for actors.
        shards_folder: Folder of the embeddings.
        classes_folder: Folder of the classes' prototypes.
        fingerprints: Fingerprints of weights, data and transform.
        shards: The embeddings, once they exist.
    """

    cluster: Ray
    settings: Settings
    encoder: Encoder
    similarity: Similarity
    source: Source
    preprocessing: Preprocessing | None
    sharded: ShardedSource
    shards_folder: Path
    classes_folder: Path
    fingerprints: dict[str, Any]
    shards: list[Shard] = field(default_factory=list)

    def embed(self) -> int:
        """Embeds all samples that are not embedded yet; returns the number of actors."""
        reading = self.settings.reading
        with progress_bar("Embedding", self.sharded.total, self.settings.progress) as advance:
            n_actors = embed_shards(
                self.sharded,
                _on_cpu(self.encoder),
                self.shards_folder,
                actors=Actors(self.cluster.n_actors, self.cluster.num_cpus, self.cluster.num_gpus),
                batch_size=reading.batch_size or _BATCH_SIZE,
                on_error=reading.on_error,
                advance=advance,
            )
        self.shards = open_shards(self.shards_folder)
        return n_actors

    def learn(self) -> _Learned:
        """Clusters every class, finds the samples behind each prototype, and fits the temperature."""
        settings, shards = self.settings, self.shards
        repeated = repeated_rows(shards) if self.sharded.may_repeat else {}
        counts = _count_samples(shards, repeated)
        n_samples, n_labels = sum(counts.values()), max(counts) + 1
        names = checked_class_names(settings.class_names, self.source.class_names, n_labels - 1, n_samples)
        images_of_class = np.array([counts.get(k, 0) for k in range(max(n_labels, len(names)))])
        check_classes(images_of_class, names)
        similarity = fit_similarity(self.similarity, shards, self.encoder.embedding_dim, self.encoder.head_weight)
        temperature_option = settings.probabilities.temperature
        holds_out = temperature_option == "auto"
        with progress_bar("Clustering", len(names), settings.progress) as advance:
            learned = cluster_classes(
                shards, names, similarity, TaskSettings(settings.clustering, holds_out), self.classes_folder, advance
            )
        for note in learned.notes:
            warn_of(note)
        warn_of_few(images_of_class, learned.prototypes)
        reading = settings.probabilities.probabilities
        if temperature_option == "auto":
            temperature = fit_temperature(learned.held_out, similarity, reading)
        else:
            temperature = Temperature(float(temperature_option))
        with progress_bar("Looking for the nearest images", len(shards), settings.progress) as advance:
            surveyed = survey_shards(
                learned.prototypes,
                similarity,
                shards,
                repeated,
                n_nearest=settings.gallery.n_nearest,
                advance=advance,
            )
        return _Learned(surveyed, similarity, temperature, n_samples)


def _open_job(
    cluster: Ray,
    model: nn.Module | LoadedClassifier,
    data: Any,
    similarity: Similarity,
    settings: Settings,
    folder: Path,
) -> _Job:
    """Opens the data, cuts the classifier, and checks that the working folder belongs to this conversion."""
    model_preprocessing = preprocessing_that_comes_with(model)
    preprocessing = settings.reading.preprocessing or model_preprocessing
    batch_size = settings.reading.batch_size or _BATCH_SIZE
    # whole batches per shard, so that the batches are the same as on one machine
    shard_rows = -(-cluster.shard_rows // batch_size) * batch_size
    source = open_source(data, preprocessing, settings.class_names, shard_rows)
    if isinstance(source, MapStyle):
        source.batches.warn_if_random()
        warn_of_transparency(source.batches.dataset, "training")
        warn_of_copies(source.batches.dataset)
        preprocessing = preprocessing_for_model(source.batches, settings.reading, model_preprocessing)
    class_names = settings.class_names or source.class_names
    encoder = cut_classifier(model, source.first_rows(), settings.cut)
    encoder = ordered(encoder, settings.cut.class_order, class_names)
    with identifying_as(recorded_identity(folder)):  # a folder of an earlier version can be continued
        identities = source.fingerprint(), source.transform_fingerprint()
        made_with = embedding_key(encoder, *identities, precision="float32", dtype="float32")
    key = {
        **made_with,
        **settings.clustering.to_dict(),
        **similarity_key(similarity),
        "batch_size": batch_size,
        "shard_rows": shard_rows,
        "on_error": settings.reading.on_error,
        "class_names": class_names,
    }
    shards_folder, classes_folder = prepare_folder(folder, key)
    fingerprints = {name: key[name] for name in ("weights", "data", "transform")}
    sharded = source.sharded(folder)
    return _Job(
        cluster, settings, encoder, similarity, source, preprocessing, sharded, shards_folder, classes_folder,
        fingerprints,
    )  # fmt: skip


def _on_cpu(encoder: Encoder) -> Encoder:
    """Returns the encoder on the CPU, so that a node without a GPU can load it."""
    if all(tensor.device.type == "cpu" for tensor in encoder.model.state_dict().values()):
        return encoder
    return copy_of(encoder).cpu()


def _count_samples(shards: list[Shard], repeated: dict[int, np.ndarray]) -> dict[int, int]:
    """Counts the samples of each label that has any.

    Raises:
        LookalikeError: If there are none; it says why the first was left out.
    """
    counts = {label: count for label, count in count_classes(shards, repeated).items() if count}
    if not counts:
        first_message = next((message for shard in shards for message in shard.skipped.values()), None)
        raise LookalikeError(
            "there are no samples to embed" + (f" (the first: {first_message})" if first_message else "")
        )
    return counts


def _data_of_images(source: ShardedSource, prototypes: Prototypes, n_images: int) -> Batches:
    """Returns data from which the training images that show the prototypes can be read."""
    nearest = prototypes.nearest[:, : max(n_images, 1)]
    return source.fetch(np.unique(nearest[nearest >= 0].numpy()))


def _warn_of_skipped(skipped: dict[int, str]) -> None:
    if skipped:
        listed = "; ".join(skipped[index] for index in sorted(skipped)[:_LISTED])
        unlisted = f"; and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
        warn_of(f"{counted(len(skipped), 'image')} left out: {listed}{unlisted}")
