"""Prototypes whose decisions are mostly wrong are named at the top of a report."""

from types import SimpleNamespace

import torch

from lookalike.report.examples import Decisions
from lookalike.report.summary import _often_wrong


class Prototypes:
    """Two of each of three classes."""

    def __len__(self):
        return 6

    def class_of(self, number):
        return "abc"[number // 2]


def material(labels, predicted, nearest):
    decisions = Decisions(torch.tensor(labels), torch.tensor(predicted), None, torch.tensor(nearest))
    return SimpleNamespace(decisions=decisions, model=SimpleNamespace(prototypes=Prototypes(), has_patches=False))


def test_one_prototype():
    found = _often_wrong(material([0, 0, 0, 1, 1], [1, 1, 0, 1, 1], [2, 2, 0, 2, 3]))
    assert found.claim == (
        "Of the prototypes that decide at least 3 test images, one decides most of them wrongly: no. 2 of class 'b', "
        "2 of 3."
    )
    assert found.level == "info"


def test_several_the_worst_first_and_three_of_them_named():
    labels = [0] * 3 + [1] * 4 + [2] * 3 + [0] * 5
    nearest = [2] * 3 + [4] * 4 + [0] * 3 + [5] * 5
    predicted = [1] * 3 + [2] * 4 + [0] * 3 + [2] * 5
    assert _often_wrong(material(labels, predicted, nearest)).claim == (
        "Of the prototypes that decide at least 3 test images, 4 decide most of them wrongly: no. 5 of class 'c', "
        "5 of 5; "
        "no. 4 of class 'c', 4 of 4; no. 0 of class 'a', 3 of 3; and 1 more."
    )


def test_half_of_the_decisions_or_two_images_are_not_enough():
    assert _often_wrong(material([0, 0, 1, 1, 0], [1, 1, 1, 1, 0], [2, 2, 2, 2, 0])) is None
    assert _often_wrong(material([0, 0], [1, 1], [2, 2])) is None
