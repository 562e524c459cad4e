"""The shrinkage of few samples' covariance is chosen by leaving out, in closed form and for the better."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.datasets import make_classification

from lookalike import PrototypeClassifier
from lookalike.model.shrinkage import _LeftOut, least_confusing_shrinkage
from lookalike.model.similarity import make_similarity


def clouds(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    z = rng.standard_normal((n, dim)) * np.linspace(0.1, 3, dim)
    z[:, 0] += 3 * labels
    return z, labels


def distances_without(z, labels, i, amount):
    """Squared distances of one sample to the class means of the others, by their shrunk covariance."""
    others, classes = np.delete(z, i, 0), np.delete(labels, i)
    means = np.stack([others[classes == k].mean(0) for k in np.unique(labels)])
    residuals = others - means[classes]
    covariance = residuals.T @ residuals / len(others)
    dim = z.shape[1]
    covariance = (1 - amount) * covariance + amount * np.trace(covariance) / dim * np.eye(dim)
    return [(z[i] - mean) @ np.linalg.solve(covariance, z[i] - mean) for mean in means]


@pytest.mark.parametrize(("n", "dim"), [(20, 30), (40, 8), (24, 24)])
def test_leaving_out_equals_fitting_again_without_each_sample(n, dim):
    z, labels = clouds(n, dim)
    left_out = _LeftOut.of(z + 100, labels)
    for amount in (0.1, 0.9, 1.0):
        found = np.square(left_out.distances(amount))
        expected = [distances_without(z, labels, i, amount) for i in range(n)]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_few_samples_are_classified_better_than_by_ledoit_and_wolfs_shrinkage():
    gains, over_euclidean = [], []
    for seed in range(3):
        z, labels = make_classification(
            1_000, 300, n_informative=20, n_redundant=50, n_classes=5, n_clusters_per_class=1, class_sep=2,
            random_state=seed,
        )  # fmt: skip
        few, few_labels, test, true = z[:150], labels[:150], z[150:], labels[150:]
        residuals = few - np.stack([few[few_labels == k].mean(0) for k in few_labels])
        fixed = make_similarity("mahalanobis", {"shrinkage": ledoit_wolf_shrinkage(residuals, assume_centered=True)})
        accuracy = {
            name: PrototypeClassifier(1, similarity=similarity, temperature=1.0).fit(few, few_labels).score(test, true)
            for name, similarity in (("chosen", "mahalanobis"), ("fixed", fixed), ("l2", "l2"))
        }
        gains.append(accuracy["chosen"] - accuracy["fixed"])
        over_euclidean.append(accuracy["chosen"] - accuracy["l2"])
    assert np.mean(gains) > 0.01
    assert np.mean(over_euclidean) > 0.03


def test_the_choice_follows_what_the_samples_show():
    """Where every direction varies alike there is little to learn; where one hides the classes, there is."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    round_clouds = rng.standard_normal((60, 100)) + 2 * np.eye(3, 100)[labels]
    assert least_confusing_shrinkage(round_clouds, labels, 0.1) >= 0.65
    stretched = np.concatenate([100 * rng.standard_normal((60, 1)), round_clouds], 1)
    assert least_confusing_shrinkage(stretched, labels, 1.0) <= 0.1


def test_multiplying_the_embedding_or_moving_it_changes_nothing():
    z, labels = clouds(40, 60)
    expected = least_confusing_shrinkage(z, labels, 0.3)
    assert least_confusing_shrinkage(1e6 * z, labels, 0.3) == expected
    assert least_confusing_shrinkage(1e-6 * z - 3e-4, labels, 0.3) == expected


@pytest.mark.parametrize(
    "labels",
    [np.zeros(6, int), np.arange(6), np.array([0, 0, 1, 2, 3, 4])],
    ids=["one class", "single samples", "one pair"],
)
def test_where_nothing_can_be_left_out_the_first_amount_stays(labels):
    z = np.random.default_rng(0).standard_normal((6, 10))
    assert least_confusing_shrinkage(z, labels, 0.3) == 0.3


def test_copies_of_one_sample_are_no_error():
    z = np.repeat(np.random.default_rng(0).standard_normal((2, 10)), 3, axis=0)
    assert least_confusing_shrinkage(z, np.repeat([0, 1], 3), 0.3) == 0.3


def test_with_many_samples_the_estimate_is_ledoit_and_wolfs():
    z, labels = clouds(120, 6)
    residuals = z - np.stack([z[labels == k].mean(0) for k in labels])
    expected = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    assert make_similarity("mahalanobis").fit(z, labels).shrinkage == pytest.approx(expected)
