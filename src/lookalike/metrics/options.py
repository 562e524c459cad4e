"""The options of an evaluation: plain keywords of ``evaluate``, checked and kept in one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

import numpy as np
from torch import Tensor

from lookalike._core import checks
from lookalike._core.progress import Advance
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import ClassOrder
from lookalike.metrics.black_box import Precision
from lookalike.metrics.budget import Budget
from lookalike.metrics.context import Options
from lookalike.metrics.noise import Generator
from lookalike.model import PrototypeModel
from lookalike.relevance import PrpRule, prp_rule


class EvaluationOptions(TypedDict, total=False):
    """The keyword options of ``evaluate``; ``EvaluationSettings`` says what each means and its default."""

    class_order: ClassOrder
    attributes: Tensor | np.ndarray | None
    masks: Tensor | np.ndarray | None
    sanity: bool
    measures: Sequence[str] | Literal["all"] | None
    n_images: int
    n_runs: int
    n_steps: int
    n_draws: int
    budget: float | Budget | None
    composite: str
    scope: Literal["class", "all"]
    precision: Precision
    rule: PrpRule | None
    noise: Generator
    batch_size: int
    num_workers: int | None
    on_error: Literal["stop", "skip"]
    test_embeddings: EmbeddingStore | None
    train_embeddings: EmbeddingStore | None
    progress: bool | Advance | None


@dataclass(frozen=True)
class EvaluationSettings:
    """All options of one evaluation.

    Attributes:
        class_order: The names of the black box's outputs, in output order, if it does not know them or has them wrong:
            names, a file with a line per output, or ``"natural"`` for the model's classes as timm orders them.
        attributes: Binary attributes of the training samples [N, A], in the data's order.
        masks: Whether each pixel belongs to the object, for all test images in the data's order [N, H, W], as the
            network sees them; None takes the masks that the data set knows, if any.
        sanity: Also randomise the model's weights from the head down, and its labels, and compare its explanations.
        measures: Standard measures of the field to add, e.g. ``("deletion", "road", "sensitivity")``, or ``"all"`` for
            those that can be measured; the reference page on measures lists them.
        n_images: Number of test images on which explanations are measured.
        n_runs: Number of runs, each with other images and noise; figures are then means over runs.
        n_steps: Steps of the relevance-ordering curve.
        n_draws: Draws of noise per image.
        budget: Most seconds to spend; None is without a bound. Sections are then measured in the order of their worth,
            after the embeddings, for which the bound does not hold. Sections that would not end in time are left out,
            and a note names them; the figures of the others are the same as without a bound.
        composite: Rules of relevance propagation.
        scope: Whether ghosting compares prototypes within the ``"class"`` or ``"all"``.
        precision: ``"bfloat16"`` classifies noisy images in that precision; faster on processors that support it.
        rule: How PRP starts at the similarity layer, see ``relevance.prp``; None takes the default, ``"neuralized"``;
            ``"share"`` is the paper's.
        noise: Generator of the noise: ``"philox"`` draws the same numbers on every device; ``"mersenne"`` those of
            earlier versions.
        batch_size: Most rows that pass through a network at once.
        num_workers: Number of processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read.
        test_embeddings: Embeddings of the test data, if ``embed`` has made them already.
        train_embeddings: Embeddings of the training data, likewise.
        progress: Whether to show a progress bar; None shows it on a terminal.
    """

    class_order: ClassOrder = None
    attributes: Any = None
    masks: Any = None
    sanity: bool = False
    measures: Sequence[str] | Literal["all"] | None = None
    n_images: int = 100
    n_runs: int = 1
    n_steps: int = 20
    n_draws: int = 5
    budget: float | Budget | None = None
    composite: str = "epsilon-plus-flat"
    scope: Literal["class", "all"] = "class"
    precision: Precision = "float32"
    rule: PrpRule | None = None
    noise: Generator = "philox"
    batch_size: int = 256
    num_workers: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    test_embeddings: EmbeddingStore | None = None
    train_embeddings: EmbeddingStore | None = None
    progress: bool | Advance | None = None

    def __post_init__(self) -> None:
        checks.flag("sanity", self.sanity)
        for name in ("test_embeddings", "train_embeddings"):
            checks.optional(checks.instance, name, getattr(self, name), EmbeddingStore, "an EmbeddingStore")
        checks.progress("progress", self.progress)
        if not isinstance(self.budget, Budget):
            checks.optional(lambda name, value: checks.number(name, value, above=0), "budget", self.budget)

    @classmethod
    def of(cls, function: str, options: Mapping[str, Any]) -> "EvaluationSettings":
        """Makes settings of plain keyword options.

        Args:
            function: Name of the function that was called, for messages.
            options: The options, by name.

        Raises:
            LookalikeError: If an option has an invalid value.
            TypeError: If there is no option of that name.
        """
        checks.option_names(function, options, [field.name for field in fields(cls)])
        return cls(**options)

    def measuring(self, model: PrototypeModel, seed: int) -> Options:
        """Returns how a model's figures are measured: what a scorecard records."""
        shared = {field.name for field in fields(self)} & {field.name for field in fields(Options)}
        options = {name: getattr(self, name) for name in shared}
        return Options(**{**options, "seed": seed, "rule": prp_rule(model, self.rule)})

    def read(self, data: Any) -> Batches | EmbeddingStore:
        """Returns data as batches that are read in a fixed order; embeddings as they are."""
        if isinstance(data, Batches | EmbeddingStore):
            return data
        return Batches(data, self.batch_size, self.num_workers, self.on_error)
