"""KMEx: a trained classifier becomes a prototypical self-explainable model, without re-training.

Source: Gautam, Boubekki, Höhne and Kampffmeyer, "Prototypical Self-Explainable Models Without Re-training",
TMLR 05/2024, section 3.2.
"""

import copy
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lookalike.classifier import NearestPrototype
from lookalike.clustering import CLUSTERERS
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, as_encoder, embed, name_samples
from lookalike.encoder import Encoder, LoadedClassifier, load_classifier
from lookalike.errors import LookalikeError
from lookalike.estimator import NPrototypes, learn_prototypes
from lookalike.model import PrototypeModel
from lookalike.prototype_images import preprocessing_of, read_prototype_images
from lookalike.prototypes import Prototypes, survey
from lookalike.provenance import fingerprint_tensors, versions
from lookalike.similarity import Similarity, make_similarity


class KMEx:
    """Converts a trained classifier.

    The encoder is used as it is. Per class, the embeddings of the training data are clustered by k-means, and the
    centres are the class's prototypes; the class of an input is that of its most similar prototype.

    Args:
        model: A trained classifier: a module, a spec such as ``"torchvision:resnet34"``, what ``load_classifier``
            returned, an ``Encoder``, or another ``PrototypeModel``, whose embedding is used.
        n_prototypes: L_k: a number for all classes, a mapping from class to number, or ``"auto"``.
        similarity: A registered similarity, by name, or one that is made already.
        similarity_options: Its options, e.g. ``{"sigma": 2.0}``.
        clusterer: A registered clusterer.
        probabilities: How similarities become probabilities, ``"max"`` [ours] or ``"sum"`` [ref].
        n_init: How many random starts of the clustering to choose the best of.
        n_nearest: M, how many of the nearest training samples to remember per prototype.
        n_images: Of how many of them to keep the image.
        nearest_from: Show a prototype by images of its own ``"class"``, or of ``"any"``.
        head: The name of the classifier's head, where it cannot be found; ``"output"`` if the model's output is the
            embedding.
        output: Which of several outputs holds the class scores.
        batch_size: The most rows that pass through the encoder at once.
        num_workers: Processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read, and lists them.
        random_state: Seed.
        progress: Show progress bars; None shows them on a terminal.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> sem = KMEx(net, n_prototypes=3).fit((x, (x[:, 0] > 0).long()))
        >>> sem(x).shape, len(sem.prototypes)
        (torch.Size([40, 2]), 6)
    """

    def __init__(
        self,
        model: nn.Module | LoadedClassifier | str,
        n_prototypes: NPrototypes = 5,
        similarity: str | Similarity = "l2",
        *,
        similarity_options: Mapping[str, Any] | None = None,
        clusterer: str = "kmeans",
        probabilities: Literal["max", "sum"] = "max",
        n_init: int = 10,
        n_nearest: int = 10,
        n_images: int = 3,
        nearest_from: Literal["class", "any"] = "class",
        head: str | None = None,
        output: str | int | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        random_state: int = 0,
        progress: bool | None = None,
    ) -> None:
        if isinstance(model, str):
            model = load_classifier(model)
        if not isinstance(model, nn.Module | LoadedClassifier):
            raise LookalikeError(f"KMEx converts a torch.nn.Module, not a {type(model).__name__}")
        if isinstance(similarity, str):
            make_similarity(similarity, similarity_options)
        _ = CLUSTERERS[clusterer]
        NearestPrototype(probabilities)
        if nearest_from not in ("class", "any"):
            raise LookalikeError(f"nearest_from must be 'class' or 'any', not {nearest_from!r}")
        for name, value, least in (
            ("n_init", n_init, 1),
            ("n_nearest", n_nearest, 1),
            ("n_images", n_images, 0),
            ("random_state", random_state, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise LookalikeError(f"{name} must be a whole number of at least {least}, not {value!r}")
        self.model = model
        self.n_prototypes = n_prototypes
        self.similarity = similarity
        self.similarity_options = similarity_options
        self.clusterer = clusterer
        self.probabilities = probabilities
        self.n_init = n_init
        self.n_nearest = n_nearest
        self.n_images = n_images
        self.nearest_from = nearest_from
        self.head = head
        self.output = output
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.on_error = on_error
        self.random_state = random_state
        self.progress = progress

    @torch.inference_mode(False)
    def fit(
        self, train: Any, *, embeddings: EmbeddingStore | None = None, class_names: list[str] | None = None
    ) -> PrototypeModel:
        """Converts the classifier with its training data.

        Args:
            train: A ``Dataset`` or ``DataLoader`` of (x, y), a pair (x, y) of tensors or arrays, a ``DataBundle``, or
                an ``EmbeddingStore``. Without augmentation; the training split, not the test split.
            embeddings: The embeddings of ``train``, where ``embed`` has made them already.
            class_names: K names; None takes the data's own, or numbers.

        Returns:
            The self-explainable model. The classifier is in it, unchanged.

        Raises:
            LookalikeError: If no head is found, a class has no samples, or an embedding is not finite.

        Warns:
            LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for, or the data
                are augmented at random.
        """
        started = time.perf_counter()
        batches = None if isinstance(train, EmbeddingStore) else self._batches(train)
        encoder = self._encoder(batches)
        if batches is not None and embeddings is None:
            store = embed(encoder, batches, progress=self.progress)
        else:
            store = train if embeddings is None else embeddings
            _check_store(store, encoder, batches)
        embedded = time.perf_counter()
        _check_finite(store)
        names = _class_names(class_names or store.class_names, store)
        similarity = copy.deepcopy(make_similarity(self.similarity, self.similarity_options))
        similarity.fit(store.embeddings, store.labels, encoder.head_weight)
        prototypes = self._prototypes(store, similarity, names)
        preprocessing = preprocessing_of(batches)
        images, value_range = read_prototype_images(batches, prototypes, self.n_images, preprocessing)
        return PrototypeModel(
            encoder,
            prototypes,
            similarity,
            NearestPrototype(self.probabilities),
            preprocessing=preprocessing,
            images=images,
            value_range=value_range,
            provenance={
                **self._options(similarity),
                "n_samples": len(store),
                "skipped": len(store.skipped),
                "embed_seconds": round(embedded - started, 3),
                "convert_seconds": round(time.perf_counter() - started, 3),
                "fingerprints": {key: store.info.get(key) for key in ("weights", "data", "transform")},
                "versions": versions(),
            },
        )

    def _batches(self, train: Any) -> Batches:
        if isinstance(train, Batches):
            return train
        return Batches(train, self.batch_size, self.num_workers, self.on_error)

    def _encoder(self, batches: Batches | None) -> Encoder:
        model, spec = self.model, None
        if isinstance(model, LoadedClassifier):
            model, spec = model.model, model.spec
        if batches is None:
            own = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
            if not isinstance(own, Encoder):
                raise LookalikeError(
                    "stored embeddings do not show where to cut the classifier: give KMEx the Encoder that made them"
                )
            return own
        return as_encoder(model, batches, self.head, output=self.output, spec=spec)

    def _prototypes(self, store: EmbeddingStore, similarity: Similarity, names: list[str]) -> Prototypes:
        learned = learn_prototypes(
            store.embeddings,
            store.labels,
            names,
            similarity,
            n_prototypes=self.n_prototypes,
            clusterer=self.clusterer,
            n_init=self.n_init,
            seed=self.random_state,
            progress=self.progress,
        )
        return survey(
            learned,
            similarity,
            store.embeddings,
            store.labels,
            indices=store.indices,
            n_nearest=self.n_nearest,
            nearest_from=self.nearest_from,
        )

    def _options(self, similarity: Similarity) -> dict[str, Any]:
        number = dict(self.n_prototypes) if isinstance(self.n_prototypes, Mapping) else self.n_prototypes
        return {
            "method": "KMEx",
            "n_prototypes": number,
            "similarity": similarity.name,
            "clusterer": self.clusterer,
            "n_init": self.n_init,
            "nearest_from": self.nearest_from,
            "random_state": self.random_state,
        }


def _class_names(names: list[str] | None, store: EmbeddingStore) -> list[str]:
    """Returns K names: those given, or numbers."""
    top = int(store.labels.max())
    if names is None:
        if top >= len(store):
            raise LookalikeError(
                f"there is a label {top} and there are {len(store)} samples: some classes have none; "
                "number the classes from 0 without gaps, or give class_names"
            )
        return [str(k) for k in range(top + 1)]
    if len(set(names)) < len(names):
        raise LookalikeError("two classes have the same name")
    return list(names)


def _check_store(store: EmbeddingStore, encoder: Encoder, batches: Batches | None) -> None:
    """Sees to it that stored embeddings are this encoder's, and of these data."""
    if store.embeddings.shape[1] != encoder.embedding_dim:
        raise LookalikeError(
            f"the stored embeddings have {store.embeddings.shape[1]} dimensions, the encoder's {encoder.embedding_dim}"
        )
    expected = {"weights": fingerprint_tensors(encoder.model.state_dict()), "head": encoder.head_name}
    if batches is not None:
        expected["data"] = batches.fingerprint()
    differing = [name for name, value in expected.items() if name in store.info and store.info[name] != value]
    if differing:
        raise LookalikeError(
            f"the stored embeddings were made with other {' and '.join(differing)}; embed the data again"
        )


def _check_finite(store: EmbeddingStore) -> None:
    bad = [
        start + np.flatnonzero(~np.isfinite(store.embeddings[start : start + 65_536]).all(1))
        for start in range(0, len(store), 65_536)
    ]
    rows = np.concatenate(bad) if bad else np.arange(0)
    if len(rows):
        named = name_samples(store.indices[rows], lambda index: f"sample {index}")
        raise LookalikeError(f"{len(rows)} embeddings have NaN or infinite values: {named}")
