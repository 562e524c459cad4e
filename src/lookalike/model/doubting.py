"""What a prototype model can say about its own doubt: calibration, sets, abstention, unfamiliar inputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.doubt import Abstention, Doubt, PredictionSets, choose_abstention
from lookalike.doubt.novelty import DEFAULT_NOVELTY, usable_spreads
from lookalike.doubt.sets import set_scores, set_sentence, set_thresholds

if TYPE_CHECKING:
    from lookalike.model.prototype_model import PrototypeModel

USUAL_ERROR = 0.05  # of the answers, where nothing else is asked for
USUAL_CONFIDENCE = 0.9


class Doubting:
    """The methods of a prototype model that need a calibration, and ``calibrate``, which makes one.

    All but ``calibrate`` refuse a model without a calibration.
    """

    doubt: Doubt | None

    @property
    def is_calibrated(self) -> bool:
        """Whether ``predict_proba`` was calibrated on held-out images, and so whether sets and bounds are available."""
        return self.doubt is not None

    def calibrate(
        self,
        validation: Any,
        *,
        coverage: float = 0.95,
        false_alarm: float = 0.01,
        novelty: str = DEFAULT_NOVELTY,
        conservative: bool = False,
        seed: int = 0,
        batch_size: int = 256,
    ) -> "PrototypeModel":
        """Returns a new model whose probabilities are calibrated, and which knows how much it may be relied on.

        A third of the images fits the temperature and the novelty score; the guarantees of ``predict_set``,
        ``abstention`` and ``novelty`` rest on the others. They hold for new images that come from the same source as
        the validation images. Predictions stay as they are.

        If both are files, each training image among the validation images is noticed. With arrays, loaders and stored
        embeddings, only the complete training data are; a note of the calibration then says so.

        Args:
            validation: Labelled images that the model was not made from: a folder, in which the model's training images
                are left out, a data set, a loader, arrays (x, y), or an ``EmbeddingStore`` of the model's own network.
                Classes are matched by name, or by number if the data have no names.
            coverage: Coverage of the sets, unless another is asked for.
            false_alarm: Largest share of familiar images that are called unfamiliar.
            novelty: Score of unfamiliar inputs: ``"joint"``, ``"direction"``, ``"mahalanobis"``,
                ``"likelihood-ratio"``, ``"neighbours"``, ``"percentile"`` or ``"distance"``.
            conservative: Let the sets have a little more than the coverage where few images allow only steps of some
                points; see ``predict_set``.
            seed: Seed that divides the images, and of the draw for sets that are not conservative.
            batch_size: Largest number of images that pass through the network at once.

        Returns:
            The new model; this one is not changed.

        Raises:
            LookalikeError: If validation images are training images of the model, a class is unknown, stored
                embeddings are of another network, or there are too few images: at least 30, and more for a high
                coverage.
        """
        from lookalike.model.calibrating import Promises, calibrate_model

        promises = Promises(coverage, false_alarm, novelty, conservative)
        return calibrate_model(_model(self), validation, promises, seed=seed, batch_size=batch_size)

    def predict_set(
        self,
        inputs: Any,
        coverage: float | None = None,
        *,
        per_class: bool = False,
        conservative: bool | None = None,
        batch_size: int = 256,
    ) -> PredictionSets:
        """Returns the classes that each input may have: its true class is among them with probability ``coverage``.

        An empty set means that the input looks like nothing known; several classes mean either this or that. The
        probability is over validation and new images from the same source.

        A threshold from n validation images can only have a coverage that is a multiple of 1 / (n + 1). A draw takes
        one of the two multiples next to the request. So the request is met exactly, on average over calibrations, for
        any model (smoothed conformal prediction). The draw is made once, with the calibration, from its seed and its
        images, and kept with it: the same image always gets the same set [ours; in the literature each image has its
        own draw]. ``PredictionSets.expected`` says which coverage it took. ``conservative`` takes the higher one: at
        least the request, and less than 1 / (n + 1) above it, on the same average.

        Args:
            inputs: As for ``predict``.
            coverage: In (0, 1); None takes that of the calibration.
            per_class: Guarantee the coverage for the images of each class (Mondrian), not only for all together.
            conservative: Take the higher thresholds, without a draw; None takes the choice of the calibration.
            batch_size: Largest number of inputs that pass through the network at once.

        Raises:
            LookalikeError: If the model is not calibrated, or with too few images for this coverage.
        """
        embeddings = _model(self).embed(inputs, batch_size)
        return sets_of(_model(self), embeddings, coverage, per_class=per_class, conservative=conservative)

    def abstention(self, error: float = USUAL_ERROR, confidence: float = USUAL_CONFIDENCE) -> Abstention:
        """Returns the probability from which the model may answer, so that at most ``error`` of its answers are wrong.

        Args:
            error: α, the largest share of errors among answered inputs, in (0, 1).
            confidence: 1 − δ, the probability, over the validation images, that this holds.

        Raises:
            LookalikeError: If the model is not calibrated, or with too few images for this bound.
        """
        return abstention_of(doubt_of(_model(self)), error, confidence)

    def predict_or_abstain(
        self,
        inputs: Any,
        error: float = USUAL_ERROR,
        confidence: float = USUAL_CONFIDENCE,
        batch_size: int = 256,
    ) -> Tensor:
        """Returns the predicted classes [N], and −1 where the model abstains; see ``abstention``."""
        threshold = self.abstention(error, confidence).threshold
        embeddings = _model(self).embed(inputs, batch_size)
        with torch.no_grad():
            predictions, confidences = confidences_of(_model(self), embeddings)
        return torch.where(confidences >= threshold, predictions, -1)

    def novelty_p_values(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Returns the p-value of each input being as familiar as the validation images [N]: small for unfamiliar ones.

        If inputs with p ≤ α are called unfamiliar, that is wrong for at most a share α of familiar ones.

        Raises:
            LookalikeError: If the model is not calibrated.
        """
        doubt = doubt_of(_model(self))
        return torch.from_numpy(doubt.p_values(novelty_of(_model(self), doubt, _model(self).embed(inputs, batch_size))))


def _model(mixed_in: Doubting) -> "PrototypeModel":
    """Returns the model that the methods are mixed into, under its own type."""
    return cast("PrototypeModel", mixed_in)


def doubt_of(model: "PrototypeModel") -> Doubt:
    """Returns a model's calibration.

    Raises:
        LookalikeError: If it has none.
    """
    if model.doubt is None:
        raise LookalikeError(
            "the model is not calibrated: call sem.calibrate(validation) with labelled images that it was not made "
            "from (lookalike calibrate MODEL DATA), and use the model that it returns"
        )
    return model.doubt


def abstention_of(doubt: Doubt, error: float = USUAL_ERROR, confidence: float = USUAL_CONFIDENCE) -> Abstention:
    """Returns when a model with this calibration may answer; see ``PrototypeModel.abstention``."""
    values = doubt.arrays()
    return choose_abstention(
        values["confidences"], values["correct"], values["fitted_confidences"], error=error, confidence=confidence
    )


def usual_abstention(doubt: Doubt) -> Abstention | None:
    """Returns ``abstention_of`` with at most 5% errors at a confidence of 90%; None with too few validation images."""
    try:
        return abstention_of(doubt)
    except LookalikeError:
        return None


class ScoredSpace(NamedTuple):
    """Where a novelty score works: in the space in which the similarity clusters, in single precision at least.

    Attributes:
        points: Embeddings [N, D].
        centres: The prototypes [P, D].
        spreads: Median distance of each prototype's own training samples [P].
    """

    points: Tensor
    centres: Tensor
    spreads: Tensor

    @classmethod
    def of(cls, model: "PrototypeModel", embeddings: Tensor) -> "ScoredSpace":
        """Projects embeddings [N, D] and a model's prototypes."""
        points, centres = (model.similarity.project(z) for z in (embeddings, model.prototypes.vectors))
        dtype = torch.promote_types(points.dtype, torch.float32)
        spreads = usable_spreads(model.prototypes.quantiles[:, 50])
        return cls(points.to(dtype), centres.to(dtype), spreads.to(dtype))


@torch.no_grad()
def novelty_of(model: "PrototypeModel", doubt: Doubt, embeddings: Tensor) -> np.ndarray:
    """Returns the novelty scores [N] of embeddings [N, D]; higher is more unfamiliar."""
    values: np.ndarray = doubt.score(*ScoredSpace.of(model, embeddings)).double().cpu().numpy()
    return values


@torch.no_grad()
def margins_of(model: "PrototypeModel", embeddings: Tensor) -> np.ndarray:
    """Returns how far each class's log-probability trails that of the predicted class [N, K]; never negative.

    A linear classifier's most probable class is the predicted one. With the reading ``"sum"`` it can be another, which
    then counts as close as the predicted one.
    """
    log_probabilities = model.log_probabilities_of(embeddings).double()
    predicted = model.scores_of(embeddings).argmax(1, keepdim=True)
    margins = (log_probabilities.gather(1, predicted) - log_probabilities).clamp_min(0)
    values: np.ndarray = margins.cpu().numpy()
    return values


@torch.no_grad()
def confidences_of(model: "PrototypeModel", embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the predicted classes [N], and their probabilities [N]."""
    predictions = model.scores_of(embeddings).argmax(1)
    confidences = model.probabilities_of(embeddings).gather(1, predictions[:, None])[:, 0]
    return predictions, confidences.double()


@torch.no_grad()
def sets_of(
    model: "PrototypeModel",
    embeddings: Tensor,
    coverage: float | None = None,
    *,
    per_class: bool = False,
    conservative: bool | None = None,
) -> PredictionSets:
    """Returns the sets of embeddings [N, D]; see ``PrototypeModel.predict_set``."""
    doubt = doubt_of(model)
    checks.flag("per_class", per_class)
    if conservative is not None:
        checks.flag("conservative", conservative)
    coverage = doubt.facts.coverage if coverage is None else coverage
    values, draws = doubt.arrays(), doubt.draws_for(conservative)
    thresholds = set_thresholds(
        values["scores"],
        values["labels"],
        model.class_names,
        coverage,
        per_class=per_class,
        draws=draws,
    )
    scores = set_scores(margins_of(model, embeddings), novelty_of(model, doubt, embeddings), values["fitted_novelty"])
    members = (scores <= thresholds.values) & np.isfinite(scores) | np.isposinf(thresholds.values)
    nearest = nearest_of_classes(model, model.similarities_of(embeddings))
    return PredictionSets(
        members, nearest, model.class_names, coverage, per_class, draws is None, thresholds.expected, thresholds.notes
    )


@dataclass(frozen=True)
class InputDoubt:
    """How far the prediction for one input may be relied on.

    Attributes:
        p_value: Probability of an input as unfamiliar as this one, if it is like the validation images.
        unfamiliar: Whether that is at most the calibration's false-alarm rate; None if it is not tested, with too few
            validation images for the rate.
        classes: The classes that it may have, each with its most similar prototype; none if it is like nothing known.
        coverage: Probability with which the true class is among them.
        answered: Whether the prediction is probable enough to be given as an answer, if at most 5% of all answers may
            be wrong (with a confidence of 90%); None if too few validation images can show that bound.
    """

    p_value: float
    unfamiliar: bool | None
    classes: list[tuple[str, int]]
    coverage: float
    answered: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        named = [{"class": name, "prototype": prototype} for name, prototype in self.classes]
        return {
            "p_value": self.p_value,
            "unfamiliar": self.unfamiliar,
            "set": named,
            "coverage": self.coverage,
            "answered": self.answered,
        }

    def sentence(self) -> str:
        """Says which classes the input may have, and if the prediction is not probable enough to be an answer."""
        sentence = set_sentence(self.classes, self.coverage)
        if self.answered is not False:
            return sentence
        return f"{sentence} Too unsure for an answer, if at most {100 * USUAL_ERROR:g}% of the answers may be wrong."

    @property
    def kind(self) -> str:
        """Returns what the set says, in words: one class, several classes, or nothing I know."""
        return ("nothing I know", "one class")[len(self.classes)] if len(self.classes) < 2 else "several classes"


def input_doubts(model: "PrototypeModel", embeddings: Tensor) -> list[InputDoubt] | None:
    """Returns the doubt about each of N embeddings [N, D]; None if the model is not calibrated."""
    doubt = model.doubt
    if doubt is None:
        return None
    sets, rule = sets_of(model, embeddings), usual_abstention(doubt)
    p_values = doubt.p_values(novelty_of(model, doubt, embeddings))
    unfamiliar = doubt.are_unfamiliar(p_values)
    confidences = confidences_of(model, embeddings)[1].tolist()
    return [
        InputDoubt(
            float(p),
            None if unfamiliar is None else bool(unfamiliar[row]),
            sets.of(row),
            sets.coverage,
            None if rule is None else confidences[row] >= rule.threshold,
        )
        for row, p in enumerate(p_values)
    ]


def nearest_of_classes(model: "PrototypeModel", similarities: Tensor) -> np.ndarray:
    """Returns the most similar prototype of each class [N, K], from similarities [N, P]; −1 without prototypes."""
    labels = model.prototypes.labels
    nearest = torch.full((len(similarities), model.n_classes), -1, dtype=torch.int64)
    for k in range(model.n_classes):
        members = torch.nonzero(labels == k)[:, 0]
        if len(members):
            nearest[:, k] = members[similarities[:, members].argmax(1)].cpu()
    return nearest.numpy()


def rescaled_log_probabilities(model: "PrototypeModel", similarities: Tensor) -> Callable[[float], np.ndarray]:
    """Returns a function from a factor to normalised log-probabilities [N, K] with the scores divided by it."""
    labels, n_classes = model.prototypes.labels, model.n_classes

    @torch.no_grad()
    def log_probabilities(factor: float) -> np.ndarray:
        classifier = copy.deepcopy(model.classifier).rescaled(factor)
        values: np.ndarray = (
            classifier.log_probabilities(similarities.double(), labels, n_classes).log_softmax(1).cpu().numpy()
        )
        return values

    return log_probabilities
