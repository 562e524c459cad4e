"""Faithfulness of predictions (paper section 4.3.2): accuracy compared with the black box's, and agreement with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.intervals import Share, paired_difference, share, sign_test


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Returns the share of predictions [N] that equal the labels [N], in [0, 1]; higher is better.

    Raises:
        LookalikeError: If there are no samples, or the lengths differ.
    """
    return _share_equal(predictions, labels, "labels")


def agreement(predictions: Tensor, black_box_predictions: Tensor) -> float:
    """Returns the share of samples on which two models predict the same class, in [0, 1]; higher is better.

    Raises:
        LookalikeError: If there are no samples, or the lengths differ.
    """
    return _share_equal(predictions, black_box_predictions, "predictions of the black box")


def independent_agreement(error: float, n_classes: int) -> float:
    """Returns the expected agreement of two classifiers with the same error rate and independent errors [ours].

    Both are correct on (1 − e)² of the samples. Where both err, they pick the same one of K − 1 wrong classes with
    probability 1 / (K − 1). Two trainings of one network err on the same hard samples and so agree more often: a model
    that agrees less than this is further from its black box than another training of it.

    Args:
        error: Error rate of each classifier, in [0, 1].
        n_classes: Number of classes K.

    Raises:
        LookalikeError: If the error rate is not in [0, 1].

    Example:
        >>> round(independent_agreement(0.05, 2), 3)
        0.905
    """
    checks.number("error", error, least=0, most=1)
    n_classes = checks.whole_number("n_classes", n_classes, 1)
    return (1 - error) ** 2 + error**2 / max(1, n_classes - 1)


def _share_equal(a: Tensor, b: Tensor, name: str) -> float:
    a, b = checks.tensor("predictions", a, kind="whole"), checks.tensor(name, b, kind="whole")
    if a.shape != b.shape or a.ndim != 1:
        raise LookalikeError(f"there are {tuple(a.shape)} predictions and {tuple(b.shape)} {name}")
    if not len(a):
        raise LookalikeError("there are no samples to compare")
    return float((a.cpu() == b.cpu()).double().mean())


@dataclass(frozen=True)
class ClassFaithfulness:
    """Faithfulness of the predictions on one true class.

    Attributes:
        label: The class.
        n: Number of samples of this class.
        accuracy: Accuracy of the model on them; None without samples.
        black_box_accuracy: Accuracy of the black box on them; None without samples or without a black box.
        difference: Accuracy minus the black box's; None in the same cases.
        agreement: Share of these samples on which both predict the same class; None in the same cases.
        mistaken_for: The wrong class that the model predicts most often; None if it makes no mistake.
        loss_p: Probability of at least this loss if model and black box erred equally often on this class (exact
            one-sided sign test); None in the same cases. It is not corrected for the number of classes; the verdict
            does that.
        also_mistaken_for: Other wrong classes that the model predicts as often as ``mistaken_for``.
    """

    label: int
    n: int
    accuracy: Share | None
    black_box_accuracy: Share | None
    difference: Share | None
    agreement: Share | None
    mistaken_for: int | None
    loss_p: float | None = None
    also_mistaken_for: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class PredictionFaithfulness:
    """How faithful a model's predictions are, with 95% intervals.

    Attributes:
        accuracy: Accuracy of the model.
        black_box_accuracy: Accuracy of the black box; None without one.
        difference: Accuracy minus the black box's, on the same samples; None without a black box.
        agreement: Share of samples on which both predict the same class; None without a black box.
        per_class: The same figures by true class.
        confusion: Number of samples by the black box's prediction (row) and the model's (column) [K, K]; None without a
            black box.
        elsewhere: Number of samples for which the black box predicts a class that the model does not have; None without
            a black box.
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


class OutcomeCounts(NamedTuple):
    """Numbers of samples, from which all shares of a ``PredictionFaithfulness`` follow.

    Attributes:
        confused: By true class and predicted class [K, K].
        outcomes: By true class, whether the model is correct, and whether the black box is [K, 2, 2].
        agreed: By true class, those on which both predict the same [K].
        between: By the black box's class and the model's [K + 1, K]; the last row is for classes that the model does
            not have.
    """

    confused: Tensor
    outcomes: Tensor
    agreed: Tensor
    between: Tensor


def count_outcomes(predictions: Tensor, labels: Tensor, black_box: Tensor | None, n_classes: int) -> OutcomeCounts:
    """Counts samples by predicted and true class, and by the black box's prediction, each [n].

    Class K of the black box stands for all classes that the model does not have; it always counts as wrong.

    Raises:
        LookalikeError: If the lengths differ, or a class is out of range.
    """
    k = checks.whole_number("n_classes", n_classes, 1)
    tensors = {"predictions": predictions, "labels": labels}
    if black_box is not None:
        tensors["predictions of the black box"] = black_box
    tensors = {name: checks.tensor(name, values, kind="whole") for name, values in tensors.items()}
    predictions, labels = tensors["predictions"], tensors["labels"]
    for name, values in tensors.items():
        if values.shape != labels.shape or values.ndim != 1:
            raise LookalikeError(f"there are {tuple(labels.shape)} labels and {tuple(values.shape)} {name}")
        largest = k if values is black_box else k - 1
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= largest:
            raise LookalikeError(f"the {name} must lie between 0 and {largest}")
    correct = (predictions == labels).long()
    black_box_predictions = predictions if black_box is None else black_box
    cells = labels * 4 + correct * 2 + (black_box_predictions == labels).long()
    return OutcomeCounts(
        torch.bincount(labels * k + predictions, minlength=k * k).view(k, k),
        torch.bincount(cells, minlength=4 * k).view(k, 2, 2),
        torch.bincount(labels[black_box_predictions == predictions], minlength=k),
        torch.bincount(black_box_predictions * k + predictions, minlength=(k + 1) * k).view(k + 1, k),
    )


def faithfulness_of_counts(counts: OutcomeCounts, *, black_box: bool) -> PredictionFaithfulness:
    """Returns all shares with their intervals, overall and by class.

    Args:
        counts: Numbers of samples.
        black_box: Whether there is a black box.
    """
    confused, outcomes, agreed, between = (values.cpu() for values in counts)
    overall = _shares(outcomes.sum(0), int(agreed.sum()), black_box)
    per_class = []
    for k in range(len(confused)):
        wrong = confused[k].clone()
        wrong[k] = 0
        n = int(outcomes[k].sum())
        shares = _shares(outcomes[k], int(agreed[k]), black_box) if n else (None,) * 4
        most: list[int] = torch.nonzero(wrong == wrong.max())[:, 0].tolist() if int(wrong.sum()) else []
        loss = sign_test(int(outcomes[k, 0, 1]), int(outcomes[k, 1, 0])) if n and black_box else None
        per_class.append(ClassFaithfulness(k, n, *shares, most[0] if most else None, loss, most[1:]))
    confusion = between[:-1].tolist() if black_box else None
    elsewhere = int(between[-1].sum()) if black_box else None
    assert overall[0] is not None
    return PredictionFaithfulness(overall[0], *overall[1:], per_class, confusion, elsewhere)


def _shares(
    outcomes: Tensor, agreed: int, black_box: bool
) -> tuple[Share | None, Share | None, Share | None, Share | None]:
    """Returns accuracy, the black box's, their difference and the agreement, from the counts of outcomes [2, 2]."""
    n = int(outcomes.sum())
    model_accuracy = share(int(outcomes[1].sum()), n)
    if not black_box:
        return model_accuracy, None, None, None
    difference = paired_difference(int(outcomes[1, 0]), int(outcomes[0, 1]), n)
    return model_accuracy, share(int(outcomes[:, 1].sum()), n), difference, share(agreed, n)


def faithfulness_of_predictions(
    predictions: Tensor, labels: Tensor, black_box: Tensor | None = None, *, n_classes: int | None = None
) -> PredictionFaithfulness:
    """Compares predictions [N] with labels [N] and with the black box's predictions [N].

    Args:
        predictions: Predictions of the model.
        labels: True classes.
        black_box: Predictions of the black box, or None.
        n_classes: Number of classes K; None takes the largest class that occurs, plus one.

    Raises:
        LookalikeError: If there are no samples, or the lengths differ.
    """
    predictions = checks.tensor("predictions", predictions, ("N",), kind="whole")
    labels = checks.tensor("labels", labels, (len(predictions),), kind="whole")
    if black_box is not None:
        black_box = checks.tensor("black_box", black_box, (len(predictions),), kind="whole")
    if not len(labels):
        raise LookalikeError("there are no samples to compare")
    class_tensors: Sequence[Tensor] = [predictions, labels] if black_box is None else [predictions, labels, black_box]
    k = 1 + max(int(values.max()) for values in class_tensors) if n_classes is None else n_classes
    return faithfulness_of_counts(count_outcomes(predictions, labels, black_box, k), black_box=black_box is not None)
