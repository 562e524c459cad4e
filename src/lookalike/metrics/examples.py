"""Measures of examples as explanations: is a test sample really like the examples that explain it?

An attribution is a number for each test sample i and each example j (a prototype, or a training image): the larger it
is, the more example j explains sample i. Definitions follow quanda (Bareeva et al. 2024) and the papers named with each
measure.
"""

from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.relevance.stability import correlations_of


def identical_class(attributions: Any, example_classes: Any, classes: Any) -> Tensor:
    """Returns whether each sample's strongest example has the sample's class [N]; a higher mean is better.

    [class(argmax_j τ(i, j)) = class(i)] (Hanawa et al. 2021). Co-12: coherence. Use the predicted classes: the example
    explains the prediction.

    Args:
        attributions: τ [N, J]; the larger, the stronger the example.
        example_classes: Classes of the examples [J].
        classes: Predicted classes of the samples [N].

    Raises:
        LookalikeError: If the numbers of samples or examples do not fit, or a value is not finite.

    Example:
        >>> identical_class([[0.9, 0.1], [0.8, 0.3]], [0, 1], [0, 1])
        tensor([ True, False])
    """
    table = _attributions(attributions)
    class_of_example = checks.tensor("example_classes", example_classes, (table.shape[1],), kind="whole").to(
        table.device
    )
    sample_classes = checks.tensor("classes", classes, (len(table),), kind="whole").to(table.device)
    return class_of_example[table.argmax(1)] == sample_classes


def identical_subclass(attributions: Any, example_subclasses: Any, subclasses: Any) -> Tensor:
    """Returns whether each sample's strongest example has the sample's subclass [N].

    Like ``identical_class``, with classes that the model does not know: it was trained on groups of them (Hanawa et al.
    2021). Higher is better. Co-12: coherence.

    Args:
        attributions: τ [N, J].
        example_subclasses: Subclasses of the examples [J].
        subclasses: Subclasses of the samples [N].

    Raises:
        LookalikeError: As ``identical_class``.
    """
    return identical_class(attributions, example_subclasses, subclasses)


def rank_agreement(attributions: Any, others: Any) -> Tensor:
    """Returns Spearman's correlation between two attributions, sample by sample [N], in [−1, 1].

    For model randomisation, ``others`` come from the same network with random weights. Explanations that depend on what
    was learned have a low correlation (Hanawa et al. 2021; Adebayo et al. 2018); lower is better. Co-12: correctness.

    Args:
        attributions: τ [N, J].
        others: τ of the other model [N, J].

    Returns:
        NaN if all examples of a sample have the same attribution.

    Raises:
        LookalikeError: If the shapes differ, or a value is not finite.

    Example:
        >>> round(float(rank_agreement([[0.1, 0.2, 0.9]], [[3.0, 2.0, 1.0]])), 6)
        -1.0
    """
    first, second = _attributions(attributions), _attributions(others, "others")
    if first.shape != second.shape:
        raise checks.unfit("others", second, f"attributions of shape {tuple(first.shape)}")
    return correlations_of(_ranks(first), _ranks(second))


def mislabelled_detection(suspicion: Any, mislabelled: Any) -> float:
    """Returns how early mislabelled training samples come when sorted by suspicion, in [0, 1]; higher is better.

    The area under n ↦ share of the mislabelled samples among the n most suspicious, n from 0 to N, over N (Koh and
    Liang 2017; Kwon et al. 2024). It is about ½ by chance and at most 1 − (share mislabelled) / 2. Samples with
    equal suspicion share their mean rank. Co-12: correctness.

    Args:
        suspicion: Suspicion of each training sample [N]; the larger, the more suspicious.
        mislabelled: Whether the sample's label is wrong [N].

    Raises:
        LookalikeError: If no sample is mislabelled, the shapes do not fit, or a value is not finite.

    Example:
        >>> mislabelled_detection([0.9, 0.1, 0.2, 0.3], [True, False, False, False])
        0.875
    """
    values = checks.tensor("suspicion", suspicion, ("N",), kind="number").double()
    wrong = checks.tensor("mislabelled", mislabelled, (len(values),)).bool()
    if not bool(wrong.any()):
        raise LookalikeError("no sample is mislabelled, so there is nothing to detect")
    if not bool(values.isfinite().all()):
        raise LookalikeError("suspicion has values that are not finite")
    # the curve rises at rank r of each mislabelled sample (from 1; ties have their mean rank), which adds
    # (N − r + ½) / N to the area under it
    ranks = len(values) + 1 - _ranks(values[None])[0]
    return float((len(values) - ranks[wrong] + 0.5).mean() / len(values))


def _attributions(values: Any, name: str = "attributions") -> Tensor:
    table = checks.tensor(name, values, ("N", "J"), kind="number", empty=False).double()
    if not bool(table.isfinite().all()):
        raise LookalikeError(f"{name} has values that are not finite")
    return table


def _ranks(table: Tensor) -> Tensor:
    """Returns ranks within rows [N, J], 1 for the smallest; ties have their mean rank."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(table.cpu().numpy(), axis=1))
