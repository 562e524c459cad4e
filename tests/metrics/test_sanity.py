"""Sanity checks: randomised weights and labels change explanations, and the model stays as it was."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lookalike import convert, embed, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.encoder import Encoder
from lookalike.metrics import rank_similarity, sanity_check, structural_similarity
from lookalike.metrics.sanity import _likenesses, layers_from_the_head, with_prototypes_of_permuted_labels


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


def test_rank_similarity_is_spearmans_of_absolute_maps():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 5, 5))
    a[0, :2] = 0  # ties
    expected = [spearmanr(np.abs(x).ravel(), np.abs(y).ravel())[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_similarity(torch.from_numpy(a), torch.from_numpy(b)), expected)


@pytest.mark.parametrize("size", [3, 8, 12])
def test_structural_similarity_is_one_for_the_same_map_at_any_scale(size):
    maps = torch.rand(2, size, size)
    assert structural_similarity(maps, -1e-9 * maps).tolist() == pytest.approx([1, 1])
    assert float(structural_similarity(maps, maps.flip(2)).max()) < 0.9


def test_structural_similarity_is_its_formula():
    a, b = torch.rand(2, 1, 7, 7, dtype=torch.float64)
    a, b = a / a.max(), b / b.max()
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)) / (
        (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(correction=0) + b.var(correction=0) + c2)
    )
    assert float(structural_similarity(a, b)) == pytest.approx(float(expected))


def test_layers_run_from_the_head_down_without_the_head(sem, blobs):
    names = [name for name, _ in layers_from_the_head(sem, blobs[0][:2])]
    assert names == ["1", "0"]  # batch norm, convolution; 6 is the head


def test_explanations_change_with_weights_and_labels_and_the_model_stays(sem, net, blobs, untouched):
    x, y = blobs
    store = embed(sem, blobs, progress=False)
    with untouched(net):
        before = sem.prototypes.vectors.clone()
        found = sanity_check(sem, x[:8], train=(store.embeddings, y.numpy()))
        assert torch.equal(sem.prototypes.vectors, before)
    assert found.depths == ["as trained", "prototypes", "1", "0"]
    first, *others = found.likenesses
    assert first.rank == pytest.approx({"likeness": 1, "probability": 1})
    assert first.same_prototype == 1
    assert others[-1].rank["likeness"] < 0.9
    assert found.labels.rank["probability"] < 0.99
    again = sanity_check(sem, x[:8], train=(store.embeddings, y.numpy()))
    assert again == found
    assert sanity_check(sem, x[:8], n_depths=1).depths == ["as trained", "prototypes", "0"]


def test_an_image_without_a_trained_map_says_nothing_and_an_empty_other_map_is_a_change():
    maps, nearest = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(3)
    maps[2] = 0
    same = _likenesses(({"likeness": maps}, nearest), ({"likeness": maps}, nearest))
    assert (same.rank["likeness"], same.structure["likeness"]) == (pytest.approx(1), pytest.approx(1))
    others = maps.clone()
    others[1] = 0
    half = _likenesses(({"likeness": maps}, nearest), ({"likeness": others}, nearest))
    assert (half.rank["likeness"], half.structure["likeness"]) == (pytest.approx(0.5), pytest.approx(0.5))
    with pytest.raises(LookalikeError, match="likeness show no pixel above another in any of 3 images"):
        _likenesses(({"likeness": 0 * maps}, nearest), ({"likeness": maps}, nearest))


def test_maps_that_ignore_the_weights_are_found(blobs):
    """A network that passes its pixels on: no weight below the prototypes can change its maps."""
    x, y = blobs
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64, bias=False), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.fill_(0.1)  # permuted, it stays the same
    sem = convert(Encoder(net, x[:2]), (x + torch.randn_like(x), y), n_prototypes=1, progress=False)
    card = evaluate(sem, blobs, only=("sanity",), n_images=4, composite="epsilon", progress=False)
    rank = [one["rank"]["likeness"] for one in card.details["sanity"][0]["likenesses"]]
    assert rank == pytest.approx([1] * len(rank))  # gradient × input, with a gradient that is the same for all pixels
    told = " ".join(card.verdict())
    assert "hardly change when all its layers are randomised" in told


def test_permuted_labels_make_prototypes_of_mixed_classes(sem, blobs):
    x, y = blobs
    store = embed(sem, blobs, progress=False)
    other = with_prototypes_of_permuted_labels(sem, store.embeddings, y.numpy(), seed=1)
    assert torch.equal(other.prototypes.labels, sem.prototypes.labels)
    assert float((other.predict(x) == y).double().mean()) < 0.7


def test_the_scorecard_has_it_when_asked(sem, blobs, tmp_path):
    plain = evaluate(sem, blobs, only=("diversity",), progress=False)
    assert "sanity" not in plain.details
    card = evaluate(sem, blobs, train=blobs, only=("diversity",), sanity=True, n_images=4, progress=False)
    assert card.details["sanity"][0]["labels"] is not None
    assert any(sentence.startswith("On 4 images, its heat-maps ") for sentence in card.verdict())
    ax = card.plot_sanity()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["as trained", "prototypes", "1", "0"]
    assert len(ax.get_legend().get_texts()) == 6


def test_no_maps_have_no_rank_correlation():
    with pytest.raises(LookalikeError, match="maps"):
        rank_similarity(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))
