"""A trained classifier as the metrics ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from lookalike import checks
from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.errors import LookalikeError
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
        n_classes: K.
        measured: Its relevance-ordering curves, by a fingerprint of images, noise and options.

    Raises:
        LookalikeError: If it has no head, and so no class scores.
    """

    def __init__(self, encoder: Encoder) -> None:
        checks.instance("encoder", encoder, Encoder, "an Encoder")
        if encoder.n_outputs is None:
            raise LookalikeError("the black box has no head, and so no predictions to compare with")
        self.encoder = encoder
        self.measured: dict[str, OrderingCurves] = {}
        self.n_classes = 2 if encoder.n_outputs == 1 else encoder.n_outputs

    @classmethod
    def of(cls, given: "nn.Module | LoadedClassifier | BlackBox", batches: Batches) -> "BlackBox":
        """Finds the head of a classifier with the first samples of some data."""
        if isinstance(given, BlackBox):
            return given
        if isinstance(given, LoadedClassifier):
            given = given.model
        if isinstance(given, PrototypeModel):
            raise LookalikeError("the black box is the classifier that was converted, not a prototype model")
        if isinstance(given, Encoder):
            return cls(given)
        first = next(iter(batches), None)
        if first is None:
            raise LookalikeError("there are no samples to evaluate on")
        return cls(Encoder(given, first.inputs))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Returns class probabilities [n, K]."""
        return class_probabilities(self.encoder.scores(inputs).float())

    def maps(self, inputs: Tensor, composite: str | Composite, batch_size: int) -> Tensor:
        """Returns the relevance per pixel [n, H, W] of the predicted class's probability."""
        model, output = self.encoder.model, self.encoder.output_key
        return lrp(model, inputs, None, composite, of="probability", output=output, batch_size=batch_size).pixels

    def predictions(self, model: PrototypeModel, store: EmbeddingStore, data: Batches | None) -> Tensor | None:
        """Returns what it predicts [N]: from the pass that made the store if that was its own, else from one more."""
        if self.encoder is not model.encoder and data is not None:
            store = embed(self.encoder, data, progress=False)
        return None if store.predictions is None else torch.from_numpy(store.predictions)


def find_black_box(
    model: PrototypeModel, given: nn.Module | LoadedClassifier | BlackBox | None, data: Batches | None
) -> BlackBox | None:
    """Returns what to compare a model with: what was given, or the classifier that was converted.

    Returns:
        None if nothing was given and there is no such classifier, or its classes are not the model's.

    Raises:
        LookalikeError: If what was given has other classes than the model, or no data to be asked about.
    """
    if given is None:
        own = model.encoder
        if not isinstance(own, Encoder) or own.n_outputs is None:
            return None
        box = BlackBox(own)
        return box if box.n_classes == model.n_classes else None
    if data is None:
        raise LookalikeError("a black box cannot be asked about stored embeddings; give the test data themselves")
    box = BlackBox.of(given, data)
    if box.n_classes != model.n_classes:
        raise LookalikeError(
            f"the black box has {box.n_classes} classes and the model {model.n_classes}: "
            "they cannot be compared; give the classifier that the model was made from"
        )
    return box


def class_probabilities(scores: Tensor) -> Tensor:
    """Returns class probabilities [n, K] of scores [n, K]; of one logit [n] or [n, 1], those of two classes.

    Scores that are probabilities already stay as they are.
    """
    if scores.ndim == 1 or scores.shape[1] == 1:
        p = scores.reshape(-1, 1).sigmoid()
        return torch.cat([1 - p, p], 1)
    if bool((scores >= 0).all() & ((scores.sum(1) - 1).abs() < 1e-4).all()):
        return scores
    return scores.softmax(1)


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
