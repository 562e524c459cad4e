import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from lookalike import convert
from lookalike._core.errors import LookalikeError
from lookalike.model.similarity import SIMILARITIES, make_similarity

GENERATOR = np.random.default_rng(0)
TRAIN = GENERATOR.normal(size=(80, 6)) @ GENERATOR.normal(size=(6, 6)) + 3
LABELS = np.arange(80) % 4
HEAD = torch.from_numpy(GENERATOR.normal(size=(4, 6)))

NAMES = list(SIMILARITIES)
DISTANCE_BASED = ["l2", "sqeuclidean", "l1", "log", "log-l2", "rbf", "mahalanobis", "head"]


def fitted(name):
    return make_similarity(name).fit(TRAIN, LABELS, HEAD)


def within_class_scale():
    """The root of the mean squared distance between a training embedding and its class's mean."""
    means = {k: TRAIN[k == LABELS].mean(0) for k in range(4)}
    return np.sqrt(np.mean([np.sum((row - means[k]) ** 2) for row, k in zip(TRAIN, LABELS, strict=True)]))


def naive(name, z, p, similarity):
    """Each similarity for one pair of vectors, written out with loops."""
    d = np.sqrt(sum((a - b) ** 2 for a, b in zip(z, p, strict=True)))
    match name:
        case "l2":
            return -d
        case "sqeuclidean":
            return -(d**2)
        case "l1":
            return -sum(abs(a - b) for a, b in zip(z, p, strict=True))
        case "log":
            d = d / within_class_scale()
            return np.log((d**2 + 1) / (d**2 + 1e-4))
        case "log-l2":
            d = d / within_class_scale()
            return np.log((d + 1) / (d + 1e-4))
        case "rbf":
            return np.exp(-(d**2) / (2 * within_class_scale() ** 2))
        case "dot":
            return sum(a * b for a, b in zip(z, p, strict=True))
        case "cosine":
            return np.dot(z, p) / (np.linalg.norm(z) * np.linalg.norm(p))
        case "ned":
            return -0.5 * np.var(z - p) / (np.var(z) + np.var(p))
        case "mahalanobis":
            residuals = np.concatenate([TRAIN[k == LABELS] - TRAIN[k == LABELS].mean(0) for k in range(4)])
            covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
            return -np.sqrt((z - p) @ np.linalg.inv(covariance) @ (z - p))
        case "head":
            weight = HEAD.numpy() - HEAD.numpy().mean(0)
            gram = weight.T @ weight
            metric = gram + similarity.alpha * np.trace(gram) / 6 * np.eye(6)
            return -np.sqrt((z - p) @ metric @ (z - p))
    raise AssertionError(name)


def test_there_are_the_eleven_of_the_method():
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_equals_a_naive_loop(name):
    rng = np.random.default_rng(1)
    z, p = rng.normal(size=(7, 6)), rng.normal(size=(5, 6))
    similarity = fitted(name)
    expected = [[naive(name, a, b, similarity) for b in p] for a in z]
    found = similarity(torch.from_numpy(z), torch.from_numpy(p))
    assert found.shape == (7, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DISTANCE_BASED)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), offset=st.floats(-50, 50), n=st.integers(1, 9))
def test_distances_are_symmetric_shift_invariant_and_greatest_at_the_same_point(name, seed, offset, n):
    rng = np.random.default_rng(seed)
    z, p = (torch.from_numpy(rng.normal(size=(n, 6))) for _ in range(2))
    similarity = fitted(name)
    s = similarity(z, p)
    torch.testing.assert_close(s, similarity(p, z).T)
    torch.testing.assert_close(similarity(z + offset, p + offset), s, rtol=1e-6, atol=1e-6)
    own = similarity(z, z)
    assert (own.diagonal()[:, None] >= own - 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), p=st.integers(1, 6))
def test_rows_do_not_depend_on_each_other_and_ranges_hold(name, seed, n, p):
    rng = np.random.default_rng(seed)
    z, q = torch.from_numpy(rng.normal(size=(n, 6))), torch.from_numpy(rng.normal(size=(p, 6)))
    similarity = fitted(name)
    s = similarity(z, q)
    torch.testing.assert_close(torch.cat([similarity(row[None], q) for row in z]), s)
    low, high = {"cosine": (-1, 1), "ned": (-1, 0), "rbf": (0, 1), "dot": (-np.inf, np.inf)}.get(
        name, (0, np.inf) if name.startswith("log") else (-np.inf, 0)
    )
    assert low - 1e-9 <= float(s.min()) <= float(s.max()) <= high + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right_and_finite_even_on_a_prototype(name):
    rng = np.random.default_rng(2)
    z = torch.from_numpy(rng.normal(size=(3, 6))).requires_grad_()
    p = torch.from_numpy(rng.normal(size=(2, 6))).requires_grad_()
    similarity = fitted(name)
    assert torch.autograd.gradcheck(similarity, (z, p), atol=1e-5)
    same = p.detach().clone().requires_grad_()
    similarity(same, p).sum().backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("name", ["l2", "mahalanobis", "dot", "cosine", "ned"])
def test_half_precision_and_mixed_types_are_accepted(name):
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    similarity = fitted(name)
    torch.testing.assert_close(similarity(z, z[:2].double()), similarity(z, z[:2]), rtol=1e-3, atol=1e-3)
    assert similarity(z.bfloat16(), z[:2]).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_many_pairs_give_what_few_do(name, monkeypatch):
    rng = np.random.default_rng(3)
    z, p = torch.from_numpy(rng.normal(size=(9, 6))), torch.from_numpy(rng.normal(size=(5, 6)))
    similarity = fitted(name)
    few = similarity(z, p)
    monkeypatch.setattr("lookalike.model.similarity._DIRECT_CELLS", 0)
    torch.testing.assert_close(similarity(z, p), few)
    a, b = z.clone().requires_grad_(), z[:4].clone().requires_grad_()
    similarity(a, b).sum().backward()
    assert a.grad.isfinite().all()
    assert torch.autograd.gradcheck(similarity, (a[4:].detach().requires_grad_(), b), atol=1e-5)


def test_a_large_common_offset_costs_no_digits(monkeypatch):
    z = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    similarity = make_similarity("l2")
    for cells in (0, 10**6):
        monkeypatch.setattr("lookalike.model.similarity._DIRECT_CELLS", cells)
        torch.testing.assert_close(similarity(z + 1000, z[:3] + 1000), similarity(z, z[:3]), rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("name", ["mahalanobis", "head"])
def test_learned_metrics_are_euclidean_in_their_space_and_invertible(name):
    similarity = fitted(name)
    z = torch.from_numpy(TRAIN[:9])
    space = similarity.project(z)
    torch.testing.assert_close(-torch.cdist(space, space[:4]), similarity(z, z[:4]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(similarity.unproject(space), z)


@pytest.mark.parametrize("name", NAMES)
def test_falling_with_distance_means_that_the_nearest_is_the_most_similar(name):
    rng = np.random.default_rng(4)
    z, p = torch.from_numpy(rng.normal(size=(200, 6))), torch.from_numpy(rng.normal(size=(9, 6)) * 3)
    similarity = fitted(name)
    nearest = torch.cdist(similarity.project(z), similarity.project(p)).argmin(1)
    assert torch.equal(similarity(z, p).argmax(1), nearest) or not similarity.falls_with_distance
    far = (
        torch.from_numpy(rng.normal(size=(200, 6)) * 3000).float(),
        torch.from_numpy(rng.normal(size=(9, 6)) * 3000).float(),
    )
    if similarity.falls_with_distance or name.startswith("log"):  # no digits lost far away
        exact = torch.cdist(*(similarity.project(side.double()) for side in far)).argmin(1)
        assert float((similarity(*far).argmax(1) == exact).float().mean()) > 0.99


def test_mahalanobis_makes_the_within_class_scatter_round():
    similarity = make_similarity("mahalanobis", {"shrinkage": 0.0}).fit(TRAIN, LABELS)
    residuals = np.concatenate([TRAIN[k == LABELS] - TRAIN[k == LABELS].mean(0) for k in range(4)])
    white = similarity.project(torch.from_numpy(residuals)).numpy()
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(6), atol=1e-8)


def test_mahalanobis_of_fewer_samples_than_dimensions_equals_scikit_learns_shrunk_covariance():
    from sklearn.covariance import empirical_covariance, shrunk_covariance

    z = np.random.default_rng(0).normal(size=(12, 20)) * np.linspace(1, 3, 20)
    labels = np.arange(12) % 3
    similarity = make_similarity("mahalanobis").fit(z, labels)
    residuals = np.stack([row - z[labels == k].mean(0) for row, k in zip(z, labels, strict=True)])
    covariance = shrunk_covariance(empirical_covariance(residuals, assume_centered=True), similarity.shrinkage)
    transform = similarity.transform.numpy()
    np.testing.assert_allclose(transform.T @ transform, np.linalg.inv(covariance), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("n", "dim"), [(12, 40), (40, 12), (5_000, 6), (9, 1), (1, 3)])
def test_the_estimated_shrinkage_is_scikit_learns(n, dim):
    from sklearn.covariance import ledoit_wolf_shrinkage

    from lookalike.model.covariance import ledoit_wolf

    x = np.random.default_rng(n).normal(size=(n, dim)) * np.linspace(1, 3, dim)
    x -= x.mean(0)
    with warnings.catch_warnings(action="ignore"):  # of a single sample
        expected = float(ledoit_wolf_shrinkage(x, assume_centered=True))
    assert ledoit_wolf(x) == pytest.approx(expected, abs=1e-10)


def test_fitting_and_projecting_at_once_is_projecting_after_the_fit():
    rng = np.random.default_rng(0)
    labels, z = np.arange(12) % 3, torch.from_numpy(rng.normal(size=(9, 20)))
    for train in (rng.normal(size=(12, 20)), rng.normal(size=(12, 20)) @ np.eye(20, 5)):
        for options in ({}, {"shrinkage": 0.3}):
            both = make_similarity("mahalanobis", options)
            z_of_train = z[:, : train.shape[1]]
            torch.testing.assert_close(
                both.fit_and_project(train, labels, None, z_of_train),
                make_similarity("mahalanobis", options).fit(train, labels).project(z_of_train),
            )


def test_memory_stays_far_below_all_pairs_and_dimensions():
    # 20,000 × 500 × 256 floats would take 10 GB; the distances alone take 40 MB
    import resource

    z, p = torch.randn(20_000, 256), torch.randn(500, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("l2", "l1", "ned", "cosine"):
        make_similarity(name)(z, p)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("l3", {}, "no similarity is called 'l3'"),
        ("rbf", {"sigma": -1.0}, "sigma must be a number above 0"),
        ("log", {"epsilon": 2.0}, "epsilon must be a number above 0 and below 1"),
        ("head", {"alpha": 0.0}, "alpha must be a number above 0"),
        ("mahalanobis", {"shrinkage": 2.0}, "shrinkage must be a number from 0 to 1"),
        ("l2", {"sigma": 1.0}, "'l2' does not take"),
    ],
)
def test_wrong_names_and_options_are_told(name, options, message):
    with pytest.raises(LookalikeError, match=message):
        make_similarity(name, options)


def test_unfitted_and_headless_metrics_say_so():
    z = torch.zeros(2, 6)
    for name in ("mahalanobis", "head", "rbf"):
        with pytest.raises(LookalikeError, match="must be fitted"):
            make_similarity(name)(z, z)
    with pytest.raises(LookalikeError, match="there is none"):
        make_similarity("head").fit(TRAIN, LABELS)
    with pytest.raises(LookalikeError, match="takes 5 features"):
        make_similarity("head").fit(TRAIN, LABELS, torch.ones(3, 5))


def test_a_direction_that_never_varies_needs_shrinkage():
    flat = TRAIN.copy()
    flat[:, 0] = 1.0
    with pytest.raises(LookalikeError, match="use a larger shrinkage"):
        make_similarity("mahalanobis", {"shrinkage": 0.0}).fit(flat, LABELS)
    z = torch.from_numpy(flat)
    assert make_similarity("mahalanobis").fit(flat, LABELS)(z, z[:3]).isfinite().all()
    pair = np.random.default_rng(0).normal(size=(2, 6))  # the estimate of a single pair is no shrinkage at all
    with pytest.raises(LookalikeError, match="some direction of the embedding never varies"):
        make_similarity("mahalanobis").fit(pair, np.zeros(2))


@pytest.mark.parametrize("name", ["l2", "dot", "cosine", "ned", "mahalanobis"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_precision_decides_by_single_precision(net, blobs, name, dtype):
    model = convert(net.to(dtype), blobs, n_prototypes=3, similarity=name, progress=False)
    z = model.embed(blobs[0])
    for decided in (model.similarities_of, model.scores_of, model.distances_of, model.probabilities_of):
        assert torch.equal(decided(z.to(dtype)), decided(z.to(dtype).float()))
        assert decided(z.to(dtype)).dtype is torch.float32
    assert torch.equal(model.predict(blobs[0]), model.scores_of(z.float()).argmax(1))
