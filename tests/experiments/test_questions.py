import numpy as np
import pytest
import torch

from lookalike import LookalikeError
from lookalike.data import DataBundle
from lookalike.experiments.questions import in_proportion, stability, thinned
from lookalike.prototypes import Prototypes
from tests.baselines.test_training import make_bundle


def test_classes_are_thinned_geometrically_and_the_test_images_stay():
    data = make_bundle(300)
    found = thinned(data, 100, seed=0)
    assert np.bincount(found.train.labels).tolist() == [100, 10, 1]
    assert found.test is data.test
    assert np.bincount(thinned(data, 1, seed=0).train.labels).tolist() == [100, 100, 100]
    assert not np.array_equal(thinned(data, 10, seed=0).train.images, thinned(data, 10, seed=1).train.images)
    listed = DataBundle("x", [(torch.zeros(1), 0)], [], ["a"], data.preprocessing)
    with pytest.raises(LookalikeError, match="takes data held in memory"):
        thinned(listed, 10, seed=0)


def test_prototypes_in_proportion_have_the_same_number_in_all_and_one_at_least():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    assert in_proportion(labels, ["a", "b", "c"]) == {"a": 14, "b": 1, "c": 1}
    assert in_proportion(np.repeat([0, 1], 7), ["a", "b"], per_class=3) == {"a": 3, "b": 3}


def test_stability_matches_prototypes_within_their_class():
    z = torch.tensor([[0.0], [1.0], [10.0], [11.0], [100.0], [102.0]])
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    first = Prototypes(torch.tensor([[0.5], [10.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    swapped = Prototypes(torch.tensor([[10.5], [0.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert stability(first, swapped, z, y) == (0.0, 1.0)
    moved = Prototypes(torch.tensor([[0.5], [10.5], [104.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    distance, _ = stability(first, moved, z, y)
    assert distance == pytest.approx((0 + 0 + 3) / 3 / ((4 * 0.5 + 2 * 1) / 6))
    other = Prototypes(torch.tensor([[-20.0], [5.0], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert stability(first, other, z, y)[1] < 1
