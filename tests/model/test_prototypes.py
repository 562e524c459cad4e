import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike._core.errors import LookalikeError
from lookalike.conversion.survey import Survey, survey
from lookalike.metrics import activation_counts
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import SIMILARITIES, make_similarity


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
def test_counts_are_what_ghosting_counts(name):
    """Counts went by distance where the similarity does not, so that a ghost could have a count."""
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 2
    z = z * torch.rand(60, 1, generator=generator) * 3
    similarity = make_similarity(name).fit(z.numpy(), labels.numpy(), torch.randn(2, 4, generator=generator))
    learned = Prototypes(z[:8].clone() * 2, torch.arange(8) % 2, ["a", "b"])
    found = survey(learned, similarity, z.numpy(), labels.numpy())
    assert torch.equal(found.counts, activation_counts(similarity(z, learned.vectors), labels, learned.labels))


def reference(vectors, owners, z, y, m):
    """The survey, written out with loops."""
    counts, won, won_own = np.zeros(len(vectors), int), np.zeros(len(vectors), int), np.zeros(len(vectors), int)
    spread = [[] for _ in vectors]
    distances = np.linalg.norm(z[:, None] - vectors, axis=2)
    for i in range(len(z)):
        own = [j for j in range(len(vectors)) if owners[j] == y[i]]
        j = min(own, key=lambda j: distances[i, j])
        counts[j] += 1
        spread[j].append(distances[i, j])
        winner = distances[i].argmin()
        won[winner] += 1
        won_own[winner] += owners[winner] == y[i]
    nearest = [
        sorted((i for i in range(len(z)) if y[i] == owners[j]), key=lambda i: distances[i, j])[:m]
        for j in range(len(vectors))
    ]
    return counts, won_own, won, spread, nearest, distances


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 60), per_class=st.integers(1, 3), m=st.integers(1, 6))
def test_equals_a_loop(seed, n, per_class, m):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(n, 4)), np.arange(n) % 3
    vectors, owners = rng.normal(size=(3 * per_class, 4)), np.repeat(np.arange(3), per_class)
    prototypes = Prototypes(torch.from_numpy(vectors), torch.from_numpy(owners), ["a", "b", "c"])
    found = survey(prototypes, make_similarity("l2"), z, y, n_nearest=m)
    counts, won_own, won, spread, nearest, distances = reference(vectors, owners, z, y, m)
    assert found.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(found.purity, won_own / np.where(won, won, np.nan))
    for j, rows in enumerate(nearest):
        assert found.nearest[j, : len(rows)].tolist() == rows
        assert (found.nearest[j, len(rows) :] == -1).all()
        np.testing.assert_allclose(found.distances[j, : len(rows)], distances[rows, j])
        if spread[j]:
            np.testing.assert_allclose(found.quantiles[j], np.quantile(spread[j], np.linspace(0, 1, 101)))
            at_most = [100 * np.mean(np.array(spread[j]) <= distances[i, j] + 1e-12) for i in rows]
            np.testing.assert_allclose(found.percentiles[j, : len(rows)], at_most)


def test_parts_give_the_same_as_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2000, 4)).astype(np.float32), np.arange(2000) % 3
    prototypes = Prototypes(torch.from_numpy(z[:6]), torch.tensor([0, 1, 2, 0, 1, 2]), list("abc"))
    whole = survey(prototypes, make_similarity("l2"), z, y)
    monkeypatch.setattr("lookalike.conversion.survey._CELLS", 1)
    parts = survey(prototypes, make_similarity("l2"), z, y)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_nearest_can_be_of_any_class_and_are_told_by_their_own_numbers():
    z, y = np.array([[0.0], [1.0], [5.0]]), np.array([0, 1, 0])
    prototypes = Prototypes(torch.tensor([[0.9], [0.0]], dtype=torch.float64), torch.tensor([0, 1]), ["a", "b"])
    own = survey(prototypes, make_similarity("l2"), z, y, indices=np.array([10, 20, 30]), n_nearest=2)
    assert own.nearest.tolist() == [[10, 30], [20, -1]]
    any_class = survey(
        prototypes, make_similarity("l2"), z, y, indices=np.array([10, 20, 30]), n_nearest=2, nearest_from="any"
    )
    assert any_class.nearest.tolist() == [[20, 10], [10, 20]]


def test_samples_of_a_class_without_prototypes_stand_behind_none():
    prototypes = Prototypes(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0]), ["a", "b"])
    found = survey(prototypes, make_similarity("l2"), np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 1]))
    assert found.counts.tolist() == [1]
    assert found.purity.tolist() == pytest.approx([1 / 3])


def test_percentiles_of_new_distances():
    z = np.arange(1.0, 102.0)[:, None]
    prototypes = Prototypes(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0]), ["a"])
    found = survey(prototypes, make_similarity("l2"), z, np.zeros(101, dtype=int))
    asked = torch.tensor([[0.5], [1.0], [51.0], [100.5], [101.0], [500.0]], dtype=torch.float64)
    assert found.percentile_of(asked).ravel().tolist() == [0, 0, 50, 99, 100, 100]


def test_nonsense_is_told():
    with pytest.raises(LookalikeError, match="do not fit"):
        Prototypes(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ["a"])
    with pytest.raises(LookalikeError, match="there are 1 classes"):
        Prototypes(torch.zeros(2, 2), torch.tensor([0, 1]), ["a"])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 80), n_parts=st.integers(1, 5), m=st.integers(1, 6))
def test_parts_surveyed_apart_merge_in_any_order(seed, n, n_parts, m):
    rng = np.random.default_rng(seed)
    z, y, names = rng.normal(size=(n, 4)), np.arange(n) % 3, rng.permutation(n) + 7
    prototypes = Prototypes(torch.from_numpy(rng.normal(size=(5, 4))), torch.tensor([0, 0, 1, 1, 2]), list("abc"))
    similarity = make_similarity("l2")
    whole = survey(prototypes, similarity, z, y, indices=names, n_nearest=m)
    parts = []
    for rows in np.array_split(rng.permutation(n), n_parts):
        part = Survey.empty(5, m, prototypes.vectors.dtype)
        part.add(prototypes, similarity, z[rows], y[rows], names[rows])
        parts.append(part)
    merged = Survey.empty(5, m, prototypes.vectors.dtype)
    for part in parts:
        merged.merge(part)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(merged.finish(prototypes).state_dict()[name], tensor, equal_nan=True)


def test_of_equally_near_samples_a_merge_keeps_the_first():
    prototypes = Prototypes(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0]), ["a"])
    merged = Survey.empty(1, 2, torch.float64)
    for index in (5, 3, 9, 1):
        part = Survey.empty(1, 2, torch.float64)
        part.add(prototypes, make_similarity("l2"), np.ones((1, 1)), np.zeros(1, dtype=int), np.array([index]))
        merged.merge(part)
    assert merged.nearest.tolist() == [[1], [3]]
