"""Examples as explanations: whether what a test sample is said to look like is like it.

An attribution gives each test sample i and each example j (a prototype, or a training image) a number: the larger, the
more j counts. Definitions follow quanda (Bareeva et al. 2024) and the papers named with each measure.
"""

from typing import Any

import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.relevance.stability import correlations_of


def identical_class(attributions: Any, example_classes: Any, classes: Any) -> Tensor:
    """Returns whether each sample's strongest example has the sample's class [N]; the mean is in [0, 1], higher better.

    [class(argmax_j τ(i, j)) = class(i)] (Hanawa et al. 2021). Co-12: coherence. Give the predicted classes: the example
    is to explain the prediction.

    Args:
        attributions: τ [N, J], larger = counts more.
        example_classes: Of the examples [J].
        classes: Of the samples, as predicted [N].

    Raises:
        LookalikeError: If the numbers of samples or examples do not fit, or a value is not finite.

    Example:
        >>> identical_class([[0.9, 0.1], [0.8, 0.3]], [0, 1], [0, 1])
        tensor([ True, False])
    """
    table = _attributions(attributions)
    owners = checks.tensor("example_classes", example_classes, (table.shape[1],), kind="whole").to(table.device)
    own = checks.tensor("classes", classes, (len(table),), kind="whole").to(table.device)
    return owners[table.argmax(1)] == own


def identical_subclass(attributions: Any, example_subclasses: Any, subclasses: Any) -> Tensor:
    """Returns whether each sample's strongest example has the sample's subclass [N]; the mean is in [0, 1].

    As ``identical_class``, with classes that the model was not told: it was trained on groups of them (Hanawa et al.
    2021). Higher is better. Co-12: coherence.

    Args:
        attributions: τ [N, J].
        example_subclasses: Of the examples [J].
        subclasses: Of the samples [N].

    Raises:
        LookalikeError: As ``identical_class``.
    """
    return identical_class(attributions, example_subclasses, subclasses)


def rank_agreement(attributions: Any, others: Any) -> Tensor:
    """Returns Spearman's correlation between two attributions, sample by sample [N], in [−1, 1].

    For model randomisation ``others`` come from the same network with random weights: an explanation of what was
    learned has a low one (Hanawa et al. 2021; Adebayo et al. 2018); lower is better. Co-12: correctness.

    Args:
        attributions: τ [N, J].
        others: τ of the randomised model [N, J].

    Returns:
        NaN where all examples count the same.

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
    """Returns how early mislabelled training samples come in order of suspicion, in [0, 1]; higher is better.

    The area under n ↦ share of the mislabelled samples among the n most suspicious, n from 0 to N, over N (Koh and
    Liang 2017; Kwon et al. 2024). About ½: no better than chance. At most 1 − (share mislabelled) / 2. Samples with
    the same suspicion share their places. Co-12: correctness.

    Args:
        suspicion: Of each training sample [N], larger = more suspicious.
        mislabelled: Whether its label is wrong [N].

    Raises:
        LookalikeError: If none is mislabelled, shapes do not fit, or a value is not finite.

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
    # the mislabelled sample of rank r (from 1, ties at their mean) adds (N − r + ½) / N to the area under the curve
    ranks = len(values) + 1 - _ranks(values[None])[0]
    return float((len(values) - ranks[wrong] + 0.5).mean() / len(values))


def _attributions(values: Any, name: str = "attributions") -> Tensor:
    table = checks.tensor(name, values, ("N", "J"), kind="number", empty=False).double()
    if not bool(table.isfinite().all()):
        raise LookalikeError(f"{name} has values that are not finite")
    return table


def _ranks(table: Tensor) -> Tensor:
    """Returns ranks within rows [N, J], 1 for the least; ties have their mean rank."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(table.cpu().numpy(), axis=1))
