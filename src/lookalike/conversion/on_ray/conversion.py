"""The conversion on a cluster, from data to the self-explainable model."""

import copy
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, ParamSpec

import numpy as np
import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.progress import progress_bar
from lookalike._core.provenance import versions
from lookalike._core.untouched import keeps_random_states, process_settings, undoing
from lookalike._core.working_folder import alone, lock_in
from lookalike.conversion.cluster_folder import similarity_key
from lookalike.conversion.kmex import KMEx
from lookalike.conversion.on_ray.cluster import connected, import_ray, n_nodes
from lookalike.conversion.on_ray.embedding import embed_all
from lookalike.conversion.on_ray.record import prepare_folder
from lookalike.conversion.on_ray.shards import Shard, open_shards, repeated_rows, summed_classes
from lookalike.conversion.on_ray.sources import MapStyle, Sharded, Source, open_source
from lookalike.conversion.on_ray.tasks import Settings, check_similarity, fit_similarity, learn_all, survey_all
from lookalike.conversion.per_class import NPrototypes, check_classes, numbers_per_class
from lookalike.conversion.temperature import Temperature, TemperatureOption, fit_temperature
from lookalike.embedding import as_encoder
from lookalike.embedding.key import embedding_key
from lookalike.encoder import ClassOrder, Encoder, LoadedClassifier, head_of, ordered
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.model.images import read_prototype_images, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths, make_similarity

P = ParamSpec("P")

_LISTED = 5
_CHUNK = 8_192


def _keeps_process_settings(function: Callable[P, PrototypeModel]) -> Callable[P, PrototypeModel]:
    """Makes a function put back what is set for Ray's sake: its core and its data library print past the caller."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> PrototypeModel:
        restore = process_settings(loggers=["ray.data"], variables=["RAY_BACKEND_LOG_LEVEL"])
        return undoing(restore, lambda: function(*args, **kwargs))

    return call


@_keeps_process_settings
@keeps_random_states
@torch.inference_mode(False)
def convert(
    model: nn.Module | LoadedClassifier | str,
    data: Any,
    *,
    working_folder: str | Path,
    cluster: str = "auto",
    preprocessing: Any = None,
    n_prototypes: NPrototypes = 5,
    similarity: str | Similarity = "l2",
    similarity_options: Mapping[str, Any] | None = None,
    clusterer: str = "kmeans",
    probabilities: Literal["max", "sum"] = "max",
    temperature: TemperatureOption = "auto",
    n_init: int = 10,
    n_nearest: int = 10,
    n_images: int = 3,
    random_state: int = 0,
    head: str | None = None,
    output: str | int | None = None,
    class_order: ClassOrder = None,
    batch_size: int = 256,
    shard_rows: int = _CHUNK,
    n_actors: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    on_error: Literal["stop", "skip"] = "stop",
    class_names: list[str] | None = None,
    progress: bool | None = None,
) -> PrototypeModel:
    """Converts a trained classifier with data that are embedded on a Ray cluster (paper section 3.2).

    The model is the one that ``KMEx`` makes on one machine: with the same seed its prototypes are equal up to
    rounding. What has been embedded and clustered is kept in the working folder; when a conversion is interrupted,
    the same call goes on from there.

    Args:
        model: What ``KMEx`` takes: a module, a spec, what ``load_classifier`` returned, an ``Encoder``, or a
            ``PrototypeModel``, whose embedding is used.
        data: Training data without augmentation: a folder with one sub-folder per class; a Parquet file or a folder
            of such, with the columns ``image`` (an encoded file, or an array) and ``label``; a ``ray.data.Dataset``
            with these columns; or a map-style ``Dataset`` of (x, y). A column ``index`` numbers the rows; without it
            they are numbered in their order.
        working_folder: A folder that all nodes reach under this name. It is made, or taken up.
        cluster: ``"auto"`` for the running cluster, if there is one, and else one of this machine alone; or an address.
        preprocessing: What the images go through; None takes the classifier's own. A ``Dataset`` has its own.
        n_prototypes: L_k: a number for all classes, a mapping from class to number, or ``"auto"``.
        similarity: A registered similarity, by name, or one that is made already.
        similarity_options: Its options.
        clusterer: A registered clusterer.
        probabilities: How similarities become probabilities, ``"max"`` [ours] or ``"sum"`` [ref].
        temperature: What similarities are divided by before they become probabilities: ``"auto"`` fits it as ``KMEx``
            does, 1 is the paper's reading.
        n_init: How many random starts of the clustering to choose the best of.
        n_nearest: M, how many of the nearest training samples to remember per prototype.
        n_images: Of how many of them to keep the image.
        random_state: Seed.
        head: The name of the classifier's head, where it cannot be found.
        output: Which of several outputs holds the class scores.
        class_order: The names of the classifier's outputs, in their order; see ``KMEx``.
        batch_size: The most rows that pass through the encoder at once.
        shard_rows: About how many rows are written to one file; a lost actor loses at most so many.
        n_actors: The most actors that embed; None takes as many as there is room for.
        num_cpus: Of an actor.
        num_gpus: Of an actor; above 0 it embeds on a GPU.
        on_error: ``"skip"`` leaves out images that cannot be read, and lists them in the model's provenance.
        class_names: K names; None takes the data's own, or numbers. Labels that are texts need them.
        progress: Show progress bars; None shows them on a terminal.

    Returns:
        The self-explainable model.

    Raises:
        LookalikeError: If Ray is not installed or the cluster not reached; the working folder is of another
            conversion; no head is found; a class has no samples; an embedding is not finite; an image cannot be read;
            or the similarity can only be fitted on one machine.

    Warns:
        LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for, images were
            skipped, or the data are augmented at random.
    """
    started = time.perf_counter()
    checks.path("working_folder", working_folder)
    checks.text("cluster", cluster)
    checks.number("num_cpus", num_cpus, above=0)
    checks.number("num_gpus", num_gpus, least=0)
    checks.optional(checks.names, "class_names", class_names)
    _check_sizes(batch_size, shard_rows, n_actors, on_error)
    import_ray()
    converter = KMEx(
        model,
        n_prototypes,
        similarity,
        similarity_options=similarity_options,
        clusterer=clusterer,
        probabilities=probabilities,
        temperature=temperature,
        n_init=n_init,
        n_nearest=n_nearest,
        n_images=n_images,
        random_state=random_state,
        head=head,
        output=output,
        progress=progress,
    )
    metric = copy.deepcopy(make_similarity(converter.similarity, similarity_options))
    check_similarity(metric)
    lengths = given_lengths(metric)
    trained, spec, output_names = converter.model, None, None
    if isinstance(trained, LoadedClassifier):
        preprocessing = preprocessing or trained.preprocessing
        spec, output_names, head = trained.spec, trained.class_names, head_of(trained, head)
        trained = trained.model
    elif isinstance(trained, PrototypeModel):
        preprocessing = preprocessing or trained.preprocessing
    shard_rows = -(-shard_rows // batch_size) * batch_size  # batches as on one machine
    folder = Path(working_folder).resolve()
    with alone(lock_in(folder)), connected(cluster):
        source = open_source(data, preprocessing, class_names, shard_rows)
        _warn_if_random(source)
        encoder = as_encoder(trained, source.first(), head, output=output, spec=spec, output_names=output_names)
        encoder = ordered(encoder, class_order, class_names or source.class_names)
        options = {
            "n_prototypes": _plain(n_prototypes),
            "similarity": metric.name,
            "similarity_options": metric.options(),
            "clusterer": clusterer,
            "n_init": n_init,
            "random_state": random_state,
        }
        reading = {"batch_size": batch_size, "shard_rows": shard_rows, "on_error": on_error}
        key = {
            **embedding_key(
                encoder, source.fingerprint(), source.transform_fingerprint(), precision="float32", dtype="float32"
            ),
            **options,
            **similarity_key(metric),
            **reading,
            "class_names": class_names or source.class_names,
        }
        fingerprints = {name: key[name] for name in ("weights", "data", "transform")}
        shards_folder, classes_folder = prepare_folder(folder, key)
        sharded = source.sharded(folder)
        with progress_bar("Embedding", sharded.total, progress) as advance:
            n_used = embed_all(
                sharded,
                _on_cpu(encoder),
                shards_folder,
                batch_size=batch_size,
                on_error=on_error,
                n_actors=n_actors,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                advance=advance,
            )
        embedded = time.perf_counter()
        shards = open_shards(shards_folder)
        repeated = repeated_rows(shards) if sharded.may_repeat else {}
        names = class_names or source.class_names
        names, n_samples = _checked_classes(names, shards, repeated)
        metric = fit_similarity(metric, shards, encoder.embedding_dim, encoder.head_weight)
        fits = converter.temperature == "auto"
        settings = Settings(numbers_per_class(n_prototypes, names), clusterer, n_init, random_state, fits)
        with progress_bar("Clustering", len(names), progress) as advance:
            learned = learn_all(shards, names, metric, settings, classes_folder, advance)
        for note in learned.notes:
            warn_of(note)
        fitted = fit_temperature(learned.held_out, metric, probabilities) if fits else Temperature(float(temperature))
        with progress_bar("Looking for the nearest images", len(shards), progress) as advance:
            surveyed = survey_all(learned.prototypes, metric, shards, repeated, n_nearest=n_nearest, advance=advance)
        images, value_range = _images(sharded, surveyed, n_images)
        split, keys = record_of(source.batches if isinstance(source, MapStyle) else None)
        skipped = {index: message for shard in shards for index, message in shard.skipped.items()}
        _warn_of_skipped(skipped)
        nodes = n_nodes()
    return PrototypeModel(
        encoder,
        surveyed,
        metric,
        NearestPrototype(probabilities, fitted.value),
        preprocessing=source.preprocessing,
        images=images,
        value_range=value_range,
        provenance={
            "method": "KMEx",
            **options,
            "nearest_from": "class",
            "calibration": fitted.to_dict(),
            "given_lengths": lengths,
            "n_samples": n_samples,
            "skipped": len(skipped),
            "skipped_samples": [skipped[index] for index in sorted(skipped)],
            "embed_seconds": round(embedded - started, 3),
            "convert_seconds": round(time.perf_counter() - started, 3),
            "fingerprints": fingerprints,
            "split": split,
            "cluster": {"nodes": nodes, "actors": n_used, "shards": len(shards), "num_gpus": num_gpus},
            "versions": {**versions(), "ray": import_ray().__version__},
        },
        training_keys=keys,
    )


def _check_sizes(batch_size: int, shard_rows: int, n_actors: int | None, on_error: str) -> None:
    checks.whole_number("batch_size", batch_size, 1)
    checks.whole_number("shard_rows", shard_rows, 1)
    checks.optional(checks.whole_number, "n_actors", n_actors, 1)
    checks.one_of("on_error", on_error, ("stop", "skip"))


def _warn_if_random(source: Source) -> None:
    if isinstance(source, MapStyle) and source.batches.is_random():
        warn_of(
            "reading the same sample twice gives different inputs: the data are augmented at random, and the "
            "embeddings with them; use the transform without augmentation"
        )


def _plain(n_prototypes: NPrototypes) -> Any:
    if isinstance(n_prototypes, Mapping):
        return {str(name): int(number) for name, number in n_prototypes.items()}
    return n_prototypes if isinstance(n_prototypes, str) else int(n_prototypes)


def _on_cpu(encoder: Encoder) -> Encoder:
    """Returns an encoder that a node without a GPU can open."""
    if all(tensor.device.type == "cpu" for tensor in encoder.model.state_dict().values()):
        return encoder
    return copy.deepcopy(encoder).cpu()


def _checked_classes(
    names: list[str] | None, shards: list[Shard], repeated: dict[int, np.ndarray]
) -> tuple[list[str], int]:
    """Returns K names, those given or numbers, and the number of samples, when each class has some."""
    counts = {label: count for label, count in summed_classes(shards, repeated).items() if count}
    total = sum(counts.values())
    if not total:
        first = next((message for shard in shards for message in shard.skipped.values()), None)
        raise LookalikeError("there are no samples to embed" + (f" (the first: {first})" if first else ""))
    top = max(counts)
    if top >= total and names is None:
        raise LookalikeError(
            f"there is a label {top} and there are {total} samples: some classes have none; "
            "number the classes from 0 without gaps, or give class_names"
        )
    names = [str(k) for k in range(top + 1)] if names is None else list(names)
    if len(set(names)) < len(names):
        raise LookalikeError("two classes have the same name")
    check_classes(np.array([counts.get(k, 0) for k in range(max(top + 1, len(names)))]), names)
    return names, total


def _images(source: Sharded, prototypes: Prototypes, n_images: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Reads the nearest training images again."""
    wanted = prototypes.nearest[:, : max(n_images, 1)]
    batches = source.fetch(np.unique(wanted[wanted >= 0].numpy()))
    return read_prototype_images(batches, prototypes, n_images, source.preprocessing)


def _warn_of_skipped(skipped: dict[int, str]) -> None:
    if skipped:
        listed = "; ".join(skipped[index] for index in sorted(skipped)[:_LISTED])
        more = f"; and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
        warn_of(f"{len(skipped)} images were left out: {listed}{more}")
