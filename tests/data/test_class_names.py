"""The names of a data set's classes are those of the labels that its samples carry."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from lookalike import LookalikeError
from lookalike.data import Batches


class Samples(Dataset):
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(2), index


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"classes": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"classes": ["a", "b", "c"], "class_to_idx": {"a": 2, "b": 0, "c": 1}}, ["b", "c", "a"]),
        ({"class_to_idx": {"cat": 0, "kitten": 0, "dog": 1}}, ["cat, kitten", "dog"]),
        ({"classes": ["a", "b"], "class_to_idx": {"a": 3, "b": 9}}, None),
        ({"classes": ["a", "b", "c"], "target_transform": lambda k: (k + 1) % 3}, ["c", "a", "b"]),
        ({"classes": ["a", "b", "c"], "target_transform": lambda k: torch.tensor(2 - k)}, ["c", "b", "a"]),
        ({"classes": ["a", "b", "c"], "target_transform": lambda k: k // 2}, ["a, b", "c"]),
        ({"classes": ["a", "b"], "target_transform": lambda k: 7 * k}, None),
        ({"classes": ["a", "b"], "target_transform": lambda k: k["label"]}, None),
        ({"classes": ["a", "b"], "target_transform": None}, ["a", "b"]),
        ({}, None),
    ],
)
def test_names_follow_the_labels(attributes, expected):
    data = Samples(**attributes)
    assert Batches(data).class_names == expected
    assert Batches(Subset(data, [0, 1])).class_names == expected


def test_data_sets_that_are_joined_must_agree():
    first, second = Samples(classes=["a", "b"]), Samples(classes=["b", "a"])
    assert Batches(ConcatDataset([first, first])).class_names == ["a", "b"]
    with pytest.raises(LookalikeError, match=r"number their classes in other ways .*so that a label means another"):
        Batches(ConcatDataset([first, second]))
    assert Batches(ConcatDataset([first, Samples()])).class_names is None
    assert Batches(ConcatDataset([first, Samples(classes=["a", "b", "c"])])).class_names == ["a", "b", "c"]
    assert Batches(ConcatDataset([first, Samples(classes=["0 - a", "1 - b"])])).class_names is None


def test_names_are_found_in_other_forms():
    names = ["b", "a", "c"]
    forms = (
        {"classes": np.array(names)}, {"class_names": tuple(names)}, {"classes": dict(enumerate(names))},
        {"class_to_idx": {name: np.int64(k) for k, name in enumerate(names)}}, {"idx_to_class": dict(enumerate(names))},
        {"features": {"labels": SimpleNamespace(names=names)}}, {"features": {"target": SimpleNamespace(names=names)}},
    )  # fmt: skip
    for form in forms:
        assert Batches(Samples(**form)).class_names == names
