"""Transparent classifiers of patches: from the similarities of each patch to the class of the image.

A patch decision takes the similarities of every patch to every prototype [N, S, P]. ``patch_scores`` says what each
patch adds to each class's score, and the scores are the sums of that: so the map of a decision is exact, and needs no
gradient.

Source: ``vote`` is the paper's patch model, appendix A.7; ``mean`` and ``linear`` are [ours].
"""

from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.model.classifier import LinearHead, NearestPrototype, RectifiedLinearHead, TransparentClassifier

_TIE = 1e-5  # is added to the winner of a tie; a vote of one in 10,000 patches is more
_SAME_SCORE = 1e-6  # a vote of one in 10,000 patches is more, and rounding is less
_LEAST_SHARE = 1e-12  # of the patches' probability, before its logarithm


class PatchDecision(TransparentClassifier):
    """A decision by patches.

    A patch alone gives each class a probability: a softmax over the classes' similarities, divided by the temperature.
    The image's probabilities are the mean of these over the patches, to the power of 1 / ``image_temperature``, and
    scaled to sum to 1: many unsure patches that agree make a sure image [ours]. The most probable class can differ from
    the predicted one; in a ``ScoredDecision`` it cannot.

    Args:
        temperature: T, in the unit of the similarity, fitted to single patches.
        image_temperature: Fitted to whole images; 1 leaves the mean as it is.
    """

    of_patches = True

    def __init__(self, temperature: float = 1.0, image_temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = checks.number("temperature", temperature, above=0)
        self.image_temperature = checks.number("image_temperature", image_temperature, above=0)

    @abstractmethod
    def patch_scores(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Returns what each patch adds to the score of each class [N, S, K].

        Args:
            similarities: Of each patch to each prototype [N, S, P].
            labels: The prototypes' classes [P].
            n_classes: K.
        """

    @override
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        return self.patch_scores(similarities, labels, n_classes).sum(1)

    @override
    def log_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        mean = self.patch_probabilities(similarities, labels, n_classes).mean(1)
        return mean.clamp_min(_LEAST_SHARE).log() / self.image_temperature

    def patch_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Returns the class probabilities of each patch alone [N, S, K]."""
        return (_by_class(similarities, labels, n_classes) / self.temperature).softmax(2)

    @override
    def reason(self, *, is_nearest: bool) -> str:
        return f"{'and' if is_nearest else 'but'} all patches together decide for"

    @override
    def options(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "image_temperature": self.image_temperature}


class PatchVote(PatchDecision):
    """Each patch votes for the class of its most similar prototype; a score is a share of the votes [paper].

    Of classes with equally many votes, the one that the patches are more similar to on average wins [ours].

    Example:
        >>> similarities = torch.tensor([[[-1.0, -2.0], [-3.0, -1.0], [-1.0, -5.0]]])
        >>> PatchVote()(similarities, torch.tensor([0, 1]), 2)
        tensor([[0.6667, 0.3333]])
    """

    name = "patch-vote"

    @override
    def patch_scores(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        by_class = _by_class(similarities, labels, n_classes)
        votes = nn.functional.one_hot(by_class.argmax(2), n_classes).to(by_class.dtype)
        soft = (by_class / self.temperature).softmax(2)
        # the value is that of the votes, the gradient that of the probabilities: a vote has none
        return (votes + soft - soft.detach()) / similarities.shape[1]

    @override
    def forward(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        scores = super().forward(similarities, labels, n_classes)
        means = _by_class(similarities, labels, n_classes).detach().mean(1)
        is_first = scores.detach() >= scores.detach().amax(1, keepdim=True) - _SAME_SCORE
        winner = means.masked_fill(~is_first, -torch.inf).argmax(1, keepdim=True)
        is_tie = (is_first.sum(1, keepdim=True) > 1).to(scores.dtype)
        return scores.scatter_add(1, winner, _TIE * is_tie)


class ScoredDecision(PatchDecision):
    """A decision whose probabilities are a softmax over its scores, divided by ``image_temperature`` [ours].

    So the most probable class is the predicted one.

    Args:
        temperature: See ``PatchDecision``.
        image_temperature: See ``PatchDecision``.
        read_from: What the image's probabilities are read from: ``"scores"``; or, as in models of earlier versions, the
            probabilities of the ``"patches"``.
    """

    read_from: Literal["scores", "patches"] = "patches"  # in pickles of earlier versions, which do not say it

    def __init__(
        self,
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        read_from: Literal["scores", "patches"] = "scores",
    ) -> None:
        super().__init__(temperature, image_temperature)
        self.read_from = checks.one_of("read_from", read_from, ("scores", "patches"))

    @override
    def log_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        if self.read_from == "patches":
            return super().log_probabilities(similarities, labels, n_classes)
        return self(similarities, labels, n_classes) / (self.unit * self.image_temperature)  # type: ignore[no-any-return]

    @property
    def unit(self) -> float:
        """What scores are measured in, beside ``image_temperature``: embeddings of any scale have similar numbers."""
        return 1.0

    @override
    def options(self) -> dict[str, Any]:
        return {**super().options(), "read_from": self.read_from}


class PatchMean(ScoredDecision):
    """A class's score is the mean over the patches of the similarity to its most similar prototype [ours].

    Example:
        >>> similarities = torch.tensor([[[-1.0, -2.0], [-3.0, -1.0]]])
        >>> PatchMean()(similarities, torch.tensor([0, 1]), 2)
        tensor([[-2.0000, -1.5000]])
    """

    name = "patch-mean"

    @property
    @override
    def unit(self) -> float:
        return self.temperature

    @override
    def patch_scores(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        return _by_class(similarities, labels, n_classes) / similarities.shape[1]


class PatchLinear(ScoredDecision):
    """Each prototype counts for each class with a weight ≥ 0; a score is the mean over the patches [ours].

    A patch counts as its most similar prototype. The weights are fitted to the training images by least squares.

    Args:
        weight: [K, P], not negative.
        temperature: T, in the unit of the similarity.
        image_temperature: See ``PatchDecision``.
        read_from: See ``ScoredDecision``.

    Example:
        >>> similarities = torch.tensor([[[-1.0, -2.0], [-3.0, -1.0]]])
        >>> PatchLinear(torch.tensor([[1.0, 0.5], [0.0, 0.25]]))(similarities, torch.tensor([0, 1]), 2)
        tensor([[0.7500, 0.1250]])
    """

    name = "patch-linear"
    weight: Tensor

    def __init__(
        self,
        weight: Tensor,
        temperature: float = 1.0,
        image_temperature: float = 1.0,
        read_from: Literal["scores", "patches"] = "scores",
    ) -> None:
        super().__init__(temperature, image_temperature, read_from)
        weight = checks.tensor("weight", weight, ("K", "P"), kind="number")
        if bool((weight < 0).any()):
            raise checks.unfit("weight", weight, "numbers that are not negative")
        self.register_buffer("weight", weight)

    @classmethod
    def fit(cls, concepts: np.ndarray, labels: np.ndarray, n_classes: int, temperature: float = 1.0) -> "PatchLinear":
        """Fits the weights: non-negative least squares of each class against all others, without iterations over data.

        Args:
            concepts: Share of each image's patches that each prototype is the most similar one of [N, P].
            labels: Classes of the images [N].
            n_classes: K.
            temperature: T, in the unit of the similarity.
        """
        from scipy.optimize import nnls

        concepts = concepts.astype(np.float64)
        # ‖F w − y‖² depends on F only by the Gram matrix G = FᵀF: with G = RᵀR it is ‖R w − R⁻ᵀFᵀy‖² + const
        ridge = 1e-6 * float(np.trace(concepts.T @ concepts)) / concepts.shape[1] + 1e-12
        upper = np.linalg.cholesky(concepts.T @ concepts + ridge * np.eye(concepts.shape[1])).T
        targets = (np.asarray(labels)[:, None] == np.arange(n_classes)).astype(np.float64)
        right_sides = np.linalg.solve(upper.T, concepts.T @ targets)
        weight = np.stack([nnls(upper, right_side)[0] for right_side in right_sides.T])
        return cls(torch.from_numpy(weight).float(), temperature)

    @override
    def patch_scores(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        soft = (similarities / self.temperature).softmax(2)
        nearest = nn.functional.one_hot(similarities.argmax(2), similarities.shape[2]).to(soft.dtype)
        return (nearest + soft - soft.detach()) @ self.weight.to(soft.dtype).T / similarities.shape[1]

    @override
    def patch_probabilities(self, similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Returns the weights that each patch's prototypes give to the classes, as shares [N, S, K]."""
        weights = (similarities / self.temperature).softmax(2) @ self.weight.to(similarities.dtype).T + _LEAST_SHARE
        return weights / weights.sum(2, keepdim=True)


def strongest_rivals(scores: Tensor, probabilities: Tensor, classes: Tensor) -> Tensor:
    """Returns the class with the highest score beside each of some classes [N, k].

    Of those with the same score, such as equally many votes, it is the most probable one.

    Args:
        scores: Class scores [N, K].
        probabilities: Class probabilities [N, K].
        classes: The classes that it is the rival of [N, k].
    """
    is_own = classes[..., None] == torch.arange(scores.shape[1], device=scores.device)
    of_others = scores[:, None].masked_fill(is_own, -torch.inf)
    is_first = of_others >= of_others.amax(-1, keepdim=True) - _SAME_SCORE
    return probabilities[:, None].masked_fill(~is_first, -1.0).argmax(-1)


DECISIONS: dict[str, type[PatchDecision]] = {"vote": PatchVote, "mean": PatchMean, "linear": PatchLinear}
CLASSIFIERS: dict[str, type[TransparentClassifier]] = {
    kind.name: kind for kind in (NearestPrototype, LinearHead, RectifiedLinearHead, PatchVote, PatchMean, PatchLinear)
}


def make_classifier(name: str, options: dict[str, Any], state: dict[str, Tensor]) -> TransparentClassifier:
    """Creates a classifier from the name, options and tensors of a saved model.

    Raises:
        LookalikeError: If no classifier has that name.
    """
    if name not in CLASSIFIERS:
        raise LookalikeError(f"no classifier is called {name!r}; there are {', '.join(CLASSIFIERS)}")
    kind: Any = CLASSIFIERS[name]
    if issubclass(kind, LinearHead):
        head: TransparentClassifier = kind(state["weight"], state.get("bias"))
        return head
    if issubclass(kind, ScoredDecision):
        options = {"read_from": "patches", **options}  # models of earlier versions do not say it
    classifier: TransparentClassifier = kind(**options, **state)
    return classifier


def _by_class(similarities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Returns each patch's similarity to its most similar prototype of each class [N, S, K]."""
    best: Tensor = NearestPrototype()(similarities.flatten(0, 1), labels, n_classes)
    by_class: Tensor = best.unflatten(0, similarities.shape[:2])
    return by_class
