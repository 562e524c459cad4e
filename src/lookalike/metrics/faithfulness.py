"""Faithfulness of predictions (paper section 4.3.2): accuracy beside the black box's, and agreement with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.metrics.intervals import Share, paired_difference, share, sign_test


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Returns the share of predictions [N] that equal the labels [N], in [0, 1]; higher is better.

    Raises:
        LookalikeError: If there are none, or their numbers differ.
    """
    return _share_equal(predictions, labels, "labels")


def agreement(predictions: Tensor, black_box_predictions: Tensor) -> float:
    """Returns the share of samples on which two models predict the same [N], in [0, 1]; higher is better.

    Raises:
        LookalikeError: If there are none, or their numbers differ.
    """
    return _share_equal(predictions, black_box_predictions, "predictions of the black box")


def independent_agreement(error: float, n_classes: int) -> float:
    """Returns the share of samples on which two classifiers agree that err equally often and independently [ours].

    Both are right on (1 − e)²; where both err, wrong classes spread evenly coincide on 1 / (K − 1). Two trainings of
    one network err on the same hard samples, and agree more often: a model below this share is further from its black
    box than another training of it.

    Args:
        error: Of each, in [0, 1].
        n_classes: K.

    Raises:
        LookalikeError: If the error rate is no share.

    Example:
        >>> round(independent_agreement(0.05, 2), 3)
        0.905
    """
    checks.number("error", error, least=0, most=1)
    checks.whole_number("n_classes", n_classes, 1)
    return (1 - error) ** 2 + error**2 / max(1, n_classes - 1)


def _share_equal(a: Tensor, b: Tensor, what: str) -> float:
    a, b = checks.tensor("predictions", a, kind="whole"), checks.tensor(what, b, kind="whole")
    if a.shape != b.shape or a.ndim != 1:
        raise LookalikeError(f"there are {tuple(a.shape)} predictions and {tuple(b.shape)} {what}")
    if not len(a):
        raise LookalikeError("there are no samples to compare")
    return float((a.cpu() == b.cpu()).double().mean())


@dataclass(frozen=True)
class ClassFaithfulness:
    """One class's part of the faithfulness of predictions.

    Attributes:
        label: The class.
        n: How many samples carry it.
        accuracy: Of the model on them; None without samples.
        black_box_accuracy: Of the black box; None also without one.
        difference: The one less the other; None likewise.
        agreement: On which share of them both predict the same; None likewise.
        mistaken_for: The class that the model predicts most often in its place; None if it makes no mistake.
        loss_p: The chance of at least so great a loss if model and black box erred equally often on this class (exact
            sign test, one-sided); None likewise. Many classes need a correction, which the verdict makes.
    """

    label: int
    n: int
    accuracy: Share | None
    black_box_accuracy: Share | None
    difference: Share | None
    agreement: Share | None
    mistaken_for: int | None
    loss_p: float | None = None


@dataclass(frozen=True)
class PredictionFaithfulness:
    """How faithful a model's predictions are, with 95% intervals.

    Attributes:
        accuracy: Of the model.
        black_box_accuracy: None without a black box.
        difference: Accuracy less the black box's, on the same samples; None likewise.
        agreement: The share of samples on which both predict the same; None likewise.
        per_class: The same by true class.
        confusion: How often the model predicts a column where the black box predicts a row [K, K]; None likewise.
        elsewhere: On how many samples the black box predicts a class that the model does not have; None likewise.
    """

    accuracy: Share
    black_box_accuracy: Share | None
    difference: Share | None
    agreement: Share | None
    per_class: list[ClassFaithfulness]
    confusion: list[list[int]] | None
    elsewhere: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


class FaithfulnessOfPredictions(Metric):
    """Accumulates predictions of a model, of its black box, and labels. Its states sum, and do not grow.

    Args:
        n_classes: K.
        black_box: Whether there is one.

    Example:
        >>> metric = FaithfulnessOfPredictions(n_classes=2)
        >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]))
        >>> found = metric.result()
        >>> round(found.accuracy.value, 3), found.black_box_accuracy.value, round(found.agreement.value, 3)
        (0.667, 1.0, 0.667)
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    confused: Tensor  # [true class, the model's]
    outcomes: Tensor  # [true class, the model right, the black box right]
    agreed: Tensor  # [true class]
    between: Tensor  # [the black box's, in the last row a class that the model does not have; the model's]

    def __init__(self, n_classes: int, *, black_box: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        n_classes = checks.whole_number("n_classes", n_classes, 1)
        self.n_classes, self.black_box = n_classes, checks.flag("black_box", black_box)
        shapes = {
            "confused": (n_classes, n_classes),
            "outcomes": (n_classes, 2, 2),
            "agreed": (n_classes,),
            "between": (n_classes + 1, n_classes),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, labels: Tensor, black_box: Tensor | None = None) -> None:
        """Adds samples: predicted and true classes, and the black box's predictions, each [n].

        A class K of the black box stands for any that the model does not have; it is always wrong.

        Raises:
            LookalikeError: If their numbers differ, a class is out of range, or the black box's are missing.
        """
        k = self.n_classes
        given = {"predictions": predictions, "labels": labels}
        if self.black_box:
            if black_box is None:
                raise LookalikeError("the black box's predictions are missing")
            given["predictions of the black box"] = black_box
        given = {what: checks.tensor(what, values, kind="whole") for what, values in given.items()}
        predictions, labels = given["predictions"], given["labels"]
        for what, values in given.items():
            if values.shape != labels.shape or values.ndim != 1:
                raise LookalikeError(f"there are {tuple(labels.shape)} labels and {tuple(values.shape)} {what}")
            top = k if values is black_box else k - 1
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= top:
                raise LookalikeError(f"the {what} must lie between 0 and {top}")
        self.confused += torch.bincount(labels * k + predictions, minlength=k * k).view(k, k)
        right = (predictions == labels).long()
        box = predictions if black_box is None else black_box
        cells = labels * 4 + right * 2 + (box == labels).long()
        self.outcomes += torch.bincount(cells, minlength=4 * k).view(k, 2, 2)
        self.agreed += torch.bincount(labels[box == predictions], minlength=k)
        self.between += torch.bincount(box * k + predictions, minlength=(k + 1) * k).view(k + 1, k)

    def compute(self) -> dict[str, Tensor]:
        """Returns ``accuracy``, ``black_box_accuracy``, ``agreement``, and the counts that ``result`` reads."""
        n = self.outcomes.sum()
        found = {"accuracy": self.outcomes[:, 1].sum() / n}
        if self.black_box:
            found |= {"black_box_accuracy": self.outcomes[..., 1].sum() / n, "agreement": self.agreed.sum() / n}
        return found | {
            "confused": self.confused,
            "outcomes": self.outcomes,
            "agreed": self.agreed,
            "between": self.between,
        }

    def result(self) -> PredictionFaithfulness:
        """Returns shares with their intervals, overall and by class.

        Raises:
            LookalikeError: If there were no samples.
        """
        counts, k = self.compute(), self.n_classes
        shapes = {"outcomes": (k, 2, 2), "agreed": (k,), "confused": (k, k)}  # torchmetrics squeezes those of one class
        outcomes, agreed, confused = (counts[name].cpu().reshape(shape) for name, shape in shapes.items())
        whole = self._shares(outcomes.sum(0), int(agreed.sum()))
        per_class = []
        for k in range(self.n_classes):
            wrong = confused[k].clone()
            wrong[k] = 0
            n = int(outcomes[k].sum())
            found = self._shares(outcomes[k], int(agreed[k])) if n else (None,) * 4
            mistaken = int(wrong.argmax()) if int(wrong.sum()) else None
            loss = sign_test(int(outcomes[k, 0, 1]), int(outcomes[k, 1, 0])) if n and self.black_box else None
            per_class.append(ClassFaithfulness(k, n, *found, mistaken, loss))
        between = counts["between"]
        confusion = between[:-1].tolist() if self.black_box else None
        elsewhere = int(between[-1].sum()) if self.black_box else None
        assert whole[0] is not None  # noqa: S101 - narrows the type
        return PredictionFaithfulness(whole[0], *whole[1:], per_class, confusion, elsewhere)

    def _shares(self, outcomes: Tensor, agreed: int) -> tuple[Share | None, Share | None, Share | None, Share | None]:
        """Reads accuracy, the black box's, their difference and the agreement off outcomes [2, 2]."""
        n = int(outcomes.sum())
        own = share(int(outcomes[1].sum()), n)
        if not self.black_box:
            return own, None, None, None
        difference = paired_difference(int(outcomes[1, 0]), int(outcomes[0, 1]), n)
        return own, share(int(outcomes[:, 1].sum()), n), difference, share(agreed, n)


def faithfulness_of_predictions(
    predictions: Tensor, labels: Tensor, black_box: Tensor | None = None, *, n_classes: int | None = None
) -> PredictionFaithfulness:
    """Compares predictions [N] with labels [N] and with the black box's predictions [N].

    Args:
        predictions: Of the model.
        labels: The true classes.
        black_box: Predictions of the black box, where there is one.
        n_classes: K; None takes the largest class that occurs.

    Raises:
        LookalikeError: If there are no samples, or their numbers differ.
    """
    predictions = checks.tensor("predictions", predictions, ("N",), kind="whole")
    labels = checks.tensor("labels", labels, (len(predictions),), kind="whole")
    if black_box is not None:
        black_box = checks.tensor("black_box", black_box, (len(predictions),), kind="whole")
    if not len(labels):
        raise LookalikeError("there are no samples to compare")
    given: Sequence[Tensor] = [predictions, labels] if black_box is None else [predictions, labels, black_box]
    k = 1 + max(int(values.max()) for values in given) if n_classes is None else n_classes
    metric = FaithfulnessOfPredictions(k, black_box=black_box is not None).to(labels.device)
    metric.update(predictions, labels, black_box)
    return metric.result()
