"""What the original classifier of a converted model says of an input."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.names import visible
from lookalike.encoder import Encoder, dtype_of, place, rows_at_once
from lookalike.encoder.calls import n_rows, split_rows
from lookalike.encoder.class_map import map_classes
from lookalike.encoder.finite import no_embeddings
from lookalike.encoder.side_by_side import SideBySide
from lookalike.model.prototype_model import PrototypeModel


@dataclass(frozen=True)
class OriginalAnswer:
    """What the original classifier says of an input.

    Attributes:
        class_name: The class that it predicts.
        probability: The probability that it gives this class; None if only its class is known.
        agrees: Whether the prototype model predicts the same class.
    """

    class_name: str
    probability: float | None
    agrees: bool

    def sentence(self) -> str:
        """Says it in a sentence."""
        sure = "" if self.probability is None else f" ({self.probability:.0%})"
        if self.agrees:
            return f"The original network agrees{sure}."
        return f"The original network says '{visible(self.class_name)}'{sure}."

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"prediction": self.class_name, "probability": self.probability, "agrees": self.agrees}


class OriginalClassifier:
    """The original classifier of a model, if it is known which of its outputs is which class.

    Args:
        encoder: The cut classifier.
        classes: The model's class of each output [n]; K for outputs that are no class of the model.
    """

    def __init__(self, encoder: Encoder, classes: Tensor) -> None:
        self.encoder = encoder
        self.classes = classes

    @classmethod
    def of(cls, model: PrototypeModel) -> "OriginalClassifier | None":
        """Returns a model's original classifier, or None."""
        encoder = model.encoder
        if not isinstance(encoder, Encoder) or encoder.outputs is None:
            return None
        matched = map_classes(encoder.outputs, model.class_names)
        # a note says what had to be assumed
        return None if matched.classes is None or matched.note else cls(encoder, matched.classes)

    def answers(self, scores: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """Returns each row's predicted class, its probability and the name of its output, from class scores [N, C]."""
        outputs = self.encoder.outputs
        assert outputs is not None  # else it is not known which output is which class
        predicted = outputs.predicted(scores)
        probabilities = outputs.probabilities(scores).gather(1, predicted[:, None])[:, 0]
        names = [str(k) for k in predicted.tolist()]
        if outputs.names is not None:
            names = [outputs.names[k] for k in predicted.tolist()]
        return self.classes[predicted.cpu()], probabilities.float().cpu(), names

    def log_probabilities(self, scores: Tensor, n_classes: int) -> np.ndarray:
        """Returns log-probabilities of the model's classes [N, K]; −∞ of a class that no score of [N, C] is for."""
        outputs = self.encoder.outputs
        assert outputs is not None  # OriginalClassifier.of refuses others
        probabilities = outputs.probabilities(scores.float()).double().cpu().numpy()
        ordered = np.zeros((len(probabilities), n_classes))
        for column, k in enumerate(self.classes.numpy()[: probabilities.shape[1]].tolist()):
            if k < n_classes:
                ordered[:, k] += probabilities[:, column]
        with np.errstate(divide="ignore"):
            return np.log(ordered)


def embed_and_score(model: PrototypeModel, inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Returns the embeddings [n, D] of inputs and the black box's class scores [n, C]; None without a black box."""
    encoder, dtype, n = model.encoder, dtype_of(model.encoder), n_rows(inputs)
    n_at_once = rows_at_once(inputs, max(n, 1), model.device)
    has_scores = isinstance(encoder, Encoder) and encoder.outputs is not None

    def compute(network: Any, rows: Any) -> tuple[Tensor, Tensor | None]:
        rows_on_device = place(rows, model.device, dtype)
        return network.embed_and_score(rows_on_device) if has_scores else (network(rows_on_device), None)

    embeddings, scores = zip(*SideBySide(encoder).run(compute, split_rows(inputs, n_at_once)), strict=True)
    if not isinstance(embeddings[0], Tensor):
        raise no_embeddings(embeddings[0])
    return torch.cat(embeddings), None if scores[0] is None else torch.cat(scores)


def original_answer(
    model: PrototypeModel, answers: tuple[Tensor, Tensor, list[str]], row: int, prediction: int
) -> OriginalAnswer:
    """Returns the original classifier's answer for one row of a batch.

    Args:
        model: The converted model.
        answers: From ``OriginalClassifier.answers``.
        row: The row.
        prediction: The class that the converted model predicts for it.
    """
    classes, probabilities, names = answers
    k = int(classes[row])
    name = model.class_names[k] if k < model.n_classes else names[row]
    return OriginalAnswer(name, float(probabilities[row]), k == prediction)
