"""Transparent classifiers: from similarities to prototypes to class scores.

Source: paper section 2 (the four parts of a prototypical self-explainable model) and Table 1.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError


class TransparentClassifier(nn.Module, ABC):
    """Maps similarities [N, P] to class scores [N, K], in a way that a person can follow.

    Attributes:
        name: Name under which it is saved.
        temperature: Similarities are divided by it before a softmax turns them into shares; 1 unless it is fitted.
        of_patches: Whether it decides by the similarities of patches [N, S, P] (``lookalike.model.decision``).
    """

    name: ClassVar[str]
    of_patches: ClassVar[bool] = False
    temperature: float = 1.0

    @abstractmethod
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Scores the classes.

        Args:
            similarities: [N, P].
            labels: The prototypes' classes [P].
            n_classes: K.

        Returns:
            Class scores [N, K]; the predicted class has the largest.
        """

    def log_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Returns log-probabilities [N, K], up to an additive constant per row; here, the class scores."""
        scores: Tensor = self(similarities, labels, n_classes)
        return scores

    def probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Returns class probabilities [N, K]."""
        return self.log_probabilities(similarities, labels, n_classes).softmax(1)

    def reason(self, *, is_nearest: bool) -> str:
        """Says how a prediction follows from the most similar prototype, in words that the class's name follows.

        Args:
            is_nearest: Whether that prototype is of the predicted class.
        """
        return "so the prediction is" if is_nearest else "but all prototypes together vote for"

    def options(self) -> dict[str, Any]:
        """Returns the options with which it can be created again."""
        return {}

    def rescaled(self, factor: float) -> "TransparentClassifier":
        """Returns a copy whose scores are divided by a factor: it changes how sure it sounds, and no prediction.

        Raises:
            LookalikeError: If this classifier does not say how.
        """
        raise LookalikeError(
            f"the classifier {self.name!r} cannot be calibrated: its class has no method 'rescaled' (factor {factor:g})"
        )


def best_of_classes(similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Returns the similarity to the most similar prototype of each class [N, K]; −∞ for a class without prototypes.

    Args:
        similarities: Similarities to the prototypes [N, P].
        labels: Classes of the prototypes [P].
        n_classes: K.
    """
    best = similarities.new_full((similarities.shape[0], n_classes), -torch.inf)  # len() is no size to a tracer
    return best.scatter_reduce(1, labels.expand_as(similarities), similarities, "amax")


class NearestPrototype(TransparentClassifier):
    """Predicts the class of the most similar prototype (paper section 3.2, step 2).

    A class's score is the similarity of its most similar prototype, divided by the temperature; −∞ for a class without
    prototypes. The temperature changes how confident the probabilities are, but no prediction.

    Args:
        reading: How similarities become probabilities. ``"max"`` [ours]: softmax over the classes' scores, so
            the most probable class is always the predicted one. ``"sum"`` [ref]: softmax over all P
            similarities, summed per class; the most probable class can differ from the predicted one.
        temperature: T, in the unit of the similarity; 1 is the paper's reading. A conversion fits it [ours]
            (``lookalike.conversion.temperature``), so that probabilities do not depend on the scale of the embedding.

    Example:
        >>> similarities = torch.tensor([[-1.0, -5.0, -2.0]])
        >>> NearestPrototype()(similarities, torch.tensor([0, 0, 1]), 2)
        tensor([[-1., -2.]])
        >>> NearestPrototype(temperature=0.5)(similarities, torch.tensor([0, 0, 1]), 2)
        tensor([[-2., -4.]])
    """

    name = "nearest-prototype"

    def __init__(self, reading: Literal["max", "sum"] = "max", temperature: float = 1.0) -> None:
        super().__init__()
        self.reading = checks.one_of("probabilities", reading, ("max", "sum"))
        self.temperature = checks.number("temperature", temperature, above=0)

    @override
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        return best_of_classes(similarities, labels, n_classes) / self.temperature

    @override
    def log_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        if self.reading == "max":
            return super().log_probabilities(similarities, labels, n_classes)
        of_class = labels == torch.arange(n_classes, device=labels.device)[:, None]
        scaled = similarities / self.temperature
        return torch.stack([scaled[:, members].logsumexp(1) for members in of_class], 1)

    @override
    def options(self) -> dict[str, Any]:
        return {"reading": self.reading, "temperature": self.temperature}

    @override
    def rescaled(self, factor: float) -> "NearestPrototype":
        return NearestPrototype(self.reading, self.temperature * checks.number("factor", factor, above=0))


class LinearHead(TransparentClassifier):
    """A linear layer on the similarities: each prototype votes for or against each class.

    Args:
        weight: [K, P].
        bias: [K], or None.
    """

    name = "linear"

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        weight = checks.tensor("weight", weight, ("K", "P"), kind="number")
        if not weight.is_floating_point():
            raise checks.unfit("weight", weight, "a tensor of floating-point numbers [K, P]")
        self.weight = nn.Parameter(weight)
        if bias is not None:
            bias = checks.tensor("bias", bias, (len(weight),), kind="number").to(weight.dtype)
        self.bias = nn.Parameter(bias) if bias is not None else None

    @classmethod
    def from_labels(cls, labels: Tensor, n_classes: int, own: float = 1.0, other: float = -0.5) -> "LinearHead":
        """Creates votes of ``own`` for a prototype's class and ``other`` for all other classes (ProtoPNet) [paper].

        Example:
            >>> LinearHead.from_labels(torch.tensor([0, 1]), n_classes=2).weight.tolist()
            [[1.0, -0.5], [-0.5, 1.0]]
        """
        n_classes = checks.whole_number("n_classes", n_classes, 1)
        labels = checks.class_indices("labels", labels, n_classes, ("P",))
        own_class = labels[None, :] == torch.arange(n_classes, device=labels.device)[:, None]
        return cls(torch.where(own_class, checks.number("own", own), checks.number("other", other)))

    @override
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        expected = (n_classes, len(labels))
        if tuple(self.weight.shape) != expected:
            raise LookalikeError(f"the linear head has weights {tuple(self.weight.shape)}; it needs {expected}")
        return nn.functional.linear(similarities, self.weight.to(similarities.dtype), _as(self.bias, similarities))

    @property
    def weighs_own_prototype(self) -> bool:
        """Whether a class's score is the similarity to its one prototype, and its bias, as in a head's own model."""
        weight = self.weight.detach()
        return weight.shape[0] == weight.shape[1] and torch.equal(weight, torch.eye(len(weight)).to(weight))

    @override
    def reason(self, *, is_nearest: bool) -> str:
        if is_nearest or not self.weighs_own_prototype:
            return super().reason(is_nearest=is_nearest)
        return "but with the biases of the head the prediction is"

    @override
    def rescaled(self, factor: float) -> "LinearHead":
        checks.number("factor", factor, above=0)
        return type(self)(self.weight.detach() / factor, None if self.bias is None else self.bias.detach() / factor)


class RectifiedLinearHead(LinearHead):
    """A linear layer on max(0, similarity): an absent prototype does not vote (FLINT's attributes) [ours].

    Args:
        weight: [K, P].
        bias: [K], or None.
    """

    name = "rectified-linear"

    @override
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        return super().forward(similarities.relu(), labels, n_classes)


def _as(bias: Tensor | None, like: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(like.dtype)
