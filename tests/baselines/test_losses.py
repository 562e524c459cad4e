"""Every term of the losses against loops over samples and prototypes, and its gradient against differences."""

import math

import numpy as np
import pytest
import torch

from lookalike import LookalikeError
from lookalike.baselines import losses

N, K, L, D = 7, 3, 2, 4
LABELS = torch.arange(K).repeat_interleave(L)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


def _y(rng):
    return torch.randint(0, K, (N,), generator=rng)


def _softmax(row):
    powers = [math.exp(v) for v in row]
    return [p / sum(powers) for p in powers]


def test_clustering_and_separation_take_the_nearest_of_own_and_of_other_classes(rng):
    d, y = torch.rand(N, K * L, generator=rng, dtype=torch.float64), _y(rng)
    own = [min(float(d[i, j]) for j in range(K * L) if LABELS[j] == y[i]) for i in range(N)]
    other = [min(float(d[i, j]) for j in range(K * L) if LABELS[j] != y[i]) for i in range(N)]
    assert float(losses.clustering(d, y, LABELS)) == pytest.approx(np.mean(own))
    assert float(losses.separation(d, y, LABELS)) == pytest.approx(-np.mean(other))


def test_off_class_sparsity_leaves_own_votes_out(rng):
    w = torch.randn(K, K * L, generator=rng, dtype=torch.float64)
    expected = sum(abs(float(w[k, j])) for k in range(K) for j in range(K * L) if LABELS[j] != k)
    assert float(losses.off_class_sparsity(w, LABELS)) == pytest.approx(expected)


def test_cross_entropy_and_reconstruction(rng):
    s, y = torch.randn(N, K, generator=rng, dtype=torch.float64), _y(rng)
    expected = -np.mean([math.log(_softmax(s[i].tolist())[int(y[i])]) for i in range(N)])
    assert float(losses.cross_entropy(s, y)) == pytest.approx(expected)
    a, b = torch.rand(2, 3, 2, 2, generator=rng), torch.rand(2, 3, 2, 2, generator=rng)
    assert float(losses.reconstruction(a, b)) == pytest.approx(float(((a - b) ** 2).sum() / a.numel()))


def test_output_fidelity_is_the_cross_entropy_between_two_softmaxes(rng):
    g, f = (torch.randn(N, K, generator=rng, dtype=torch.float64) for _ in range(2))
    expected = np.mean(
        [
            -sum(p * math.log(q) for p, q in zip(_softmax(f[i].tolist()), _softmax(g[i].tolist()), strict=True))
            for i in range(N)
        ]
    )
    assert float(losses.output_fidelity(g, f)) == pytest.approx(expected)


def test_output_fidelity_sends_no_gradient_to_the_predictor(rng):
    g, f = (torch.randn(N, K, generator=rng, requires_grad=True) for _ in range(2))
    losses.output_fidelity(g, f).backward()
    assert f.grad is None
    assert g.grad is not None


def test_flints_attribute_terms(rng):
    phi = torch.rand(N, 5, generator=rng, dtype=torch.float64) * 3

    def entropy(row):
        return -sum(p * math.log(p) for p in _softmax(row))

    assert float(losses.conciseness(phi)) == pytest.approx(float(phi.sum() / phi.numel()))
    assert float(losses.attribute_entropy(phi)) == pytest.approx(np.mean([entropy(row) for row in phi.tolist()]))
    assert float(losses.attribute_diversity(phi)) == pytest.approx(-entropy(phi.mean(0).tolist()))


def test_a_sample_with_one_attribute_has_no_entropy():
    one = torch.tensor([[1e3, 0.0, 0.0]])
    assert float(losses.attribute_entropy(one)) == pytest.approx(0, abs=1e-6)
    assert float(losses.attribute_diversity(torch.eye(3) * 1e3)) == pytest.approx(-math.log(3))


def test_divergence_from_prototypes(rng):
    mean, log_variance = (torch.randn(N, D, generator=rng, dtype=torch.float64) for _ in range(2))
    p = torch.randn(K * L, D, generator=rng, dtype=torch.float64)
    s, y = torch.rand(N, K * L, generator=rng, dtype=torch.float64) + 0.1, _y(rng)
    rows = []
    for i in range(N):
        total = weight = 0.0
        for j in range(K * L):
            if LABELS[j] == y[i]:
                q = torch.distributions.Normal(mean[i], (0.5 * log_variance[i]).exp())
                kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(p[j], torch.ones(D).double()))
                total += float(s[i, j]) * float(kl.mean())
                weight += float(s[i, j])
        rows.append(total / weight)
    found = losses.divergence_from_prototypes(mean, log_variance, p, s, y, LABELS)
    assert float(found) == pytest.approx(np.mean(rows))


def test_a_gaussian_at_its_only_prototype_diverges_by_nothing():
    p, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([0])
    found = losses.divergence_from_prototypes(
        p.clone(), torch.zeros(1, 2), p, torch.ones(1, 1), torch.tensor([0]), labels
    )
    assert float(found) == pytest.approx(0, abs=1e-6)


def test_orthonormality(rng):
    p = torch.randn(K * L, D, generator=rng, dtype=torch.float64)
    expected = []
    for k in range(K):
        own = p[k * L : (k + 1) * L].numpy()
        own = own - own.mean(0)
        expected.append(np.linalg.norm(own @ own.T - np.eye(L)))
    assert float(losses.orthonormality(p, LABELS)) == pytest.approx(np.mean(expected))
    with pytest.raises(LookalikeError, match="no prototypes"):
        losses.orthonormality(p[:0], LABELS[:0])


@pytest.mark.parametrize(
    ("term", "shape"),
    [
        (lambda x: losses.clustering(x, torch.tensor([0, 1, 2]), LABELS), (3, K * L)),
        (lambda x: losses.separation(x, torch.tensor([0, 1, 2]), LABELS), (3, K * L)),
        (lambda x: losses.off_class_sparsity(x, LABELS), (K, K * L)),
        (lambda x: losses.cross_entropy(x, torch.tensor([0, 1, 2])), (3, K)),
        (lambda x: losses.reconstruction(torch.ones_like(x), x), (2, 3)),
        (lambda x: losses.output_fidelity(x, torch.eye(K, dtype=x.dtype)), (3, K)),
        (losses.conciseness, (3, 5)),
        (losses.attribute_entropy, (3, 5)),
        (losses.attribute_diversity, (3, 5)),
        (lambda x: losses.orthonormality(x, LABELS), (K * L, D)),
        (
            lambda x: losses.divergence_from_prototypes(
                x, 0.3 * x, torch.eye(6, D).to(x), torch.ones(3, 6).to(x), torch.tensor([0, 1, 2]), LABELS
            ),
            (3, D),
        ),
    ],
)
def test_gradients_are_those_of_differences(term, shape, rng):
    x = torch.rand(shape, generator=rng, dtype=torch.float64) + 0.2
    x.requires_grad_()
    assert torch.autograd.gradcheck(term, (x,)) is True
