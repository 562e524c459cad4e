"""A trained classifier as the metrics ask it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import ClassOrder, Encoder, LoadedClassifier, map_classes, ordered
from lookalike.metrics.class_order import Standing, stand_beside
from lookalike.metrics.robustness import OrderingCurves
from lookalike.model import PrototypeModel
from lookalike.relevance import Composite, lrp

Precision = Literal["float32", "bfloat16"]


class BlackBox:
    """The classifier that prototype models are compared with.

    Give the same one to ``evaluate`` for several models, and what concerns it alone is measured once.

    Args:
        encoder: The classifier with its head.

    Attributes:
        encoder: As given.
        outputs: How its class scores are read, and what they are called.
        n_classes: How many classes it has.
        measured: Its relevance-ordering curves, by a fingerprint of images, noise and options.
        confidences: The probabilities of its predicted classes [N], by test data.

    Raises:
        LookalikeError: If it has no head, and so no class scores.
    """

    def __init__(self, encoder: Encoder) -> None:
        checks.instance("encoder", encoder, Encoder, "an Encoder")
        if encoder.outputs is None:
            raise LookalikeError("the black box has no head, and so no predictions to compare with")
        self.encoder = encoder
        self.outputs = encoder.outputs
        self.measured: dict[str, OrderingCurves] = {}
        self.confidences: dict[str, Tensor] = {}
        self.n_classes = self.outputs.n_classes

    @classmethod
    def of(cls, given: "nn.Module | LoadedClassifier | BlackBox", batches: Batches) -> "BlackBox":
        """Finds the head of a classifier with the first samples of some data."""
        if isinstance(given, BlackBox):
            return given
        names: list[str] | None = None
        if isinstance(given, LoadedClassifier):
            if given.head is not None:
                raise LookalikeError(
                    "the black box's weights have no trained head: there are no predictions to compare with"
                )
            names = given.class_names
            given = given.model
        if isinstance(given, PrototypeModel):
            raise LookalikeError("the black box is the classifier that was converted, not a prototype model")
        if isinstance(given, Encoder):
            return cls(given)
        first = next(iter(batches), None)
        if first is None:
            raise LookalikeError("there are no samples to evaluate on")
        return cls(Encoder(given, first.inputs, output_names=names))

    def ordered(self, class_order: ClassOrder, class_names: Sequence[str]) -> "BlackBox":
        """Returns the same black box with its outputs named by a user; itself if no order is given."""
        if class_order is None:
            return self
        again = BlackBox(ordered(self.encoder, class_order, class_names))
        again.measured = self.measured  # no order of classes changes these curves
        again.confidences = self.confidences
        return again

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns class probabilities [n, K], in the order of its outputs."""
        return self.outputs.probabilities(self.encoder.scores(inputs).float())

    def maps(self, inputs: Tensor, composite: str | Composite, batch_size: int) -> Tensor:
        """Returns the relevance per pixel [n, H, W] of the predicted class's probability."""
        model = self.encoder.model
        return lrp(model, inputs, None, composite, of="probability", output=self.outputs, batch_size=batch_size).pixels

    def predictions(self, model: PrototypeModel, store: EmbeddingStore, data: Batches | None) -> Tensor | None:
        """Returns what it predicts [N], in the order of its outputs: from the pass that made the store if that was its
        own, else from one more.
        """  # noqa: D205
        if data is not None and not self.reads_as(model.encoder):
            store = embed(self.encoder, data, progress=False)
        return None if store.predictions is None else torch.from_numpy(store.predictions)

    def reads_as(self, encoder: nn.Module) -> bool:
        """Says whether a pass of an encoder has read these same class scores."""
        return (
            isinstance(encoder, Encoder)
            and encoder.model is self.encoder.model
            and encoder.outputs is not None
            and encoder.outputs.key == self.outputs.key
        )

    def stand_beside(
        self, model: PrototypeModel, labels: Tensor, store: EmbeddingStore, data: Batches | None
    ) -> Standing | None:
        """Returns its predictions in the model's numbering, and whether they can be what they seem."""
        predicted = self.predictions(model, store, data)
        return None if predicted is None else stand_beside(labels, predicted, self.outputs, model.class_names)


class FoundBlackBox(NamedTuple):
    """What to compare a model with.

    Attributes:
        box: None if there is nothing.
        lacking: Why the classifier that was converted cannot be compared with, or nothing.
    """

    box: BlackBox | None
    lacking: str = ""


def find_black_box(
    model: PrototypeModel,
    given: nn.Module | LoadedClassifier | BlackBox | None,
    data: Batches | None,
    class_order: ClassOrder = None,
) -> FoundBlackBox:
    """Finds what to compare a model with: what was given, or the classifier that was converted.

    Args:
        model: The prototype model.
        given: The classifier to compare with, or None.
        data: The test data, or None where only embeddings are at hand.
        class_order: The names of its outputs, in their order; see ``read_class_order``.

    Raises:
        LookalikeError: If what was given has other classes than the model, or no data to be asked about, or the class
            order does not fit.
    """
    if given is None:
        own = model.encoder
        if not isinstance(own, Encoder) or own.outputs is None:
            if class_order is not None:
                raise LookalikeError("a class order was given, and there is no black box whose outputs it could name")
            return FoundBlackBox(None)
        box = BlackBox(own).ordered(class_order, model.class_names)
        found = map_classes(box.outputs, model.class_names)
        return FoundBlackBox(box) if found.classes is not None else FoundBlackBox(None, found.note)
    if data is None:
        raise LookalikeError("a black box cannot be asked about stored embeddings; give the test data themselves")
    box = BlackBox.of(given, data).ordered(class_order, model.class_names)
    found = map_classes(box.outputs, model.class_names)
    if found.classes is None:
        raise LookalikeError(f"the black box cannot be compared with the model: {found.note}")
    return FoundBlackBox(box)


@contextmanager
def at_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Runs networks in float32 or, where the processor is quicker at it, in bfloat16.

    Raises:
        LookalikeError: If the precision is unknown.
    """
    checks.one_of("precision", precision, ("float32", "bfloat16"))
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        yield


def embeddings_of(model: PrototypeModel, inputs: Tensor) -> Tensor:
    """Returns embeddings [n, D] in float32, whatever precision the network runs in."""
    found: Tensor = model.encoder(inputs)
    return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
