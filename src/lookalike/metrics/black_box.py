"""The trained classifier that a prototype model is compared with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.provenance import fingerprint_tensors
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import ClassOrder, Encoder, LoadedClassifier, map_classes, ordered
from lookalike.metrics.class_order import Standing, compare_with_labels
from lookalike.metrics.robustness import OrderingCurves
from lookalike.model import PrototypeModel
from lookalike.relevance import Composite, lrp

Precision = Literal["float32", "bfloat16"]


class BlackBox:
    """The classifier that prototype models are compared with.

    Share one instance between several calls of ``evaluate``: it caches the figures that do not depend on the model.

    Args:
        encoder: The classifier with its head.

    Attributes:
        encoder: The encoder passed in.
        outputs: How to read its class scores, and the names of its outputs.
        n_classes: Number of its classes.
        measured: Cached relevance-ordering curves, by a fingerprint of images, noise and options.
        confidences: Cached probabilities of the predicted classes [N], by test data.

    Raises:
        LookalikeError: If the encoder has no head, and so no class scores.
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

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the classifier's parameters and buffers."""
        return fingerprint_tensors(self.encoder.model.state_dict())

    @classmethod
    def of(cls, classifier: "nn.Module | LoadedClassifier | BlackBox", batches: Batches) -> "BlackBox":
        """Wraps a classifier; the first samples of the data show where its head is."""
        if isinstance(classifier, BlackBox):
            return classifier
        names: list[str] | None = None
        if isinstance(classifier, LoadedClassifier):
            if classifier.head is not None:
                raise LookalikeError(
                    "the black box's weights have no trained head: there are no predictions to compare with"
                )
            names = classifier.class_names
        module = classifier.model if isinstance(classifier, LoadedClassifier) else classifier
        if isinstance(module, PrototypeModel):
            raise LookalikeError("the black box is the classifier that was converted, not a prototype model")
        if isinstance(module, Encoder):
            return cls(module)
        first = next(iter(batches), None)
        if first is None:
            raise LookalikeError("there are no samples to evaluate on")
        try:
            return cls(Encoder(module, first.inputs, output_names=names))
        except LookalikeError as error:
            if "head=" not in str(error):
                raise
            way_out = "of a black box, say so by black_box=Encoder(network, x, head=…)"
            raise LookalikeError(f"{error}; {way_out}") from error

    def ordered(self, class_order: ClassOrder, class_names: Sequence[str]) -> "BlackBox":
        """Returns this black box with its outputs named by the user; itself without a class order."""
        if class_order is None:
            return self
        renamed = BlackBox(ordered(self.encoder, class_order, class_names))
        renamed.measured = self.measured  # the order of the classes does not change these curves
        renamed.confidences = self.confidences
        return renamed

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns class probabilities [n, K], in the order of the black box's outputs."""
        return self.outputs.probabilities(self.encoder.scores(inputs).float())

    def maps(self, inputs: Tensor, composite: str | Composite, batch_size: int) -> Tensor:
        """Returns the relevance per pixel [n, H, W] of the predicted class's probability."""
        model = self.encoder.model
        return lrp(model, inputs, None, composite, of="probability", output=self.outputs, batch_size=batch_size).pixels

    def predictions(self, model: PrototypeModel, store: EmbeddingStore, data: Batches | None) -> Tensor | None:
        """Returns the black box's predictions [N], as indices of its outputs.

        The store holds them if its encoder is this black box; otherwise the black box runs over the data once.
        """
        if data is not None and not self.reads_as(model.encoder):
            store = embed(self.encoder, data, progress=False)
        return None if store.predictions is None else torch.from_numpy(store.predictions)

    def reads_as(self, encoder: nn.Module) -> bool:
        """Returns whether an encoder reads the same class scores as this black box."""
        return (
            isinstance(encoder, Encoder)
            and encoder.model is self.encoder.model
            and encoder.outputs is not None
            and encoder.outputs.key == self.outputs.key
        )

    def predictions_in_model_classes(
        self, model: PrototypeModel, labels: Tensor, store: EmbeddingStore, data: Batches | None
    ) -> Tensor | None:
        """Returns the black box's predictions [N], as indices of the model's classes; None where they do not compare.

        The labels show which output is which class where nothing else tells.
        """
        standing = self.compare_with_labels(model, labels, store, data)
        return None if standing is None else standing.predictions

    def compare_with_labels(
        self, model: PrototypeModel, labels: Tensor, store: EmbeddingStore, data: Batches | None
    ) -> Standing | None:
        """Compares the predictions with the labels; None if there are no data to predict on."""
        predicted = self.predictions(model, store, data)
        return None if predicted is None else compare_with_labels(labels, predicted, self.outputs, model.class_names)


class BlackBoxMatch(NamedTuple):
    """The black box to compare a model with.

    Attributes:
        box: The black box; None if there is none.
        reason: Why the converted classifier cannot serve as the black box; empty otherwise.
    """

    box: BlackBox | None
    reason: str = ""


def find_black_box(
    model: PrototypeModel,
    classifier: nn.Module | LoadedClassifier | BlackBox | None,
    data: Batches | None,
    class_order: ClassOrder = None,
) -> BlackBoxMatch:
    """Finds the black box to compare a model with: the given classifier, or the one that was converted.

    Args:
        model: The prototype model.
        classifier: The classifier to compare with, or None.
        data: The test data; None if there are only embeddings.
        class_order: Names of the classifier's outputs, in output order; see ``read_class_order``.

    Raises:
        LookalikeError: If the given classifier has other classes than the model, there are no data to run it on, or the
            class order does not fit.
    """
    if classifier is None:
        converted = model.encoder
        if not isinstance(converted, Encoder) or converted.outputs is None:
            if class_order is not None:
                raise LookalikeError("a class order was given, but there is no black box whose outputs it could name")
            return BlackBoxMatch(None)
        box = BlackBox(converted).ordered(class_order, model.class_names)
        class_map = map_classes(box.outputs, model.class_names)
        return BlackBoxMatch(box) if class_map.classes is not None else BlackBoxMatch(None, class_map.note)
    if data is None:
        raise LookalikeError("a black box cannot run on stored embeddings; give the test data themselves")
    box = BlackBox.of(classifier, data).ordered(class_order, model.class_names)
    class_map = map_classes(box.outputs, model.class_names)
    if class_map.classes is None:
        raise LookalikeError(f"the black box cannot be compared with the model: {class_map.note}")
    return BlackBoxMatch(box)


@contextmanager
def at_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Runs networks in float32 or bfloat16.

    Raises:
        LookalikeError: If the precision is unknown.
    """
    checks.one_of("precision", precision, ("float32", "bfloat16"))
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        yield
