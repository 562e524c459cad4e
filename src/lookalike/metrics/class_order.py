"""A black box beside labels: are its outputs the classes that they are taken for, and is it better than chance?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.encoder import Outputs, map_classes, natural_order
from lookalike.metrics.intervals import share

_P_VALUE = 1e-4
_RATIO = 3  # so many times as often another order must be right
_MOVED_BETTER = 0.8  # of the classes that it moves; an untrained head predicts few classes at all
_LARGEST = 4_000  # classes or outputs that occur; the assignment takes time and memory beyond
_SHOWN = 3
_PREFER_GIVEN = 1e-6  # of a share of right samples: where all orders are as good, none is moved


@dataclass(frozen=True)
class Standing:
    """How a black box stands to the labels of test data.

    Attributes:
        predictions: Its predictions in the model's numbering [N], K for a class that the model does not have; None if
            it cannot be told which output is which class.
        notes: What is to be known about it, in whole sentences.
        said: The same for the verdict: short, and only what concerns trust.
        order: Which other order of the outputs fits far better, as plain JSON values; None without one.
        chance: The accuracy at chance that it does not exceed; None if it does.
    """

    predictions: Tensor | None
    notes: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    order: dict[str, Any] | None = None
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "withheld": self.predictions is None,
            "said": self.said,
            "better_order": self.order,
            "chance": self.chance,
        }


def stand_beside(labels: Tensor, predicted: Tensor, outputs: Outputs, class_names: Sequence[str]) -> Standing:
    """Places a black box's predictions beside labels.

    Args:
        labels: True classes [N], in the model's numbering.
        predicted: The black box's predictions [N], in its own numbering.
        outputs: How the black box's outputs are read.
        class_names: The model's K classes.
    """
    classes = map_classes(outputs, class_names)
    if classes.classes is None:
        return Standing(None, [f"the black box is not compared with: {classes.note}"])
    labels, predicted = labels.cpu(), predicted.cpu()
    order = better_order(labels, predicted, classes.classes, class_names)
    notes = [classes.note] if classes.note else []
    if order is not None:
        how = "by their names" if classes.basis == "names" else "in the order of the classes"
        described = _describe(order, labels, predicted, classes.classes, class_names)
        return Standing(None, [*notes, _withheld(described, how)], [_SHORT], described)
    predictions = classes.classes[predicted]
    chance, sentence = _chance(labels, predictions, len(class_names), outputs.n_classes)
    said = [sentence] if sentence else []
    return Standing(predictions, [*notes, *said], said, None, chance)


def better_order(labels: Tensor, predicted: Tensor, classes: Tensor, class_names: Sequence[str]) -> Tensor | None:
    """Returns another assignment of outputs to classes that fits the labels far better than the one given.

    The orders in which tools number folders are tried as they are. Any other is the best assignment on one half of the
    samples, tried on the other half, so that chance in a few samples finds none; and as often on the average class as
    on the average sample, so that a network that always predicts one class is no permuted one.

    Args:
        labels: [N].
        predicted: Numbers of outputs [N].
        classes: The class of each output [n]; K for none of the model's.
        class_names: K names.

    Returns:
        The class of each output [n]; None if no order is far better.
    """
    for known in _known_orders(class_names, classes):
        if _far_better(labels, [(slice(None), known)], predicted, classes) and _fits_most(
            labels, predicted, classes, known
        ):
            return known
    rows = torch.arange(len(labels))
    halves = [_rank_in_class(labels) % 2 == half for half in (0, 1)]
    trials = []
    for half in halves:
        fitted = _best_assignment(labels[~half], predicted[~half], classes, len(class_names))
        if fitted is None:
            return None
        trials.append((rows[half], fitted))
    if not _far_better(labels, trials, predicted, classes):
        return None
    best = _best_assignment(labels, predicted, classes, len(class_names))
    return best if best is not None and _fits_most(labels, predicted, classes, best) else None


def _known_orders(class_names: Sequence[str], classes: Tensor) -> Iterator[Tensor]:
    """Yields what each output's class is if a tool sorted the classes' names otherwise."""
    if len(classes) != len(class_names):
        return
    names = list(class_names)
    for order in (natural_order(names), sorted(names), sorted(names, key=str.casefold)):
        known = torch.tensor([names.index(name) for name in order])
        if not torch.equal(known, classes):
            yield known


def _far_better(labels: Tensor, trials: list[tuple[Any, Tensor]], predicted: Tensor, classes: Tensor) -> bool:
    """Says whether other orders, each tried on some rows, are right far more often than the one given."""
    from scipy.stats import binomtest

    gained, lost = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.bool)
    for rows, order in trials:
        y, given, other = labels[rows], classes[predicted[rows]], order[predicted[rows]]
        gained[rows] = (other == y) & (given != y)
        lost[rows] = (other != y) & (given == y)
    n_gained, n_lost = int(gained.sum()), int(lost.sum())
    if n_gained == 0 or n_gained < _RATIO * n_lost:
        return False
    per_class = labels.bincount()
    gains, losses = (labels[which].bincount(minlength=len(per_class)).double() for which in (gained, lost))
    if float((gains / per_class.clamp_min(1)).sum()) < _RATIO * float((losses / per_class.clamp_min(1)).sum()):
        return False
    return bool(binomtest(n_gained, n_gained + n_lost, 0.5, alternative="greater").pvalue < _P_VALUE)


def _fits_most(labels: Tensor, predicted: Tensor, classes: Tensor, order: Tensor) -> bool:
    """Says whether most of the classes that another order moves, and two at least, are right more often in it."""
    n = max(int(labels.max()), int(classes.max())) + 1
    given, other = (labels[which[predicted] == labels].bincount(minlength=n) for which in (classes, order))
    moved = torch.zeros(n, dtype=torch.bool)
    moved[order[order != classes]] = True
    moved[classes[order != classes]] = True
    moved &= labels.bincount(minlength=n) > 0
    better = int((other > given)[moved].sum())
    return better >= 2 and better >= _MOVED_BETTER * int(moved.sum())


def _best_assignment(labels: Tensor, predicted: Tensor, classes: Tensor, n_classes: int) -> Tensor | None:
    """Returns the class of each output [n] with which the average class is most often right."""
    from scipy.optimize import linear_sum_assignment

    own = {int(k): output for output, k in enumerate(classes.tolist()) if k < n_classes}
    rows = labels.unique().tolist()
    columns = sorted({*predicted.unique().tolist(), *(own[k] for k in rows if k in own)})
    if not rows or max(len(rows), len(columns)) > _LARGEST:
        return None
    row_of, column_of = {k: i for i, k in enumerate(rows)}, {o: i for i, o in enumerate(columns)}
    right = np.zeros((len(rows), len(columns)))
    np.add.at(right, ([row_of[k] for k in labels.tolist()], [column_of[o] for o in predicted.tolist()]), 1)
    right /= right.sum(1, keepdims=True)
    for k in rows:
        if k in own:
            right[row_of[k], column_of[own[k]]] += _PREFER_GIVEN
    order = classes.clone()
    chosen = list(zip(*linear_sum_assignment(right, maximize=True), strict=True))
    left = {int(order[columns[column]]) for _, column in chosen} - {rows[row] for row, _ in chosen}
    for row, column in chosen:
        order[columns[column]] = rows[row]
    used = {columns[column] for _, column in chosen}
    freed = [own[rows[row]] for row, _ in chosen if rows[row] in own and own[rows[row]] not in used]
    for output, k in zip(freed, sorted(left), strict=False):  # classes without samples take what is left
        order[output] = k
    return order


def _rank_in_class(labels: Tensor) -> Tensor:
    """Returns which sample of its class each one is [N], from 0."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return ranks


def _describe(
    order: Tensor, labels: Tensor, predicted: Tensor, classes: Tensor, names: Sequence[str]
) -> dict[str, Any]:
    moved = torch.nonzero((order != classes) & (order < len(names)))[:, 0].tolist()
    counts = torch.zeros(len(order), dtype=torch.int64)
    counts.index_add_(0, predicted, (order[predicted] == labels).long())
    moved.sort(key=lambda output: (counts[output] == 0, output))  # those that samples speak for come first
    natural = len(order) == len(names) and [names[k] for k in order.tolist()] == natural_order(names)
    pairs = [
        {
            "output": output,
            "taken_for": [*names, "another class"][int(classes[output])],
            "fits": names[int(order[output])],
        }
        for output in moved
    ]
    return {
        "accuracy_as_taken": float((classes[predicted] == labels).double().mean()),
        "accuracy_reordered": float((order[predicted] == labels).double().mean()),
        "pairs": pairs,
        "natural": natural,
    }


def _withheld(described: dict[str, Any], how: str) -> str:
    pairs = described["pairs"]
    listed = ", ".join(
        f"output {pair['output']} is {pair['fits']!r}, not {pair['taken_for']!r}" for pair in pairs[:_SHOWN]
    )
    more = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    way = (
        "this is the order in which timm numbers folders: try --class-order natural (class_order='natural')"
        if described["natural"]
        else "give the order that it was trained with by --class-order (class_order=)"
    )
    return (
        f"the black box's outputs seem to be in another order: taken {how}, it is right on "
        f"{described['accuracy_as_taken']:.1%} of the images, and on {described['accuracy_reordered']:.1%} if "
        f"{listed}{more}. "
        f"Its accuracy and the agreement with it are withheld; {way}"
    )


_SHORT = (
    "Agreement with the original and its accuracy are withheld: its outputs seem to be in another order than the "
    "classes (see the note; --class-order)."
)


def _chance(labels: Tensor, predictions: Tensor, n_classes: int, n_outputs: int) -> tuple[float | None, str]:
    """Returns the accuracy at chance, and a sentence, if a black box's does not exceed it."""
    right, n = int((predictions == labels).sum()), len(labels)
    true, said = (v.bincount(minlength=n_classes + 1).double() / n for v in (labels, predictions))
    chance = max(float((true * said).sum()), 1 / n_outputs)  # of predictions that do not depend on the image
    found = share(right, n)
    if right == n or n_outputs < 2 or found.low > chance:
        return None, ""
    return chance, (
        f"The black box is right on {found.value:.1%} of {n} images, which cannot be told from chance ({chance:.1%}): "
        "are its weights, the order of its classes and the normalisation of the images those that it was trained with?"
    )
