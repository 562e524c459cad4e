"""What is measured of prototypes and embeddings alone: diversity, attributes, separability, ghosting."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from lookalike._core.errors import LookalikeError
from lookalike.metrics import Ghosting, attribute_representation, correlations, diversity, separability


def test_equal_prototypes_are_one():
    assert diversity(torch.full((5, 5), -3.0)) == pytest.approx(1)


def test_identity_like_similarity_has_a_known_entropy():
    n = 6
    p = math.e / (math.e + n - 1)
    q = 1 / (math.e + n - 1)
    expected = -(p * math.log(p) + (n - 1) * q * math.log(q)) / math.log(n)
    assert diversity(torch.eye(n)) == pytest.approx(expected)
    assert diversity(1e6 * torch.eye(n)) == 0


def test_diversity_equals_numpy_within_classes_too():
    rng = np.random.default_rng(0)
    s, owners = rng.normal(size=(7, 7)), np.array([0, 0, 1, 1, 1, 2, 2])

    def independent(matrix):
        values = []
        for row in matrix:
            p = np.exp(row) / np.exp(row).sum()
            values.append(-(p * np.log(p)).sum() / np.log(len(row)))
        return values

    assert diversity(torch.from_numpy(s)) == pytest.approx(np.mean(independent(s)))
    rows = [v for k in range(3) for v in independent(s[np.ix_(owners == k, owners == k)])]
    found = diversity(torch.from_numpy(s), torch.from_numpy(owners), within="class")
    assert found == pytest.approx(np.mean(rows))


def test_one_prototype_per_class_has_no_diversity_within():
    with pytest.raises(LookalikeError, match="no class has more than one prototype"):
        diversity(torch.eye(3), torch.arange(3), within="class")
    with pytest.raises(LookalikeError, match="only one"):
        diversity(torch.eye(1))


def test_attributes_equal_numpy():
    rng = np.random.default_rng(0)
    train = (rng.random((80, 6)) < 0.3).astype(int)
    train[:, 5] = 1  # constant
    nearest = rng.integers(0, 80, 9)
    found = attribute_representation(torch.from_numpy(train), torch.from_numpy(nearest))
    shown = train[nearest]
    with np.errstate(invalid="ignore"):
        expected = np.abs(
            np.nan_to_num(np.corrcoef(train, rowvar=False)) - np.nan_to_num(np.corrcoef(shown, rowvar=False))
        ).mean()
    assert found.correlation_error == pytest.approx(expected)
    assert found.captured == shown.any(0).sum()
    assert found.missed == np.flatnonzero(~shown.any(0)).tolist()
    everything = attribute_representation(torch.from_numpy(train), torch.arange(80))
    assert everything.correlation_error == pytest.approx(0)
    assert correlations(torch.from_numpy(train))[5].abs().max() == 0


def test_attributes_of_other_rows_are_an_error():
    with pytest.raises(LookalikeError, match="rows 0 to 3"):
        attribute_representation(torch.zeros(4, 2), torch.tensor([4]))


def test_separability_of_blobs_and_of_overlap():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [10.5, 0]])
    y = np.repeat([0, 1, 2], 60)
    z = (centres[y] + rng.normal(size=(180, 2))).astype(np.float32)
    found = separability(z, y, torch.tensor(centres, dtype=torch.float32), torch.arange(3))
    expected = silhouette_samples(z, y)
    for one in found:
        assert one.silhouette == pytest.approx(expected[y == one.label].mean(), abs=1e-5)
        own = np.linalg.norm(z[y == one.label] - centres[one.label], axis=1)
        others = np.delete(centres, one.label, 0)
        rival = np.linalg.norm(z[y == one.label][:, None] - others, axis=2).min(1)
        assert one.margin == pytest.approx(((rival - own) / (rival + own)).mean(), abs=1e-5)
        assert one.overlap == pytest.approx((rival < own).mean())
    assert found[0].overlap == 0
    assert min(found[1].overlap, found[2].overlap) > 0.2
    assert (found[1].rival, found[2].rival) == (2, 1)


def test_overlap_is_a_share_of_all_samples_however_unequal_the_classes():
    """With 300 of each class, this overlap was printed as 25%."""
    z = np.concatenate([np.zeros(19_000), np.r_[np.full(300, 1.0), np.full(500, 0.1)]])[:, None].astype(np.float32)
    y = np.repeat([0, 1], [19_000, 800])
    found = separability(z, y, torch.tensor([[0.0], [1.0]]), torch.arange(2))
    assert [one.n for one in found] == [19_000, 800]
    assert found[1].overlap == pytest.approx(500 / 800)
    assert sum(one.overlap * one.n for one in found) / len(y) == pytest.approx(500 / 19_800)


def test_all_rivals_that_tie_are_kept():
    z = np.array([[-0.1], [0.1], [-1.0], [1.0]], np.float32)  # class 0 is between its two rivals
    found = separability(z, np.array([0, 0, 1, 2]), torch.tensor([[0.0], [-1.0], [1.0]]), torch.arange(3))
    assert [(one.rival, one.also_rival) for one in found] == [(1, [2]), (0, []), (0, [])]


def test_separability_of_a_single_class_has_no_rival():
    (found,) = separability(np.zeros((4, 2), np.float32), np.zeros(4, int), torch.zeros(1, 2), torch.zeros(1).long())
    assert found.rival is None
    assert found.to_dict()["silhouette"] is None


def test_ghosting_accumulates():
    owners = torch.tensor([0, 0, 1, 1])
    metric = Ghosting(owners)
    metric.update(torch.tensor([[9.0, 1, 2, 2]]), torch.tensor([0]))
    assert float(metric.compute()) == 0.75
    metric.update(torch.tensor([[0.0, 0, 5, 4], [0.0, 1, 0, 9]]), torch.tensor([1, 1]))
    assert float(metric.compute()) == 0.25
    assert metric.counts.shape == (4,)
