"""KMEx: a trained classifier becomes a prototypical self-explainable model, without re-training.

Source: Gautam, Boubekki, Höhne and Kampffmeyer, "Prototypical Self-Explainable Models Without Re-training",
TMLR 05/2024, section 3.2.
"""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.profiling import step
from lookalike._core.provenance import fingerprint_tensors, versions
from lookalike._core.untouched import keeps_random_states
from lookalike._core.working_folder import alone, clean, lock_in
from lookalike.conversion.cluster_folder import ClusterFolder, cluster_key
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.conversion.out_of_core import bytes_of, streamed_classes
from lookalike.conversion.per_class import NPrototypes, check_number_of_prototypes, learn_prototypes
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import Temperature, TemperatureOption, check_temperature, choose_temperature
from lookalike.conversion.update import join_model
from lookalike.data import Batches
from lookalike.embedding import PRECISIONS, EmbeddingStore, Precision, as_encoder, embed, name_samples
from lookalike.embedding.key import fingerprint_layers
from lookalike.encoder import ClassOrder, Encoder, LoadedClassifier, head_of, load_classifier, ordered
from lookalike.model import PrototypeModel
from lookalike.model.classifier import NearestPrototype
from lookalike.model.images import preprocessing_of, read_prototype_images, record_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, given_lengths, make_similarity


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
        temperature: What similarities are divided by before they become probabilities: ``"auto"`` fits it to training
            samples that are held out from the prototypes that they are compared with [ours]; 1 is the paper's reading.
            No prediction depends on it.
        n_init: How many random starts of the clustering to choose the best of.
        n_nearest: M, how many of the nearest training samples to remember per prototype.
        n_images: Of how many of them to keep the image.
        nearest_from: Show a prototype by images of its own ``"class"``, or of ``"any"``.
        head: The name of the classifier's head, where it cannot be found; ``"output"`` if the model's output is the
            embedding.
        output: Which of several outputs holds the class scores.
        class_order: The names of the classifier's outputs, in their order, where it does not know them or wrongly:
            names, a file with a line per output, or ``"natural"`` for the data's names as timm orders them.
        batch_size: The most rows that pass through the encoder at once.
        num_workers: Processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read, and lists them.
        precision: In which numbers the encoder computes while the training data are embedded: ``"auto"`` (half
            precision for long passes where the processor is quicker at it; ``provenance`` tells its effect),
            ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        memory_limit: For the clustering of one class, in bytes or as ``"2GiB"``; None is half of the machine's
            memory. A class that does not fit is clustered from a sample and then in parts; ``provenance`` says which.
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
        temperature: TemperatureOption = "auto",
        n_init: int = 10,
        n_nearest: int = 10,
        n_images: int = 3,
        nearest_from: Literal["class", "any"] = "class",
        head: str | None = None,
        output: str | int | None = None,
        class_order: ClassOrder = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        precision: Precision = "auto",
        memory_limit: int | str | None = None,
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
        check_temperature(temperature)
        bytes_of(memory_limit)
        check_number_of_prototypes(n_prototypes)
        checks.one_of("precision", precision, PRECISIONS)
        checks.one_of("nearest_from", nearest_from, ("class", "any"))
        checks.one_of("on_error", on_error, ("stop", "skip"))
        checks.whole_number("n_init", n_init, 1)
        checks.whole_number("n_nearest", n_nearest, 1)
        checks.whole_number("n_images", n_images, 0)
        checks.seed("random_state", random_state)
        checks.output_key("output", output)
        checks.optional(checks.text, "head", head)
        checks.optional(checks.whole_number, "batch_size", batch_size, 1)
        checks.optional(checks.whole_number, "num_workers", num_workers, 0)
        checks.progress("progress", progress)
        checks.optional(checks.mapping, "similarity_options", similarity_options)
        self.model = model
        self.n_prototypes = n_prototypes
        self.similarity = similarity
        self.similarity_options = similarity_options
        self.clusterer = clusterer
        self.probabilities = probabilities
        self.temperature = check_temperature(temperature)
        self.n_init = n_init
        self.n_nearest = n_nearest
        self.n_images = n_images
        self.nearest_from = nearest_from
        self.head = head
        self.output = output
        self.class_order = class_order
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.on_error = on_error
        self.precision: Precision = precision
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.progress = progress

    @keeps_random_states
    @torch.inference_mode(False)
    def fit(
        self,
        train: Any,
        *,
        embeddings: EmbeddingStore | None = None,
        class_names: list[str] | None = None,
        working_folder: str | Path | None = None,
    ) -> PrototypeModel:
        """Converts the classifier with its training data.

        Args:
            train: A ``Dataset`` or ``DataLoader`` of (x, y), a pair (x, y) of tensors or arrays, a ``DataBundle``, or
                an ``EmbeddingStore``. Without augmentation; the training split, not the test split.
            embeddings: The embeddings of ``train``, where ``embed`` has made them already.
            class_names: K names; None takes the data's own, or numbers.
            working_folder: Keeps embeddings and clusters as they are made. After an interruption, of whatever kind,
                the same call goes on where it stopped; with other options of the clustering, the embeddings are there.

        Returns:
            The self-explainable model. The classifier is in it, unchanged.

        Raises:
            LookalikeError: If no head is found, a class has no samples, an embedding is not finite, or the working
                folder holds embeddings of other weights, data or transform.

        Warns:
            LookalikeWarning: If a class has fewer distinct embeddings than prototypes were asked for, or the data
                are augmented at random.
        """
        checks.optional(checks.instance, "embeddings", embeddings, EmbeddingStore, "an EmbeddingStore")
        checks.optional(checks.names, "class_names", class_names)
        checks.optional(checks.path, "working_folder", working_folder)
        if working_folder is None:
            return self._fit(train, embeddings, class_names, None)
        folder = Path(working_folder)
        with alone(lock_in(folder)):
            clean(folder)
            return self._fit(train, embeddings, class_names, folder)

    def _fit(
        self, train: Any, embeddings: EmbeddingStore | None, class_names: list[str] | None, folder: Path | None
    ) -> PrototypeModel:
        started = time.perf_counter()
        batches = None if isinstance(train, EmbeddingStore) else self._batches(train)
        encoder = self._encoder(batches)
        sources = (embeddings, batches, train if batches is None else None)
        known = next((source.class_names for source in sources if source is not None), None)
        encoder = ordered(encoder, self.class_order, class_names or known)
        if batches is not None and embeddings is None:
            place = None if folder is None else folder / "embeddings"
            store = embed(encoder, batches, folder=place, resume=True, precision=self.precision, progress=self.progress)
        else:
            store = train if embeddings is None else embeddings
            _check_store(store, encoder, batches)
        embedded = time.perf_counter()
        _check_finite(store)
        names = _class_names(class_names or store.class_names, store)
        similarity = copy.deepcopy(make_similarity(self.similarity, self.similarity_options))
        lengths = given_lengths(similarity)
        similarity.fit(store.embeddings, store.labels, encoder.head_weight)
        with step("cluster and survey"):
            prototypes = self._prototypes(store, similarity, names, folder)
        with step("fit the temperature"):
            temperature = self._temperature(store, similarity, prototypes)
        preprocessing = preprocessing_of(batches)
        with step("read the prototypes' images"):
            images, value_range = read_prototype_images(batches, prototypes, self.n_images, preprocessing)
        with step("remember the training images"):
            split, keys = record_of(batches)
        made = self._provenance(store, similarity, names) | {"split": split}
        made |= {
            "calibration": temperature.to_dict(),
            "given_lengths": lengths,
            "embed_seconds": round(embedded - started, 3),
            "convert_seconds": round(time.perf_counter() - started, 3),
        }
        return PrototypeModel(
            encoder,
            prototypes,
            similarity,
            NearestPrototype(self.probabilities, temperature.value),
            preprocessing=preprocessing,
            images=images,
            value_range=value_range,
            provenance=made,
            training_keys=keys,
        )

    def _provenance(self, store: EmbeddingStore, similarity: Similarity, names: list[str]) -> dict[str, Any]:
        """Returns how a model is made, times and split aside."""
        large = streamed_classes(np.bincount(store.labels), store.embeddings.shape[1], self.memory_limit)
        return {
            **self._options(similarity),
            "n_samples": len(store),
            "skipped": len(store.skipped),
            "clustered_in_parts": [names[k] for k in large],
            "memory_limit": bytes_of(self.memory_limit),
            "precision": store.info.get("precision", "float32"),
            "precision_effect": store.info.get("precision_effect"),
            "fingerprints": {key: store.info.get(key) for key in ("weights", "data", "transform")},
            "versions": versions(),
        }

    @keeps_random_states
    @torch.inference_mode(False)
    def partial_fit(self, more: Any, *, previous: EmbeddingStore | None = None) -> PrototypeModel:
        """Lets more data join the prototype model that this was made with; ``fit`` where it was made with a classifier.

        Classes that the model does not know are clustered and get prototypes; samples of classes that it knows move
        those of their class, each to the mean of all that it stands for. Other classes' prototypes stay as they are, to
        the last bit. The temperature stays too, unless a number is given for it: the embeddings that it was fitted to
        are not at hand. Convert all data anew to fit it anew.

        Args:
            more: New data, as ``fit`` takes them. Their classes are matched by name, or by number where they have none.
            previous: The embeddings of the training data of before. With them counts, purity, nearest images and
                distances are found anew and are exact; without, those of classes with both old and new samples are put
                together from both (``provenance`` says so).

        Returns:
            A new model; the one given is as it was. New samples are numbered on from those of before.

        Raises:
            LookalikeError: As ``fit``.
        """
        checks.optional(checks.instance, "previous", previous, EmbeddingStore, "an EmbeddingStore")
        model = self.model
        if not isinstance(model, PrototypeModel):
            return self.fit(more)
        batches = None if isinstance(more, EmbeddingStore) else self._batches(more)
        encoder = self._encoder(batches)
        store = more if batches is None else embed(encoder, batches, precision=self.precision, progress=self.progress)
        _check_store(store, encoder, batches)
        _check_finite(store)
        return join_model(
            model,
            encoder,
            store,
            batches,
            previous,
            n_images=self.n_images,
            options=self._options(model.similarity),
            n_prototypes=self.n_prototypes,
            clusterer=self.clusterer,
            n_init=self.n_init,
            seed=self.random_state,
            temperature=None if self.temperature == "auto" else self.temperature,
        )

    def _batches(self, train: Any) -> Batches:
        if isinstance(train, Batches):
            return train
        return Batches(train, self.batch_size, self.num_workers, self.on_error)

    def _encoder(self, batches: Batches | None) -> Encoder:
        model, spec, names, head = self.model, None, None, self.head
        if isinstance(model, LoadedClassifier):
            spec, names, head = model.spec, model.class_names, head_of(model, self.head)
            model = model.model
        if batches is None:
            own = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
            if not isinstance(own, Encoder):
                raise LookalikeError(
                    "stored embeddings do not show where to cut the classifier: give KMEx the Encoder that made them"
                )
            return own
        return as_encoder(model, batches, head, output=self.output, spec=spec, output_names=names)

    def _prototypes(
        self, store: EmbeddingStore, similarity: Similarity, names: list[str], folder: Path | None
    ) -> Prototypes:
        clustering: dict[str, Any] = {
            "n_prototypes": self.n_prototypes,
            "clusterer": self.clusterer,
            "n_init": self.n_init,
            "seed": self.random_state,
            "memory_limit": self.memory_limit,
        }
        kept = None
        if folder is not None:
            kept = ClusterFolder(folder / "clusters", cluster_key(store, similarity, names, **clustering))
        learned = learn_prototypes(
            store.embeddings, store.labels, names, similarity, **clustering, kept=kept, progress=self.progress
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

    def _temperature(self, store: EmbeddingStore, similarity: Similarity, prototypes: Prototypes) -> Temperature:
        return choose_temperature(
            self.temperature,
            store.embeddings,
            store.labels,
            prototypes,
            similarity,
            reading=self.probabilities,
            seed=self.random_state,
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
    names = checks.names("class_names", names)
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
    expected["layers"] = fingerprint_layers(encoder.model)
    if batches is not None:
        expected |= {"data": batches.fingerprint(), "transform": batches.transform_fingerprint()}
    differing = [name for name, value in expected.items() if name in store.info and store.info[name] != value]
    if differing:
        raise LookalikeError(
            f"the stored embeddings were made with other {' and '.join(differing)}; embed the data again"
        )


def _check_finite(store: EmbeddingStore) -> None:
    rows = store.check()
    if len(rows):
        named = name_samples(store.indices[rows], lambda index: f"sample {index}")
        raise LookalikeError(f"{len(rows)} embeddings have NaN or infinite values: {named}")
