"""The measures that accumulate over a loader, as metrics of torchmetrics: each is a function's sums in a few states.

A module of their own, because importing torchmetrics takes as long as the rest of a short command.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.doubt.calibration import N_BINS
from lookalike.metrics.calibration import CalibrationBins
from lookalike.metrics.correlation import explanation_correlation
from lookalike.metrics.divergence import (
    DIRECTIONS,
    FLOOR,
    MAGNITUDES,
    Direction,
    Magnitude,
    explanation_divergence,
)
from lookalike.metrics.faithfulness import (
    OutcomeCounts,
    PredictionFaithfulness,
    count_outcomes,
    faithfulness_of_counts,
)
from lookalike.metrics.robustness import OrderingCurves
from lookalike.metrics.transparency import activation_counts, ghosting


class FaithfulnessOfPredictions(Metric):
    """Accumulates predictions of a model and of its black box, and labels, in states of constant size.

    Args:
        n_classes: Number of classes K.
        black_box: Whether there is a black box.

    Example:
        >>> metric = FaithfulnessOfPredictions(n_classes=2)
        >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]))
        >>> result = metric.result()
        >>> round(result.accuracy.value, 3), result.black_box_accuracy.value, round(result.agreement.value, 3)
        (0.667, 1.0, 0.667)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    confused: Tensor  # [true class, predicted class]
    outcomes: Tensor  # [true class, model correct?, black box correct?]
    agreed: Tensor  # [true class]
    between: Tensor  # [black box's class, model's class]; the last row is for classes that the model does not have

    def __init__(self, n_classes: int, *, black_box: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        n_classes = checks.whole_number("n_classes", n_classes, 1)
        self.n_classes, self.black_box = n_classes, checks.flag("black_box", black_box)
        for name, shape in self._shapes().items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, black_box: Tensor | None = None) -> None:
        """Adds samples: predicted and true classes, and the black box's predictions, each [n].

        Class K of the black box stands for all classes that the model does not have; it always counts as wrong.

        Raises:
            LookalikeError: If the lengths differ, a class is out of range, or the black box's predictions are missing.
        """
        if self.black_box and black_box is None:
            raise LookalikeError("the black box's predictions are missing")
        added = count_outcomes(predictions, labels, black_box if self.black_box else None, self.n_classes)
        for name, counts in added._asdict().items():
            setattr(self, name, getattr(self, name) + counts)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``accuracy``, ``black_box_accuracy``, ``agreement``, and the counts that ``result`` uses."""
        n = self.outcomes.sum()
        figures = {"accuracy": self.outcomes[:, 1].sum() / n}
        if self.black_box:
            figures |= {"black_box_accuracy": self.outcomes[..., 1].sum() / n, "agreement": self.agreed.sum() / n}
        return figures | {
            "confused": self.confused,
            "outcomes": self.outcomes,
            "agreed": self.agreed,
            "between": self.between,
        }

    def result(self) -> PredictionFaithfulness:
        """Returns all shares with their intervals, overall and by class.

        Raises:
            LookalikeError: If there were no samples.
        """
        counts = self.compute()  # torchmetrics squeezes the states of a single class
        whole = OutcomeCounts(**{name: counts[name].reshape(shape) for name, shape in self._shapes().items()})
        return faithfulness_of_counts(whole, black_box=self.black_box)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each state."""
        k = self.n_classes
        return {"confused": (k, k), "outcomes": (k, 2, 2), "agreed": (k,), "between": (k + 1, k)}


class ExpectedCalibrationError(Metric):
    """ECE: the mean difference between the confidence of predictions and their accuracy.

    Predictions are sorted into bins of equal width by the probability of the predicted class, their confidence:
    ECE = Σ_b n_b / N · |accuracy_b − mean confidence_b| (Guo et al. 2017, equation 3).

    Args:
        n_bins: Number of bins between 0 and 1.
        **kwargs: Options of ``torchmetrics.Metric``.

    Example:
        >>> metric = ExpectedCalibrationError()
        >>> metric.update(torch.tensor([0.9, 0.9]), torch.tensor([True, False]))
        >>> round(float(metric.compute()), 3)
        0.4
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    counts: Tensor
    confidence: Tensor
    right: Tensor
    variance: Tensor

    def __init__(self, n_bins: int = N_BINS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        n_bins = checks.whole_number("n_bins", n_bins, 1)
        for name in ("counts", "confidence", "right", "variance"):
            self.add_state(name, torch.zeros(n_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, confidences: Tensor, correct: Tensor) -> None:
        """Adds predictions: the probability of the predicted class [N], and whether that class is correct [N]."""
        added = CalibrationBins.of(confidences, correct, len(self.counts))
        for name, values in vars(added).items():
            setattr(self, name, getattr(self, name) + values.to(self.counts.device))

    def compute(self) -> Tensor:
        """Returns the ECE, in [0, 1]."""
        return torch.tensor(self.bins.ece, dtype=torch.float64)

    @property
    def bins(self) -> CalibrationBins:
        """The bins so far, with what the ECE of a perfectly calibrated model would be."""
        return CalibrationBins(self.counts, self.confidence, self.right, self.variance)


class Ghosting(Metric):
    """Accumulates how often training samples activate each prototype and computes D_tsp, in a state of constant size.

    Args:
        prototype_labels: The prototypes' classes [P].
        scope: Whether to compare only the prototypes of the sample's own ``"class"`` [ours], or ``"all"``.

    Example:
        >>> metric = Ghosting(torch.tensor([0, 0, 1]))
        >>> metric.update(torch.tensor([[0.9, 0.1, 0.5], [0.0, 0.3, 0.7]]), torch.tensor([0, 1]))
        >>> round(float(metric.compute()), 3)
        0.333
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    counts: Tensor

    def __init__(self, prototype_labels: Tensor, *, scope: Literal["class", "all"] = "class", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prototype_labels = checks.tensor("prototype_labels", prototype_labels, ("P",), kind="whole", empty=False)
        self.scope = checks.one_of("scope", scope, ("class", "all"))
        self.add_state("counts", torch.zeros(len(self.prototype_labels), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, similarities: Tensor, labels: Tensor) -> None:
        """Adds training samples: their similarities to all prototypes [n, P], and their classes [n]."""
        similarities = checks.tensor("similarities", similarities, ("N", len(self.prototype_labels)), kind="number")
        class_of_prototype = self.prototype_labels.to(similarities.device)
        self.counts += activation_counts(similarities, labels, class_of_prototype, self.scope).to(self.counts.device)

    def compute(self) -> Tensor:
        """Returns D_tsp."""
        return torch.tensor(ghosting(self.counts), dtype=torch.float64)


class RelevanceOrdering(Metric):
    """Accumulates RO curves over a loader and computes their mean and AUROC, in states of constant size.

    Args:
        n_steps: Number of steps S.

    Example:
        >>> metric = RelevanceOrdering(n_steps=2)
        >>> metric.update(OrderingCurves(torch.tensor([0, 0.5, 1]), torch.tensor([[1.0, 1.0, 0.0]])))
        >>> metric.compute()["auroc"]
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    area: Tensor
    n: Tensor

    def __init__(self, n_steps: int = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        n_steps = checks.whole_number("n_steps", n_steps, 1)
        self.add_state("total", torch.zeros(n_steps + 1, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("area", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, curves: OrderingCurves) -> None:
        """Adds the curves of some images."""
        checks.instance("curves", curves, OrderingCurves, "OrderingCurves")
        if curves.probabilities.ndim != 2 or curves.probabilities.shape[1] != len(self.total):
            raise checks.unfit("the curves' probabilities", curves.probabilities, f"a tensor [N, {len(self.total)}]")
        self.total += curves.probabilities.sum(0).to(self.total)
        self.area += curves.areas.sum().to(self.area)
        self.n += len(curves.probabilities)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``curve`` [S + 1] and ``auroc``."""
        return {"curve": self.total / self.n, "auroc": self.area / self.n}


class MeanOverImages(Metric):
    """Accumulates a figure over images, in states of constant size; images without the figure (NaN) are left out."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    n: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Adds the values of some images [n]."""
        self.total += values.nansum().to(self.total.device)
        self.n += int((~values.isnan()).sum())

    def compute(self) -> Tensor:
        """Returns the mean; NaN if no image has the figure."""
        return self.total / self.n


class ExplanationDivergence(MeanOverImages):
    """Accumulates D_fth over a loader, in states of constant size. Maps without relevance are left out.

    Args:
        direction: See ``explanation_divergence``.
        magnitude: See ``relevance_shares``.
        floor: See ``relevance_shares``.

    Example:
        >>> metric, maps = ExplanationDivergence(), torch.rand(3, 4, 4)
        >>> metric.update(maps, 2 * maps)
        >>> round(float(metric.compute()), 6)
        0.0
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        direction: Direction = "model",
        magnitude: Magnitude = "absolute",
        floor: float = FLOOR,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.options: dict[str, Any] = {
            "direction": checks.one_of("direction", direction, DIRECTIONS),
            "magnitude": checks.one_of("magnitude", magnitude, MAGNITUDES),
            "floor": checks.number("floor", floor, above=0, below=1),
        }

    def update(self, maps: Tensor, black_box_maps: Tensor) -> None:
        """Adds images: the model's maps and the black box's, each [n, H, W]."""
        self.add(explanation_divergence(maps, black_box_maps, **self.options))


class ExplanationCorrelation(MeanOverImages):
    """Accumulates the signed correlation over a loader, in states of constant size.

    Images with a constant map have no correlation and are left out.

    Example:
        >>> metric, maps = ExplanationCorrelation(), torch.rand(3, 4, 4)
        >>> metric.update(maps, 2 * maps)
        >>> round(float(metric.compute()), 6)
        1.0
    """

    higher_is_better = True

    def update(self, maps: Tensor, black_box_maps: Tensor) -> None:
        """Adds images: the model's maps and the black box's, each [n, H, W]."""
        self.add(explanation_correlation(maps, black_box_maps))
