"""What the sections of a scorecard share: embeddings, images, maps, each made once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_json
from lookalike.data import Batches, DataBundle
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import dtype_of, match_names, place
from lookalike.encoder.class_names import are_numbers
from lookalike.metrics.black_box import BlackBox, Precision, at_precision, embeddings_of
from lookalike.metrics.class_order import Standing
from lookalike.metrics.controls import control_heads
from lookalike.metrics.robustness import Noise, OrderingCurves
from lookalike.model import PrototypeModel
from lookalike.relevance import COMPOSITES, Head, PrpRule, Relevance, lrp_of_heads, prp

T = TypeVar("T")

_MAPS_BATCH = 32
_EVERY_RUN = -1
_RANGE_IMAGES = 256  # from which the range of values is read, where the model does not know it
_ROWS = 16_384  # embeddings at a time, or fewer where there are many prototypes:
_SIMILARITIES = 16_000_000  # held at once


@dataclass(frozen=True)
class Options:
    """How a scorecard is measured; recorded in it.

    Attributes:
        n_images: Of how many test images explanations are measured.
        n_runs: How often, with other images, noise and order.
        n_steps: S of the relevance-ordering curve.
        n_draws: Of noise, per image.
        random_state: Seed of the first run; the next ones follow it.
        composite: Rules of relevance propagation.
        scope: Of ghosting.
        precision: In which the networks run where noisy images are classified.
        batch_size: The most rows that pass through a network at once.
        rule: How PRP starts at the similarity layer; None takes the model's default.
    """

    n_images: int = 100
    n_runs: int = 1
    n_steps: int = 20
    n_draws: int = 5
    random_state: int = 0
    composite: str = "epsilon-plus-flat"
    scope: Literal["class", "all"] = "class"
    precision: Precision = "float32"
    batch_size: int = 256
    rule: PrpRule | None = None

    def __post_init__(self) -> None:
        for name in ("n_images", "n_runs", "n_steps", "n_draws", "batch_size"):
            checks.whole_number(name, getattr(self, name), 1)
        checks.seed("random_state", self.random_state)
        checks.one_of("scope", self.scope, ("class", "all"))
        checks.one_of("precision", self.precision, ("float32", "bfloat16"))
        _ = COMPOSITES[self.composite]


@dataclass
class Context:
    """A model under evaluation.

    Attributes:
        model: The prototype model.
        options: How it is measured.
        test: The test data; None where only embeddings are at hand.
        test_store: Their embeddings.
        labels: The test samples' classes [N], in the model's numbering.
        train_store: Embeddings of the training data, or None.
        train_labels: Their classes, in the model's numbering.
        black_box: What it is compared with, or None.
        standing: How its predictions stand to the labels, or None.
        attributes: Of the training samples [N, A], or None.
        advance: Moves the progress bar.
        notes: What the user is to know about the figures.
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
    advance: Callable[[int], object] = lambda _: None
    notes: list[str] = field(default_factory=list)
    _kept: dict[tuple[str, int], Any] = field(default_factory=dict)

    def sample(self, run: int) -> list[int]:
        """Returns which test samples, by their own indices, a run looks at."""
        rng = np.random.default_rng([self.options.random_state, run])
        n = min(self.options.n_images, len(self.test_store))
        chosen: list[int] = np.sort(rng.permutation(self.test_store.indices)[:n]).tolist()
        return chosen

    def images(self, run: int) -> Tensor:
        """Returns those samples' inputs [n, C, H, W]."""

        def make() -> Tensor:
            assert self.test is not None  # noqa: S101 - asked for by sections that need images
            inputs = self.test.fetch(self.sample(run))
            placed: Tensor = place(inputs, self.model.device, dtype_of(self.model.encoder))
            return placed

        return self._once("images", run, make)

    def noise(self, run: int) -> Noise:
        """Returns the white noise of a run, the same for every model."""
        low, high = self._value_range()
        return Noise(low, high, self.options.n_draws, self.options.random_state + run)

    def _value_range(self) -> Tensor:
        """Returns the inputs' values at black and at white [2, C]; of the test images if the model does not know them.

        They are read from many images, however few are measured: the noise of one image's own range would hide little
        of it, and nothing of an even one.
        """
        if self.model.value_range is not None:
            return self.model.value_range

        def make() -> Tensor:
            assert self.test is not None  # noqa: S101 - asked for by sections that need images
            rng = np.random.default_rng([self.options.random_state])
            rows = np.sort(rng.permutation(self.test_store.indices)[:_RANGE_IMAGES])
            lows, highs = [], []
            for start in range(0, len(rows), _MAPS_BATCH):
                x = self.test.fetch(rows[start : start + _MAPS_BATCH].tolist()).float()
                lows.append(x.amin((0, 2, 3)))
                highs.append(x.amax((0, 2, 3)))
            return torch.stack([torch.stack(lows).amin(0), torch.stack(highs).amax(0)])

        return self._once("value range", _EVERY_RUN, make)

    def nearest(self, run: int) -> Tensor:
        """Returns each image's most similar prototype [n]."""
        size = self.options.batch_size
        return self._once("nearest", run, lambda: self.model.similarities(self.images(run), size).argmax(1))

    def likeness_maps(self, run: int) -> Tensor:
        """Returns PRP maps of the most similar prototype [n, H, W]."""
        chosen = self.nearest(run)[:, None]
        return self._maps("prp", run, lambda x, rows: self.explain_likeness(x, chosen[rows]))

    def explain_likeness(self, inputs: Tensor, prototypes: Tensor) -> Tensor:
        """Returns PRP maps [n, H, W] of one prototype per input [n, 1]."""
        options = self.options
        return self._noted(prp(self.model, inputs, prototypes, options.composite, rule=options.rule))[:, 0]

    def probability_maps(self, run: int) -> Tensor:
        """Returns the model's own LRP maps of the predicted class's probability [n, H, W]."""
        return self._head_maps(run)[:, 0]

    def control_maps(self, run: int) -> dict[str, Tensor]:
        """Returns the same maps with heads on the same encoder that decide by chance, each [n, H, W], by name."""
        maps = self._head_maps(run)
        return {name: maps[:, column] for column, name in enumerate(self._control_heads(run), start=1)}

    def _control_heads(self, run: int) -> dict[str, Head]:
        def make() -> dict[str, Head]:
            z = self._embeddings(self.sample(run)).to(self.model.prototypes.vectors.dtype)
            return control_heads(self.model, z, [self.options.random_state, run])

        return self._once("control heads", run, make)

    def _head_maps(self, run: int) -> Tensor:
        """Returns LRP maps [n, M, H, W] of the model and its controls: one forward pass for all."""
        controls = list(self._control_heads(run).values())

        def make(x: Tensor, rows: slice) -> Tensor:
            shifted = [lambda z, part, head=head: head(z, _shifted(part, rows.start)) for head in controls]
            own: Head = lambda z, _: self.model.log_probabilities_of(z)  # noqa: E731
            found = lrp_of_heads(self.model.encoder, x, [own, *shifted], self.options.composite)
            self._noted(_column(found, 0))
            return found.pixels

        return self._maps("lrp", run, make)

    def predicted(self, run: int) -> Tensor:
        """Returns the classes that the model predicts for a run's images [n]."""
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
        assert black_box is not None  # noqa: S101 - asked for by sections that need it
        return self._maps("black box", run, lambda x, _: black_box.maps(x, self.options.composite, _MAPS_BATCH))

    def note(self, told: str) -> None:
        """Adds a note, once."""
        if told not in self.notes:
            self.notes.append(told)

    def _noted(self, relevance: Relevance) -> Tensor:
        """Returns relevance per pixel; notes if it is not to be relied on."""
        if relevance.caution is not None:
            names = ", ".join(relevance.without_rule)
            self.note(f"do not rely on the relevance maps: much of their relevance went through {names} without a rule")
        return relevance.pixels

    def _maps(self, name: str, run: int, make: Callable[[Tensor, slice], Tensor]) -> Tensor:
        def batched() -> Tensor:
            x, parts, step = self.images(run), [], min(_MAPS_BATCH, self.options.batch_size)
            for start in range(0, len(x), step):
                rows = slice(start, start + step)
                parts.append(make(x[rows], rows))
                self.advance(len(parts[-1]))
            return torch.cat(parts)

        return self._once(name, run, batched)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the model's class probabilities [n, K], at the precision asked for."""
        with at_precision(self.options.precision, inputs.device):
            z = embeddings_of(self.model, inputs)
        return self.model.probabilities_of(z)

    def similarities(self, inputs: Tensor) -> Tensor:
        """Returns the model's similarities [n, P], at the precision asked for."""
        with at_precision(self.options.precision, inputs.device):
            z = embeddings_of(self.model, inputs)
        return self.model.similarities_of(z)

    def activations(self, inputs: Tensor) -> Tensor:
        """Returns the model's similarities over its temperature [n, P], at the precision asked for."""
        return self.similarities(inputs) / self.model.classifier.temperature

    def black_box_probabilities(self, inputs: Tensor) -> Tensor:
        """Returns the black box's class probabilities [n, K], at the precision asked for."""
        assert self.black_box is not None  # noqa: S101 - asked for by sections that need it
        with at_precision(self.options.precision, inputs.device):
            return self.black_box.probabilities(inputs)

    def black_box_curves(self, run: int, name: str, make: Callable[[], OrderingCurves]) -> OrderingCurves:
        """Returns a relevance-ordering curve of the black box, from another model's evaluation if it was made there."""
        assert self.black_box is not None  # noqa: S101 - asked for by sections that need it
        noise, options = self.noise(run), self.options
        images = [self.test_store.info.get("data"), self.test_store.info.get("transform"), self.sample(run)]
        drawn = [noise.low.tolist(), noise.high.tolist(), noise.draws, noise.seed]
        key = fingerprint_json([name, images, drawn, options.n_steps, options.composite, options.precision])
        kept = self.black_box.measured.get(key)
        if kept is None:
            kept = self.black_box.measured[key] = make()
        else:
            self.advance(kept.probabilities.shape[0] * (1 + options.n_steps * options.n_draws))
        return kept

    def forget(self, run: int) -> None:
        """Lets go of a run's images and maps."""
        self._kept = {key: value for key, value in self._kept.items() if key[1] != run}

    def _once(self, name: str, run: int, make: Callable[[], T]) -> T:
        if (name, run) not in self._kept:
            self._kept[name, run] = make()
        value: T = self._kept[name, run]
        return value


def _shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)


def _column(relevance: Relevance, column: int) -> Relevance:
    """Returns one of the maps of each image."""
    shares = {name: share[:, column] for name, share in relevance.unruled_by.items()}
    return replace(relevance, maps=relevance.maps[:, column], residual=relevance.residual[:, column], unruled_by=shares)


class EvaluationData(NamedTuple):
    """The data of an evaluation.

    Attributes:
        test: Test data of any kind.
        train: Training data of any kind, or None.
        attributes: Of the training samples, or None.
        notes: What should be known of the data, in sentences.
    """

    test: Any
    train: Any
    attributes: Any
    notes: tuple[str, ...]


def unbundled(test: Any, train: Any = None, attributes: Any = None) -> EvaluationData:
    """Takes a ``DataBundle`` apart: its training part and attributes serve as those, unless others are given."""
    if not isinstance(test, DataBundle):
        return EvaluationData(test, train, attributes, ())
    if attributes is None and train is None and test.attributes is not None:
        attributes = test.attributes.train
    if train is None and len(test.train):
        train = test.train
    return EvaluationData(test.test, train, attributes, test.notes)


def aligned_labels(store: EmbeddingStore, model: PrototypeModel, what: str) -> Tensor:
    """Returns a store's labels [N] in the model's numbering: by name where both have names.

    Raises:
        LookalikeError: If there are none, or the data have a class that the model does not know.
    """
    labels, names, own = torch.from_numpy(np.array(store.labels)), store.class_names, model.class_names
    if not len(labels):
        raise LookalikeError("there are no samples to evaluate on")
    if names is not None and list(names) != own:
        match = match_names(names, own)
        if match.complete:
            return torch.tensor(match.positions)[labels]
        if not are_numbers(own) or len(match.missing) < len(names):
            strange = (match.missing or match.ambiguous)[0]
            raise LookalikeError(f"the {what} data have a class {strange!r}; the model knows {', '.join(own[:20])}")
    if int(labels.max()) >= model.n_classes:
        raise LookalikeError(
            f"the {what} data have a class {int(labels.max())}; the model has {model.n_classes} classes from 0"
        )
    return labels


def rows_of(store: EmbeddingStore, rows: slice, device: torch.device) -> Tensor:
    """Returns some embeddings of a store [n, D]."""
    return torch.from_numpy(np.array(store.embeddings[rows])).to(device)


def few_rows(model: PrototypeModel) -> int:
    """Returns of how many embeddings the similarities to all prototypes are held at once."""
    return max(1, min(_ROWS, _SIMILARITIES // max(len(model.prototypes), model.prototypes.vectors.shape[1])))
