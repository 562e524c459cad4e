import numpy as np
import pytest
import torch

from lookalike import convert
from lookalike._core.errors import LookalikeError
from lookalike.metrics import prototype_likeness, prototype_stability
from lookalike.model.prototypes import Prototypes


def test_stability_matches_prototypes_within_their_class():
    z = torch.tensor([[0.0], [1.0], [10.0], [11.0], [100.0], [102.0]])
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    first = Prototypes(torch.tensor([[0.5], [10.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    swapped = Prototypes(torch.tensor([[10.5], [0.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert prototype_likeness(first, swapped, z, y) == (0.0, 1.0)
    moved = Prototypes(torch.tensor([[0.5], [10.5], [104.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    distance, _ = prototype_likeness(first, moved, z, y)
    assert distance == pytest.approx((0 + 0 + 3) / 3 / ((4 * 0.5 + 2 * 1) / 6))
    other = Prototypes(torch.tensor([[-20.0], [5.0], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert prototype_likeness(first, other, z, y)[1] < 1


def test_reclustering_finds_clusters_that_are_there():
    """Three far clusters per class: any seed and any bootstrap sample finds them; the model is not touched."""
    rng = np.random.default_rng(0)
    centres = np.array([[100.0 * i + 1000 * k, 0.0] for k in range(2) for i in range(3)], np.float32)
    z = (centres[:, None] + 0.1 * rng.standard_normal((6, 30, 2))).reshape(-1, 2).astype(np.float32)
    y = np.repeat([0, 0, 0, 1, 1, 1], 30)
    model = clustered(z, y)
    before = model.prototypes.vectors.clone()
    for change in ("seed", "bootstrap"):
        found = prototype_stability(model, z, y, change, n_repeats=2)
        assert found.same_cluster == (1.0, 1.0)
        assert max(found.moved) < 1
    assert torch.equal(model.prototypes.vectors, before)


def test_prototypes_that_were_not_clustered_are_refused():
    z, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    model = clustered(z, y)
    model.provenance.clear()
    with pytest.raises(LookalikeError, match="not by clustering"):
        prototype_stability(model, z, y)


def clustered(z, y):
    """KMEx of a network that passes its inputs on."""
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(z.shape[1], 2))
    with torch.no_grad():
        network[1].weight.zero_()
    return convert(network, (torch.from_numpy(z), torch.from_numpy(y)), n_prototypes=3 if len(z) > 4 else 1)


def test_prototypes_of_other_classes_do_not_stand_in():
    """The second model's prototype of 'a' has moved; that of 'b' lies where it was, and is of another class."""
    z, y = torch.tensor([[0.0], [1.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])
    names, labels = ["a", "b"], torch.tensor([0, 1])
    first = Prototypes(torch.tensor([[0.5], [11.0]]), labels, names)
    second = Prototypes(torch.tensor([[4.5], [0.5]]), labels, names)
    distance, _ = prototype_likeness(first, second, z, y)
    assert distance == pytest.approx((4 + 10.5) / 2 / ((2 * 0.5 + 2 * 1) / 4))


def test_one_repetition_is_enough_and_none_is_refused():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((12, 2)).astype(np.float32)
    y = np.repeat([0, 1], 6)
    model = clustered(z, y)
    assert len(prototype_stability(model, z, y, n_repeats=1).moved) == 1
    with pytest.raises(LookalikeError, match="n_repeats"):
        prototype_stability(model, z, y, n_repeats=0)
