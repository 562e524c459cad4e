"""The inputs that the sections of a scorecard share: embeddings, images and maps, each computed once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_json
from lookalike.data import Batches, DataBundle, load_for_model
from lookalike.embedding import EmbeddingStore
from lookalike.embedding.checking import check_store
from lookalike.encoder import Encoder, dtype_of, place
from lookalike.metrics.black_box import BlackBox, Precision
from lookalike.metrics.class_order import Standing
from lookalike.metrics.controls import control_heads
from lookalike.metrics.noise import Generator, Noise
from lookalike.metrics.passes import Passes
from lookalike.model import PrototypeModel
from lookalike.model.class_labels import labels_in_model
from lookalike.relevance import COMPOSITES, Head, PrpRule, Relevance, lrp_of_heads, prp

T = TypeVar("T")

_MAPS_BATCH = 32  # a relevance pass keeps all activations, so its batches are smaller than prediction's
_ALL_RUNS = -1  # cache key, in place of a run's number, of values that all runs share
_RANGE_IMAGES = 256  # images from which the value range is read if the model does not know it
_ROWS = 16_384  # embeddings per batch; fewer if there are many prototypes:
_SIMILARITIES = 16_000_000  # most entries of a similarity matrix [n, P] in memory


@dataclass(frozen=True)
class Options:
    """The options of a scorecard, which records them.

    Attributes:
        n_images: Number of test images on which explanations are measured.
        n_runs: Number of runs, each with other images, noise and pixel order.
        n_steps: Number of steps S of the relevance-ordering curve.
        n_draws: Draws of noise per image.
        seed: Seed of the first run; each later run adds 1.
        composite: Rules of relevance propagation.
        scope: Whether ghosting compares prototypes within the ``"class"`` or ``"all"``.
        precision: Precision in which the networks classify noisy images.
        batch_size: Most rows that pass through a network at once.
        rule: How PRP starts at the similarity layer; None takes the model's default.
        noise: Generator of the noise, see ``Noise``.
    """

    n_images: int = 100
    n_runs: int = 1
    n_steps: int = 20
    n_draws: int = 5
    seed: int = 0
    composite: str = "epsilon-plus-flat"
    scope: Literal["class", "all"] = "class"
    precision: Precision = "float32"
    batch_size: int = 256
    rule: PrpRule | None = None
    noise: Generator = "philox"

    def __post_init__(self) -> None:
        checks.one_of("noise", self.noise, get_args(Generator))
        for name in ("n_images", "n_runs", "n_steps", "n_draws", "batch_size"):
            checks.field(self, name, checks.whole_number, 1)
        checks.field(self, "seed", checks.seed)
        checks.one_of("scope", self.scope, ("class", "all"))
        checks.one_of("precision", self.precision, ("float32", "bfloat16"))
        _ = COMPOSITES[self.composite]


@dataclass
class Context:
    """A model under evaluation, with its data and everything computed from them so far.

    Images, noise and maps are cached per run, as several sections use the same ones; ``forget`` drops those of a run.

    Attributes:
        model: The prototype model.
        options: The options of the scorecard.
        test: The test data; None if there are only embeddings.
        test_store: Their embeddings.
        labels: The test samples' classes [N], in the model's numbering.
        train_store: Embeddings of the training data, or None.
        train_labels: Their classes, in the model's numbering.
        black_box: The classifier to compare the model with, or None.
        standing: How the black box's predictions compare with the labels, or None.
        attributes: Attributes of the training samples [N, A], or None.
        masks: Returns the masks of test samples bool [n, H, W] by their indices, or None.
        advance: Moves the progress bar by a number of rows.
        notes: Notes about the figures for the user.
        maps_batch: Most images per relevance pass.
        train_rows: Indices of the training samples that a loader draws, ascending; None for all of its data set.
    """

    model: PrototypeModel
    options: Options
    test: Batches | None
    test_store: EmbeddingStore
    labels: Tensor
    train_store: EmbeddingStore | None = None
    train_labels: Tensor | None = None
    black_box: BlackBox | None = None
    standing: Standing | None = None
    attributes: Tensor | None = None
    masks: Callable[[list[int]], Tensor] | None = None
    advance: Callable[[int], object] = lambda _: None
    notes: list[str] = field(default_factory=list)
    maps_batch: int = _MAPS_BATCH
    train_rows: np.ndarray | None = None
    _cache: dict[tuple[str, int], Any] = field(default_factory=dict)

    def sample(self, run: int) -> list[int]:
        """Draws the test samples of a run; returns their indices in the data, sorted."""
        rng = np.random.default_rng([self.options.seed, run])
        n = min(self.options.n_images, len(self.test_store))
        indices: list[int] = np.sort(rng.permutation(self.test_store.indices)[:n]).tolist()
        return indices

    def images(self, run: int) -> Tensor:
        """Returns the inputs of a run's samples [n, C, H, W]."""

        def make() -> Tensor:
            assert self.test is not None  # only sections that need images call this
            inputs = self.test.fetch(self.sample(run))
            moved: Tensor = place(inputs, self.model.device, dtype_of(self.model.encoder))
            return moved

        return self._cached("images", run, make)

    def noise(self, run: int) -> Noise:
        """Returns the white noise of a run, the same for every model."""
        low, high = self._value_range()
        return Noise(low, high, self.options.n_draws, self.options.seed + run, self.options.noise)

    def _value_range(self) -> Tensor:
        """Returns the inputs' values at black and at white [2, C], from test images if the model does not know them.

        Many images are read even if few are measured: noise within the range of a single image would hide little of
        that image, and nothing of a uniform one.
        """
        if self.model.value_range is not None:
            return self.model.value_range

        def make() -> Tensor:
            assert self.test is not None  # only sections that need images call this
            rng = np.random.default_rng([self.options.seed])
            rows = np.sort(rng.permutation(self.test_store.indices)[:_RANGE_IMAGES])
            lows, highs = [], []
            for start in range(0, len(rows), _MAPS_BATCH):
                x = self.test.fetch(rows[start : start + _MAPS_BATCH].tolist()).float()
                lows.append(x.amin((0, 2, 3)))
                highs.append(x.amax((0, 2, 3)))
            return torch.stack([torch.stack(lows).amin(0), torch.stack(highs).amax(0)])

        return self._cached("value range", _ALL_RUNS, make)

    def nearest(self, run: int) -> Tensor:
        """Returns each image's most similar prototype [n]."""
        size = self.options.batch_size
        return self._cached("nearest", run, lambda: self.model.similarities(self.images(run), size).argmax(1))

    def likeness_maps(self, run: int) -> Tensor:
        """Returns PRP maps of the most similar prototype [n, H, W]."""
        prototypes = self.nearest(run)[:, None]
        return self._maps("prp", run, lambda x, rows: self.explain_likeness(x, prototypes[rows]))

    def explain_likeness(self, inputs: Tensor, prototypes: Tensor) -> Tensor:
        """Returns PRP maps [n, H, W] of one prototype per input [n, 1]."""
        options = self.options
        return self._checked_pixels(prp(self.model, inputs, prototypes, options.composite, rule=options.rule))[:, 0]

    def probability_maps(self, run: int) -> Tensor:
        """Returns the model's own LRP maps of the predicted class's probability [n, H, W]."""
        return self._head_maps(run)[:, 0]

    def control_maps(self, run: int) -> dict[str, Tensor]:
        """Returns the same maps for the control heads, which decide by chance; each [n, H, W], by name."""
        maps = self._head_maps(run)
        return {name: maps[:, column] for column, name in enumerate(self._control_heads(run), start=1)}

    def _control_heads(self, run: int) -> dict[str, Head]:
        def make() -> dict[str, Head]:
            z = self._embeddings(self.sample(run)).to(self.model.prototypes.vectors.dtype)
            return control_heads(self.model, z, [self.options.seed, run])

        return self._cached("control heads", run, make)

    def _head_maps(self, run: int) -> Tensor:
        """Returns LRP maps [n, M, H, W] of the model's head and the control heads, from one forward pass."""
        controls = list(self._control_heads(run).values())

        def model_head(z: Tensor, _rows: slice) -> Tensor:
            return self.model.log_probabilities_of(z)

        def make(x: Tensor, rows: slice) -> Tensor:
            shifted = [
                lambda z, head_rows, head=head: head(z, _shifted_slice(head_rows, rows.start)) for head in controls
            ]
            relevance = lrp_of_heads(self.model.encoder, x, [model_head, *shifted], self.options.composite)
            self._checked_pixels(_map_of_head(relevance, 0))
            return relevance.pixels

        return self._maps("lrp", run, make)

    def predicted(self, run: int) -> Tensor:
        """Returns the model's predicted classes for a run's images [n]."""
        with torch.no_grad():
            return self.model.scores_of(self._embeddings(self.sample(run))).argmax(1).cpu()

    def _embeddings(self, samples: list[int]) -> Tensor:
        """Returns the embeddings of some test samples [n, D]."""
        order = np.argsort(self.test_store.indices)
        rows = order[np.searchsorted(self.test_store.indices, samples, sorter=order)]
        return torch.from_numpy(np.array(self.test_store.embeddings[rows])).to(self.model.device)

    def black_box_maps(self, run: int) -> Tensor:
        """Returns the black box's LRP maps of its predicted class's probability [n, H, W]."""
        black_box = self.black_box
        assert black_box is not None  # only sections that need it call this
        return self._maps("black box", run, lambda x, _: black_box.maps(x, self.options.composite, self.maps_batch))

    def note(self, sentence: str) -> None:
        """Adds a note unless it is already there."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _checked_pixels(self, relevance: Relevance) -> Tensor:
        """Returns relevance per pixel; adds a note if much of it passed through operations without a rule."""
        if relevance.caution is not None:
            names = ", ".join(relevance.without_rule)
            self.note(f"do not rely on the relevance maps: much of their relevance went through {names} without a rule")
        return relevance.pixels

    def _maps(self, name: str, run: int, explain: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Computes the maps of a run's images in batches; ``explain`` takes inputs and their rows."""

        def compute() -> Tensor:
            x, batches, step = self.images(run), [], min(self.maps_batch, self.options.batch_size)
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                batches.append(explain(x[rows], rows))
                self.advance(len(batches[-1]))
            maps = torch.cat(batches)
            self._note_empty(maps.flatten(1) if maps.ndim == 3 else maps[:, 0].flatten(1))
            return maps

        return self._cached(name, run, compute)

    def _note_empty(self, maps: Tensor) -> None:
        """Notes how many maps [n, pixels] are the same for all pixels: what orders pixels by them orders by chance."""
        n_empty = int((maps.amax(1) == maps.amin(1)).sum())
        if n_empty:
            self.note(
                f"do not rely on the relevance maps: {n_empty} of {len(maps)} show no pixel above another, and figures "
                "that follow the order of pixels say nothing of these images"
            )

    @cached_property
    def passes(self) -> Passes:
        """Forward passes at the precision of the options."""
        return Passes(self.model, self.black_box, self.options.precision, self.options.batch_size)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the model's class probabilities [n, K], at the precision of the options."""
        return self.passes.probabilities(inputs)

    def similarities(self, inputs: Tensor) -> Tensor:
        """Returns the model's similarities [n, P], at the precision of the options."""
        return self.model.similarities_of(self.passes.embeddings(inputs))

    def activations(self, inputs: Tensor) -> Tensor:
        """Returns the model's similarities divided by its temperature [n, P], at the precision of the options."""
        return self.similarities(inputs) / self.model.classifier.temperature

    def curves_key(self, run: int, name: str) -> str:
        """Returns the fingerprint of a run's images, noise and options: the key of a curve of the black box."""
        noise, options = self.noise(run), self.options
        image_key = [self.test_store.info.get("data"), self.test_store.info.get("transform"), self.sample(run)]
        noise_key = [noise.low.tolist(), noise.high.tolist(), noise.draws, noise.seed, noise.generator]
        return fingerprint_json([name, image_key, noise_key, options.n_steps, options.composite, options.precision])

    def forget(self, run: int) -> None:
        """Drops a run's images and maps from memory."""
        self._cache = {key: value for key, value in self._cache.items() if key[1] != run}

    def _cached(self, name: str, run: int, make: Callable[[], T]) -> T:
        if (name, run) not in self._cache:
            self._cache[name, run] = make()
        value: T = self._cache[name, run]
        return value


def _shifted_slice(rows: slice, by: int) -> slice:
    """Turns rows of a batch into rows of all images."""
    return slice(rows.start + by, rows.stop + by)


def _map_of_head(relevance: Relevance, head: int) -> Relevance:
    """Keeps the maps of one head: [n, M, …] becomes [n, …]."""
    shares = {name: share[:, head] for name, share in relevance.unruled_by.items()}
    return replace(relevance, maps=relevance.maps[:, head], residual=relevance.residual[:, head], unruled_by=shares)


class EvaluationData(NamedTuple):
    """The data of an evaluation.

    Attributes:
        test: Test data of any kind.
        train: Training data of any kind, or None.
        attributes: Attributes of the training samples, or None.
        notes: Notes about the data, in full sentences.
    """

    test: Any
    train: Any
    attributes: Any
    notes: tuple[str, ...]


def unbundle_data(model: PrototypeModel, test: Any, train: Any = None, attributes: Any = None) -> EvaluationData:
    """Splits a folder or a ``DataBundle`` into test data, training data and attributes; given ones take precedence."""
    if isinstance(test, str | Path):
        test = load_for_model(test, model.preprocessing, model.training_record)
    if isinstance(train, str | Path):
        train = load_for_model(train, model.preprocessing, model.training_record).train
    if not isinstance(test, DataBundle):
        return EvaluationData(test, train, attributes, ())
    if attributes is None and train is None and test.attributes is not None:
        attributes = test.attributes.train
    if train is None and len(test.train):
        train = test.train
    return EvaluationData(test.test, train, attributes, test.notes)


def aligned_labels(store: EmbeddingStore, model: PrototypeModel, role: str) -> Tensor:
    """Returns a store's labels [N] in the model's numbering, matched by name if both have names.

    Raises:
        LookalikeError: If there are no samples, or the data have a class that the model does not have.
    """
    if not len(store.labels):
        raise LookalikeError("there are no samples to evaluate on")
    return torch.from_numpy(labels_in_model(store.labels, store.class_names, model.class_names, role))


def check_given_store(store: EmbeddingStore, model: PrototypeModel, data: Batches | None = None) -> None:
    """Checks that embeddings that a user gives were made by the model's encoder, as far as that is recorded.

    Args:
        store: The embeddings.
        model: The model.
        data: The data that they are to be of, if these are at hand.

    Raises:
        LookalikeError: If not, or they are of other data.
    """
    if not isinstance(model.encoder, Encoder) or model.has_patches:
        return
    check_store(store, model.encoder, None)
    n_read = len(store) + len(store.skipped)
    if data is None or data.total is None:
        return
    if data.total != n_read:
        raise LookalikeError(
            f"the embeddings are of {n_read:,} samples and the data have {data.total:,}; embed the data again"
        )
    _check_labels_of(store, data)


def _check_labels_of(store: EmbeddingStore, data: Batches) -> None:
    """Checks embeddings against the labels of arrays; the same samples in another container have other fingerprints.

    Raises:
        LookalikeError: If the labels are others.
    """
    labels = data.labels_if_known
    if labels is not None and not np.array_equal(labels[store.indices], store.labels):
        raise LookalikeError("the embeddings are of other data: their labels differ; embed the data again")


def rows_of(store: EmbeddingStore, rows: slice, device: torch.device) -> Tensor:
    """Reads embeddings of a store [n, D]."""
    return torch.from_numpy(np.array(store.embeddings[rows])).to(device)


def rows_per_batch(model: PrototypeModel) -> int:
    """Returns how many embeddings to compare with all prototypes at once, within the memory bound."""
    n_patches = getattr(model.encoder, "n_patches", 1) if model.has_patches else 1
    largest = n_patches * max(len(model.prototypes), model.prototypes.vectors.shape[1])
    return max(1, min(_ROWS, _SIMILARITIES // largest))
