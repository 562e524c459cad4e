import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from lookalike._core.errors import LookalikeError
from lookalike.conversion.automatic_number import choose_n_clusters
from lookalike.conversion.clustering import CLUSTERERS, assign, cluster, count_distinct


def modes(n=300, k=4, dim=8, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, dim)) * 4
    labels = np.arange(n) % k
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


@pytest.mark.parametrize("method", list(CLUSTERERS))
def test_finds_well_separated_modes(method):
    points, truth = modes()
    found = cluster(points, 4, method)
    pairs = {(int(a), int(b)) for a, b in zip(found.labels, truth, strict=True)}
    assert len(pairs) == 4  # one cluster per mode and one mode per cluster


@pytest.mark.parametrize("method", list(CLUSTERERS))
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), k=st.integers(1, 6), repeats=st.integers(1, 4))
def test_no_cluster_is_empty_and_every_point_goes_to_its_nearest_centre(method, seed, n, k, repeats):
    rng = np.random.default_rng(seed)
    points = np.repeat(rng.integers(-3, 3, size=(n, 2)).astype(np.float32), repeats, axis=0)
    found = cluster(points, k, method, n_init=2, seed=seed)
    n_distinct = len(np.unique(points, axis=0))
    assert len(found.centres) == min(k, n_distinct)
    assert np.bincount(found.labels, minlength=len(found.centres)).min() > 0
    distances = np.linalg.norm(points[:, None] - found.centres, axis=2)
    np.testing.assert_allclose(distances[np.arange(len(points)), found.labels], distances.min(1), atol=1e-3)
    np.testing.assert_allclose(found.inertia, (distances.min(1) ** 2).sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", list(CLUSTERERS))
@pytest.mark.parametrize("noise", [1e-8, 1e-7, 1e-6, 1e-5])
def test_points_that_differ_by_rounding_alone_make_fewer_clusters(method, noise):
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(2, 8)), 4, 0) + noise * rng.normal(size=(8, 8))
    found = cluster(points.astype(np.float32), 5, method)
    assert 2 <= len(found.centres) <= 5
    assert np.bincount(found.labels, minlength=len(found.centres)).min() > 0
    assert not set(found.labels[:4]) & set(found.labels[4:])


@pytest.mark.parametrize("method", list(CLUSTERERS))
def test_same_seed_same_bits(method):
    points, _ = modes(spread=3.0)
    first, second = (cluster(points, 5, method, seed=7) for _ in range(2))
    assert first.centres.tobytes() == second.centres.tobytes()


HARD = np.random.default_rng(0).uniform(size=(150, 2)).astype(np.float32)  # one cloud: each start ends elsewhere


@pytest.mark.parametrize("method", list(CLUSTERERS))
def test_another_seed_starts_elsewhere(method):
    found = {cluster(HARD, 20, method, n_init=1, seed=seed).inertia for seed in range(4)}
    assert len(found) > 1


@pytest.mark.parametrize("method", list(CLUSTERERS))
def test_more_starts_find_better_clusters(method):
    few, many = ([cluster(HARD, 20, method, n_init=n, seed=seed).inertia for seed in range(6)] for n in (1, 25))
    if method in ("bisecting", "gmm"):  # its last step need not follow the starts' order
        assert few != many
    else:
        assert np.mean(many) < np.mean(few)


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_is_as_good_as_scikit_learns_and_its_centres_are_means(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(600, 16)).astype(np.float32)
    found = cluster(points, 5, seed=seed)
    peer = KMeans(5, n_init=10, random_state=seed).fit(points)
    assert found.inertia <= peer.inertia_ * 1.01
    for j, centre in enumerate(found.centres):
        np.testing.assert_allclose(centre, points[found.labels == j].mean(0), atol=1e-5)


def test_kmedoids_are_points_and_better_than_random_ones():
    points, _ = modes(n=700, k=3, spread=1.0)
    found = cluster(points, 3, "kmedoids")
    assert all((points == centre).all(1).any() for centre in found.centres)
    rng = np.random.default_rng(0)
    cost = np.sqrt(assign(points, found.centres)[1]).sum()
    for _ in range(20):
        assert cost <= np.sqrt(assign(points, points[rng.choice(700, 3, replace=False)])[1]).sum()


@pytest.mark.parametrize("centre", [0, 7])
def test_a_single_medoid_is_the_exact_minimiser(centre):
    points = np.random.default_rng(0).normal(size=(50, 3)) + centre
    sums = np.linalg.norm(points[:, None] - points, axis=2).sum(1)
    np.testing.assert_array_equal(cluster(points, 1, "kmedoids").centres[0], points[sums.argmin()])


def test_double_precision_stays():
    points, _ = modes()
    assert cluster(points.astype(np.float64), 3).centres.dtype == np.float64


def test_the_automatic_number_follows_the_structure():
    assert choose_n_clusters(modes(k=3)[0]) == 3
    assert choose_n_clusters(modes(k=6, n=600)[0]) == 6
    rng = np.random.default_rng(0)
    assert choose_n_clusters(rng.normal(size=(500, 8)).astype(np.float32)) == 1  # one cloud keeps one prototype
    assert choose_n_clusters(rng.normal(size=(500, 2)).astype(np.float32)) == 1
    assert choose_n_clusters(np.ones((20, 4), dtype=np.float32)) == 1


def test_few_images_get_several_clusters_only_if_each_has_three():
    rng = np.random.default_rng(0)
    centres = 8 * rng.normal(size=(6, 64))

    def objects(n_pictures):
        """Pictures of six objects, which lie far apart from each other and close together."""
        return (np.repeat(centres, n_pictures, 0) + rng.normal(size=(6 * n_pictures, 64)) / 8).astype(np.float32)

    assert choose_n_clusters(objects(5)) == 6
    assert choose_n_clusters(objects(2)) == 3  # of four or more would some hold two pictures of one object, and no more
    clouds = [rng.normal(size=(20, 64)).astype(np.float32) for _ in range(8)]
    assert [choose_n_clusters(cloud) for cloud in clouds] == [1] * 8  # no clusters by chance


def test_distinct_rows_are_counted_up_to_a_limit():
    points = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert count_distinct(points, at_most=10) == 3
    assert count_distinct(points, at_most=2) == 2


@pytest.mark.parametrize(
    ("points", "k", "method", "message"),
    [
        (np.ones((3, 2)), 0, "kmeans", "at least 1"),
        (np.ones((0, 2)), 2, "kmeans", "points must not be empty"),
        (np.ones((3, 2)), 2, "kmeens", "did you mean 'kmeans'"),
    ],
)
def test_wrong_requests_are_told(points, k, method, message):
    with pytest.raises(LookalikeError, match=message):
        cluster(points, k, method)


@pytest.mark.parametrize("method", list(CLUSTERERS))
@pytest.mark.parametrize("exponent", [-140, 62])
def test_points_of_any_size_have_the_clusters_of_ordinary_ones(method, exponent):
    """Squares of the numbers overflow or vanish in single precision: a library aborted the process over them."""
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    points = np.ldexp(np.round(np.ldexp(points, 8)), -8)  # few digits, so that the smallest numbers keep them all
    plain, scaled = cluster(points, 3, method), cluster(np.ldexp(points, exponent), 3, method)
    assert np.array_equal(plain.labels, scaled.labels)
    np.testing.assert_allclose(np.ldexp(scaled.centres, -exponent), plain.centres, atol=2**-5)
    assert scaled.inertia == pytest.approx(np.ldexp(plain.inertia, 2 * exponent))


def test_each_medoid_is_that_of_its_cluster():
    """The search goes on until no medoid moves: from any start the members' own medoid is the centre."""
    rng = np.random.default_rng(3)
    points = rng.normal(size=(120, 2)) * [1, 3]
    found = cluster(points, 4, "kmedoids", n_init=1, seed=5)
    for centre, members in ((found.centres[j], points[found.labels == j]) for j in range(4)):
        sums = np.linalg.norm(members[:, None] - members, axis=2).sum(1)
        np.testing.assert_allclose(centre, members[sums.argmin()])
