"""Faithfulness of predictions (paper section 4.3.2)."""

from torch import Tensor

from lookalike.errors import LookalikeError


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


def _share_equal(a: Tensor, b: Tensor, what: str) -> float:
    if a.shape != b.shape or a.ndim != 1:
        raise LookalikeError(f"there are {tuple(a.shape)} predictions and {tuple(b.shape)} {what}")
    if not len(a):
        raise LookalikeError("there are no samples to compare")
    return float((a.cpu() == b.cpu()).double().mean())
