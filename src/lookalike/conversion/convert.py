"""A trained classifier becomes a prototypical self-explainable model, without re-training.

Source: Gautam, Boubekki, Höhne and Kampffmeyer, "Prototypical Self-Explainable Models Without Re-training",
TMLR 05/2024, section 3.2.
"""

import copy
import time
from pathlib import Path
from typing import Any, Literal, Protocol, Unpack

import numpy as np
import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.profiling import step
from lookalike._core.untouched import keeps_random_states
from lookalike._core.working_folder import alone, clean, lock_in
from lookalike.conversion.advice import advise, choose_similarity
from lookalike.conversion.assembling import ModelPieces, assemble, embeddings_record, memory_record
from lookalike.conversion.cluster_folder import ClusterFolder, cluster_key
from lookalike.conversion.clustering import clustering_on
from lookalike.conversion.of_head import convert_head
from lookalike.conversion.options import LEVELS, PATCH_OPTIONS, ConversionOptions, Settings, refuse_options, settings_of
from lookalike.conversion.patches import convert_patches
from lookalike.conversion.per_class import DEFAULT_N_PROTOTYPES, NPrototypes, check_classes, learn_prototypes
from lookalike.conversion.steps import (
    check_finite,
    class_names_of,
    cut_and_order,
    embed_or_check,
    open_classifier,
    open_data,
    options_record,
    warn_of_few,
)
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import choose_temperature
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import Encoder, LoadedClassifier, device_of
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths, make_similarity

AUTO = "auto"  # in place of a similarity's name


class Backend(Protocol):
    """Where a conversion runs, if not in this process."""

    def convert(
        self, model: nn.Module | LoadedClassifier, train: Any, similarity: str | Similarity, settings: Settings
    ) -> PrototypeModel:
        """Converts a classifier; see ``lookalike.convert``."""


@keeps_random_states
@torch.inference_mode(False)
def convert(
    model: nn.Module | LoadedClassifier | str,
    train: Any,
    n_prototypes: NPrototypes = DEFAULT_N_PROTOTYPES,
    similarity: str | Similarity = "l2",
    *,
    level: Literal["image", "patch", "head"] = "image",
    backend: Backend | None = None,
    seed: int = 0,
    **options: Unpack[ConversionOptions],
) -> PrototypeModel:
    """Converts a trained classifier into one that decides, and explains itself, by prototypes.

    The encoder is used as it is. Per class, the embeddings of the training data are clustered by k-means, and the
    centres are the class's prototypes. The class of an input is that of its most similar prototype.

    Args:
        model: A trained classifier: a module, a spec such as ``"torchvision:resnet34"``, the result of
            ``load_classifier``, an ``Encoder``, or another ``PrototypeModel``, whose embedding is used.
        train: A ``Dataset`` or ``DataLoader`` of (x, y), a pair (x, y) of tensors or arrays, a folder with a sub-folder
            per class, the name of a data set, a ``DataBundle``, or an ``EmbeddingStore``. The training split, without
            augmentation.
        n_prototypes: L_k: a number for all classes, a mapping from class to number, in which the key None has the
            number of all other classes, or ``"auto"``.
        similarity: Name of a registered similarity, a ``Similarity``, or ``"auto"``: the one that does clearly best on
            training samples held out in turn, else the paper's ``"l2"``.
        level: ``"patch"`` clusters parts of images, the positions of the last feature map before average pooling, and
            lets them vote [paper, appendix A.7]. ``"head"`` clusters nothing and takes the weights of the classifier's
            own linear head, one prototype per class under the dot product [ours].
        backend: Where to run: None is this process, ``lookalike.conversion.on_ray.Ray`` a Ray cluster.
        seed: Seed of the clustering. The same seed gives the same prototypes, bit for bit, on one machine.
        **options: Everything else, by name:

            - clustering: ``clusterer``, ``n_init``, ``memory_limit``
            - probabilities: ``probabilities``, ``temperature``
            - which training samples show a prototype: ``n_nearest``, ``n_images``, ``nearest_from``
            - where the classifier is cut: ``head``, ``output``, ``class_order``
            - reading: ``batch_size``, ``num_workers``, ``on_error``, ``precision``, ``devices``, ``preprocessing``
            - a model of patches: ``layers``, ``decision``, ``shared``, ``max_patches``
            - ``similarity_options``, ``advice``, ``embeddings``, ``class_names``, ``working_folder``,
              ``progress``

            ``lookalike.conversion.options`` documents each.

    Returns:
        The self-explainable model. The classifier is in it, unchanged.

    Raises:
        LookalikeError: If no head is found, a class has no samples, an embedding is not finite, or the working
            folder holds embeddings of other weights, data or transform.
        TypeError: If there is no option of that name.

    Warns:
        LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for, or the data are
            augmented at random.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> sem = convert(net, (x, (x[:, 0] > 0).long()), n_prototypes=3)
        >>> sem(x).shape, len(sem.prototypes)
        (torch.Size([40, 2]), 6)
    """
    checks.one_of("level", level, LEVELS)
    settings = settings_of("convert", n_prototypes, seed, options)
    if isinstance(train, EmbeddingStore) and settings.embeddings is not None:
        raise LookalikeError("train is an EmbeddingStore already; give embeddings=... beside the data that they are of")
    classifier = open_classifier(model)
    if _is_auto(similarity):
        _check_auto(settings, level, backend)
    else:
        make_similarity(similarity, settings.similarity_options)  # raises its errors before any work
    if settings.advice and (settings.similarity_options is not None or not isinstance(similarity, str)):
        raise LookalikeError(
            "advice compares similarities by name and with their own options: name one without similarity_options, or "
            "leave advice out"
        )
    if level != "image" and backend is not None:
        raise LookalikeError(f"level={level!r} is converted in this process: leave out the backend")
    if level == "patch":
        return convert_patches(classifier, train, similarity, settings)
    only_patches = "is an option of patches: leave it out, or convert with level='patch'"
    refuse_options(settings, dict.fromkeys(PATCH_OPTIONS, only_patches))
    if level == "head":
        if n_prototypes != DEFAULT_N_PROTOTYPES or similarity != "l2":
            raise LookalikeError(
                "level='head' has one prototype per class, under the dot product: leave out n_prototypes and similarity"
            )
        return convert_head(classifier, train, settings)
    if backend is not None:
        return backend.convert(classifier, train, similarity, settings)
    if settings.working_folder is None:
        return _convert(classifier, train, similarity, settings, None)
    folder = Path(settings.working_folder)
    with alone(lock_in(folder)):
        clean(folder)
        return _convert(classifier, train, similarity, settings, folder)


def _convert(
    model: nn.Module | LoadedClassifier,
    train: Any,
    similarity: str | Similarity,
    settings: Settings,
    folder: Path | None,
) -> PrototypeModel:
    """Converts in this process, step by step."""
    started = time.perf_counter()
    batches, preprocessing = open_data(model, train, settings)
    encoder = cut_and_order(model, train, batches, settings)
    store = embed_or_check(encoder, train, batches, settings, folder)
    embed_seconds = time.perf_counter() - started
    check_finite(store)
    class_names = class_names_of(settings, store)
    asked = {"similarity_asked": AUTO} if _is_auto(similarity) else {}
    if asked:
        check_classes(np.bincount(store.labels, minlength=len(class_names)), class_names)
        similarity = choose_similarity(store, class_names, encoder.head_weight, settings.clustering)
    metric = copy.deepcopy(make_similarity(similarity, settings.similarity_options))
    lengths = given_lengths(metric)
    metric.fit(store.embeddings, store.labels, encoder.head_weight)
    with step("cluster and survey"), clustering_on(device_of(encoder.model)):
        prototypes = _cluster_and_survey(store, metric, class_names, settings, folder)
    warn_of_few(np.bincount(store.labels, minlength=len(class_names)), prototypes)
    with step("fit the temperature"):
        temperature = choose_temperature(
            settings.probabilities.temperature,
            store.embeddings,
            store.labels,
            prototypes,
            metric,
            reading=settings.probabilities.probabilities,
            seed=settings.clustering.seed,
        )
    provenance = {
        **options_record(metric, settings, class_names),
        **embeddings_record(store),
        **memory_record(store.labels, store.embeddings.shape[1], class_names, settings),
        "calibration": temperature.to_dict(),
        "given_lengths": lengths,
        **asked,
        **_advice_record(store, class_names, encoder, similarity, settings),
        "embed_seconds": round(embed_seconds, 3),
    }
    classifier = NearestPrototype(settings.probabilities.probabilities, temperature.value)
    pieces = ModelPieces(encoder, prototypes, metric, classifier)
    return assemble(pieces, batches, preprocessing, settings, provenance, started)


def _is_auto(similarity: Any) -> bool:
    return isinstance(similarity, str) and similarity == AUTO  # an array has no single truth value


def _check_auto(settings: Settings, level: str, backend: Backend | None) -> None:
    """Checks that a similarity can be chosen on training samples.

    Raises:
        LookalikeError: If options for it were given, or the embeddings of images are not in one place.
    """
    if settings.similarity_options is not None:
        raise LookalikeError("similarity_options are of one similarity; name it instead of 'auto'")
    if level != "image" or backend is not None:
        where = {"patch": "patches", "head": "the weights of a head"}.get(level, "a cluster")
        raise LookalikeError(f"similarity='auto' is not there for {where}; name a similarity, such as 'l2'")


def _advice_record(
    store: EmbeddingStore, class_names: list[str], encoder: Encoder, similarity: str | Similarity, settings: Settings
) -> dict[str, Any]:
    """Returns what other choices would give, if the caller asked for it."""
    if not settings.advice:
        return {}
    assert isinstance(similarity, str)  # convert has looked
    with step("try other choices"):
        advice = advise(store, class_names, encoder.head_weight, similarity, settings.clustering)
    return {} if advice is None else {"advice": advice.to_dict()}


def _cluster_and_survey(
    store: EmbeddingStore,
    similarity: Similarity,
    class_names: list[str],
    settings: Settings,
    folder: Path | None,
) -> Prototypes:
    """Clusters each class, and finds the training samples behind each prototype."""
    cluster_folder = None
    if folder is not None:
        key = cluster_key(store, similarity, class_names, settings.clustering)
        cluster_folder = ClusterFolder(folder / "clusters", key)
    learned = learn_prototypes(
        store.embeddings,
        store.labels,
        class_names,
        similarity,
        settings.clustering,
        kept=cluster_folder,
        progress=settings.progress,
    )
    return survey(
        learned,
        similarity,
        store.embeddings,
        store.labels,
        indices=store.indices,
        n_nearest=settings.gallery.n_nearest,
        nearest_from=settings.gallery.nearest_from,
    )
