"""Checks a black box against the labels: is its output order the class order, and does it beat chance?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.intervals import share
from lookalike._core.names import visible
from lookalike.encoder import Outputs, map_classes, natural_order

# Another order of the outputs is accepted only on strong evidence, as it withholds two figures of the scorecard:
_P_VALUE = 1e-4  # the order must be significantly better,
_RATIO = 3  # correct three times as often among the samples on which both orders differ,
_MOVED_BETTER = 0.8  # and better for most classes that it moves: an untrained head predicts only a few classes
_LARGEST = 4_000  # most classes or outputs; beyond, the assignment takes too much time and memory
_SHOWN = 3  # outputs named in the note
_PREFER_GIVEN = 1e-6  # bonus, in accuracy, for the given class of an output: ties move nothing


@dataclass(frozen=True)
class Standing:
    """How the predictions of a black box compare with the labels of the test data.

    Attributes:
        predictions: Its predictions in the model's class numbering [N], K for a class that the model does not have;
            None if nobody can tell which output is which class.
        notes: Notes for the user, in full sentences.
        verdict_sentences: Short sentences for the verdict, only about trust.
        order: Another order of the outputs that fits far better, as plain JSON values; None if there is none.
        chance: The accuracy at chance, if the black box does not exceed it; None if it does.
    """

    predictions: Tensor | None
    notes: list[str] = field(default_factory=list)
    verdict_sentences: list[str] = field(default_factory=list)
    order: dict[str, Any] | None = None
    chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "withheld": self.predictions is None,
            "said": self.verdict_sentences,
            "better_order": self.order,
            "chance": self.chance,
        }


def untested_notes(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Returns a note on the classes without a test sample, of which no figure says anything; none without any."""
    counts = torch.bincount(labels.cpu(), minlength=len(class_names)).tolist()
    untested = [repr(visible(name)) for name, n in zip(class_names, counts, strict=False) if not n]
    if not untested:
        return []
    if len(untested) == 1:
        return [f"{untested[0]} has no test image: no figure says anything of this class"]
    names = ", ".join(untested[:_SHOWN]) + (", …" if len(untested) > _SHOWN else "")
    return [f"{len(untested):,} classes have no test image ({names}): no figure says anything of them"]


def compare_with_labels(labels: Tensor, predicted: Tensor, outputs: Outputs, class_names: Sequence[str]) -> Standing:
    """Compares the predictions of a black box with labels.

    Args:
        labels: True classes [N], in the model's numbering.
        predicted: The black box's predictions [N], as indices of its outputs.
        outputs: How to read the black box's outputs.
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
        return Standing(None, [*notes, _withheld_note(described, how)], [_WITHHELD_SENTENCE], described)
    predictions = classes.classes[predicted]
    chance, sentence = _chance(labels, predictions, len(class_names), outputs.n_classes)
    sentences = [sentence] if sentence else []
    return Standing(predictions, [*notes, *sentences], sentences, None, chance)


def better_order(labels: Tensor, predicted: Tensor, classes: Tensor, class_names: Sequence[str]) -> Tensor | None:
    """Returns another assignment of outputs to classes that fits the labels far better than the one given.

    First come the orders in which common tools sort class folders. Any other candidate is the best assignment on one
    half of the samples, tested on the other half, so that chance in a few samples does not produce one. It must also
    be better on the average class, so that a network that always predicts one class does not count as permuted.

    Args:
        labels: True classes [N].
        predicted: Predicted outputs [N].
        classes: The class of each output [n]; K for a class that the model does not have.
        class_names: K names.

    Returns:
        The class of each output [n]; None if no order is far better.
    """
    halves = [_rank_in_class(labels) % 2 == half for half in (0, 1)]
    if not _could_be_far_better(labels, predicted, classes, halves):
        return None
    for order in _known_orders(class_names, classes):
        if _far_better(labels, [(slice(None), order)], predicted, classes) and _fits_most(
            labels, predicted, classes, order
        ):
            return order
    rows = torch.arange(len(labels))
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
    """Yields the class of each output [n] for the other ways in which tools sort class names."""
    if len(classes) != len(class_names):
        return
    names = list(class_names)
    for order in (natural_order(names), sorted(names), sorted(names, key=str.casefold)):
        candidate = torch.tensor([names.index(name) for name in order])
        if not torch.equal(candidate, classes):
            yield candidate


def _could_be_far_better(labels: Tensor, predicted: Tensor, classes: Tensor, halves: list[Tensor]) -> bool:
    """Returns whether any order, or one for each half, could pass ``_far_better``; nearly all good networks end here.

    An order that moves an output is correct at most on the samples of one other class that went to this output, and
    wrong on those of the given class. All gains together must be significant, and some must pay for their losses.
    """
    n_outputs = len(classes)
    most_gained, pays = 0, False
    for half in halves:
        cells, counts = (labels[half] * n_outputs + predicted[half]).unique(return_counts=True)
        class_of_cell, output = cells // n_outputs, cells % n_outputs
        is_given = classes[output] == class_of_cell
        gained, lost = torch.zeros(2, n_outputs, dtype=torch.int64)
        gained.scatter_reduce_(0, output[~is_given], counts[~is_given], "amax")
        lost[output[is_given]] = counts[is_given]
        most_gained += int(gained.sum())
        pays |= bool(((gained > 0) & (gained >= _RATIO * lost)).any())
    return pays and 0.5**most_gained < _P_VALUE


def _far_better(labels: Tensor, trials: list[tuple[Any, Tensor]], predicted: Tensor, classes: Tensor) -> bool:
    """Returns whether other orders, each tested on its rows, are correct far more often than the given one."""
    gained, lost = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.bool)
    for rows, order in trials:
        y, as_given, reordered = labels[rows], classes[predicted[rows]], order[predicted[rows]]
        gained[rows] = (reordered == y) & (as_given != y)
        lost[rows] = (reordered != y) & (as_given == y)
    n_gained, n_lost = int(gained.sum()), int(lost.sum())
    if n_gained == 0 or n_gained < _RATIO * n_lost:
        return False
    per_class = labels.bincount()
    gains, losses = (labels[mask].bincount(minlength=len(per_class)).double() for mask in (gained, lost))
    if float((gains / per_class.clamp_min(1)).sum()) < _RATIO * float((losses / per_class.clamp_min(1)).sum()):
        return False
    from scipy.stats import binomtest

    return bool(binomtest(n_gained, n_gained + n_lost, 0.5, alternative="greater").pvalue < _P_VALUE)


def _fits_most(labels: Tensor, predicted: Tensor, classes: Tensor, order: Tensor) -> bool:
    """Returns whether the other order is better for most classes that it moves, and for at least two."""
    n = max(int(labels.max()), int(classes.max())) + 1
    correct_as_given, correct_reordered = (
        labels[class_of_output[predicted] == labels].bincount(minlength=n) for class_of_output in (classes, order)
    )
    moved = torch.zeros(n, dtype=torch.bool)
    moved[order[order != classes]] = True
    moved[classes[order != classes]] = True
    moved &= labels.bincount(minlength=n) > 0
    better = int((correct_reordered > correct_as_given)[moved].sum())
    return better >= 2 and better >= _MOVED_BETTER * int(moved.sum())


def _best_assignment(labels: Tensor, predicted: Tensor, classes: Tensor, n_classes: int) -> Tensor | None:
    """Returns the class of each output [n] that maximises the mean accuracy over classes.

    Rows of the matrix are the classes that occur, columns the outputs; an entry is the share of a class's samples that
    go to an output. The linear assignment picks one output per class. An output that loses its class to another output
    takes over one of the classes that became free.
    """
    from scipy.optimize import linear_sum_assignment

    output_of_class = {int(k): output for output, k in enumerate(classes.tolist()) if k < n_classes}
    rows = labels.unique().tolist()
    columns = sorted({*predicted.unique().tolist(), *(output_of_class[k] for k in rows if k in output_of_class)})
    if not rows or max(len(rows), len(columns)) > _LARGEST:
        return None
    row_of, column_of = {k: i for i, k in enumerate(rows)}, {o: i for i, o in enumerate(columns)}
    shares = np.zeros((len(rows), len(columns)))
    np.add.at(shares, ([row_of[k] for k in labels.tolist()], [column_of[o] for o in predicted.tolist()]), 1)
    shares /= shares.sum(1, keepdims=True)
    for k in rows:
        if k in output_of_class:
            shares[row_of[k], column_of[output_of_class[k]]] += _PREFER_GIVEN
    order = classes.clone()
    pairs = list(zip(*linear_sum_assignment(shares, maximize=True), strict=True))
    free_classes = {int(order[columns[column]]) for _, column in pairs} - {rows[row] for row, _ in pairs}
    for row, column in pairs:
        order[columns[column]] = rows[row]
    used_outputs = {columns[column] for _, column in pairs}
    free_outputs = [
        output_of_class[rows[row]]
        for row, _ in pairs
        if rows[row] in output_of_class and output_of_class[rows[row]] not in used_outputs
    ]
    for output, k in zip(free_outputs, sorted(free_classes), strict=False):  # classes that no sample speaks for
        order[output] = k
    return order


def _rank_in_class(labels: Tensor) -> Tensor:
    """Numbers the samples within their classes, from 0 [N]."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(labels)
    ranks[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return ranks


def _describe(
    order: Tensor, labels: Tensor, predicted: Tensor, classes: Tensor, names: Sequence[str]
) -> dict[str, Any]:
    moved_outputs = torch.nonzero((order != classes) & (order < len(names)))[:, 0].tolist()
    counts = torch.zeros(len(order), dtype=torch.int64)
    counts.index_add_(0, predicted, (order[predicted] == labels).long())
    moved_outputs.sort(key=lambda output: (counts[output] == 0, output))  # outputs with correct samples come first
    natural = len(order) == len(names) and [names[k] for k in order.tolist()] == natural_order(names)
    pairs = [
        {
            "output": output,
            "taken_for": [*names, "another class"][int(classes[output])],
            "fits": names[int(order[output])],
        }
        for output in moved_outputs
    ]
    return {
        "accuracy_as_taken": float((classes[predicted] == labels).double().mean()),
        "accuracy_reordered": float((order[predicted] == labels).double().mean()),
        "pairs": pairs,
        "natural": natural,
    }


def _withheld_note(described: dict[str, Any], how: str) -> str:
    pairs = described["pairs"]
    listed = ", ".join(
        f"output {pair['output']} is {pair['fits']!r}, not {pair['taken_for']!r}" for pair in pairs[:_SHOWN]
    )
    ending = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    advice = (
        "this is the order in which timm numbers folders: try --class-order natural (class_order='natural')"
        if described["natural"]
        else "give the order that it was trained with by --class-order (class_order=)"
    )
    return (
        f"the black box's outputs seem to be in another order: taken {how}, it is right on "
        f"{described['accuracy_as_taken']:.1%} of the images, and on {described['accuracy_reordered']:.1%} if "
        f"{listed}{ending}. "
        f"Its accuracy and the agreement with it are withheld; {advice}"
    )


_WITHHELD_SENTENCE = (
    "Agreement with the original and its accuracy are withheld: its outputs seem to be in another order than the "
    "classes (see the note; --class-order)."
)


def _chance(labels: Tensor, predictions: Tensor, n_classes: int, n_outputs: int) -> tuple[float | None, str]:
    """Returns the accuracy at chance and a sentence, if the black box does not beat it; else None and no sentence.

    Chance is the accuracy of predictions with the same class frequencies that ignore the image, or one over the number
    of outputs, if that is more.
    """
    n_correct, n = int((predictions == labels).sum()), len(labels)
    label_shares, predicted_shares = (v.bincount(minlength=n_classes + 1).double() / n for v in (labels, predictions))
    chance = max(float((label_shares * predicted_shares).sum()), 1 / n_outputs)
    observed = share(n_correct, n)
    # of one class alone, guesses of that class are as good as any prediction
    if n_correct == n or n_outputs < 2 or len(labels.unique()) < 2 or observed.low > chance:
        return None, ""
    return chance, (
        f"The black box is right on {observed.value:.1%} of {n} images, which cannot be told from chance "
        f"({chance:.1%}): "
        "are its weights, the order of its classes and the normalisation of the images those that it was trained with?"
    )
