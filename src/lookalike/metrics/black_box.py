"""A trained classifier as the metrics ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from lookalike.data import Batches
from lookalike.embedding import EmbeddingStore
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.errors import LookalikeError
from lookalike.model import PrototypeModel
from lookalike.relevance import Composite, lrp

Precision = Literal["float32", "bfloat16"]


class BlackBox:
    """The classifier that a prototype model is compared with.

    Args:
        encoder: The classifier with its head.

    Raises:
        LookalikeError: If it has no head, and so no class scores.
    """

    def __init__(self, encoder: Encoder) -> None:
        if encoder.n_outputs is None:
            raise LookalikeError("the black box has no head, and so no predictions to compare with")
        self.encoder = encoder
        self.n_classes = 2 if encoder.n_outputs == 1 else encoder.n_outputs

    @classmethod
    def of(cls, given: nn.Module | LoadedClassifier, batches: Batches) -> "BlackBox":
        """Finds the head of a classifier with the first samples of some data."""
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

    def predictions(self, store: EmbeddingStore) -> Tensor | None:
        """Returns what it predicts [N] for the samples of a store that its own encoder made; None otherwise."""
        return None if store.predictions is None else torch.from_numpy(store.predictions)


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
    if precision not in ("float32", "bfloat16"):
        raise LookalikeError(f"precision must be 'float32' or 'bfloat16', not {precision!r}")
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        yield


def in_layout(inputs: Tensor, precision: Precision) -> Tensor:
    """Returns images in the memory format that bfloat16 is quick in."""
    if precision == "bfloat16" and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def embeddings_of(model: PrototypeModel, inputs: Tensor) -> Tensor:
    """Returns embeddings [n, D] in float32, whatever precision the network runs in."""
    found: Tensor = model.encoder(inputs)
    return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found
