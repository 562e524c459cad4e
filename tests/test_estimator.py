import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.conversion.per_class import learn_prototypes
from lookalike.estimator import PrototypeClassifier
from lookalike.model.similarity import make_similarity

Z, Y = load_iris(return_X_y=True)


@pytest.mark.filterwarnings("ignore::lookalike._core.errors.LookalikeWarning")
@parametrize_with_checks(
    [
        PrototypeClassifier(),
        PrototypeClassifier(n_prototypes=2, similarity="mahalanobis", random_state=3),
        PrototypeClassifier(n_prototypes="auto", clusterer="bisecting"),
    ]
)
def test_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


def test_one_prototype_per_class_is_the_nearest_centroid():
    ours, theirs = PrototypeClassifier(1).fit(Z, Y), NearestCentroid().fit(Z, Y)
    np.testing.assert_allclose(ours.prototypes_, theirs.centroids_)
    np.testing.assert_array_equal(ours.predict(Z), theirs.predict(Z))


def test_works_in_a_pipeline_and_a_grid_search():
    pipeline = make_pipeline(StandardScaler(), PrototypeClassifier())
    grid = {"prototypeclassifier__n_prototypes": [1, 3], "prototypeclassifier__similarity": ["l2", "mahalanobis"]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(Z, Y)
    assert search.best_score_ > 0.9
    assert cross_val_score(pipeline, Z, Y, cv=3).mean() > 0.9


def test_classes_keep_their_names_and_may_have_numbers_of_their_own():
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    model = PrototypeClassifier({"setosa": 1, "versicolor": 2, "virginica": 4}).fit(Z, names)
    assert [int((model.prototype_classes_ == name).sum()) for name in model.classes_] == [1, 2, 4]
    assert model.score(Z, names) > 0.95
    assert model.similarities(Z).shape == (150, 7)
    assert model.survey_.counts.sum() == 150


def test_same_seed_same_bits_and_none_draws_anew():
    first, second = (PrototypeClassifier(random_state=5).fit(Z, Y).prototypes_ for _ in range(2))
    assert first.tobytes() == second.tobytes()
    PrototypeClassifier(random_state=None).fit(Z, Y)
    PrototypeClassifier(random_state=np.random.RandomState(0)).fit(Z, Y)


def test_a_classs_prototypes_do_not_depend_on_the_other_classes():
    everything = PrototypeClassifier(3).fit(Z, Y).prototypes_[:3]
    two = PrototypeClassifier(3).fit(Z[Y < 2], Y[Y < 2]).prototypes_[:3]
    np.testing.assert_array_equal(everything, two)


def test_prototypes_are_means_of_embeddings_in_learned_metrics_too():
    model = PrototypeClassifier(2, similarity="mahalanobis").fit(Z, Y)
    s = model.similarities(Z)
    for j, prototype in enumerate(model.prototypes_):
        own = model.prototype_classes_[j] == Y
        rivals = np.flatnonzero(model.prototype_classes_ == model.prototype_classes_[j])
        members = own & (rivals[s[:, rivals].argmax(1)] == j)
        np.testing.assert_allclose(prototype, Z[members].mean(0), atol=1e-6)


def test_few_distinct_samples_are_warned_of_by_name():
    z, y = np.array([[0.0], [0.0], [1.0], [5.0], [6.0], [7.0]]), np.array([0, 0, 0, 1, 1, 1])
    with pytest.warns(LookalikeWarning, match="class '0' has 2 distinct embeddings; 3 prototypes asked: using 2"):
        model = PrototypeClassifier(3).fit(z, y)
    assert len(model.prototypes_) == 5


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "whole number of at least 1, not 0"),
        (2.5, "whole number"),
        (True, "whole number"),
        ("many", "a number, a mapping or 'auto', not 'many'"),
        ({0: 2, 1: 2}, "no number for class '2'"),
        ({0: 2, 1: 2, 2: 2, 7: 1}, "names '7', which is not a class"),
        ({0: 2, 1: 2, "brid": 2}, "names 'brid', which is not a class; the classes are 0, 1, 2"),
        ({0: 2, 1: 0, 2: 2}, r"n_prototypes\['1'\] must be"),
    ],
)
def test_wrong_numbers_are_told(number, message):
    with pytest.raises(LookalikeError, match=message):
        PrototypeClassifier(number).fit(Z, Y)


@pytest.mark.parametrize(
    ("number", "classes"),
    [
        ({None: 2, 1: 3}, Y),
        ({0: 2, 1: 3, 2: 2}, Y.astype(float)),
        ({0.0: 2, 1.0: 3, None: 2}, Y),
        ({"1": 3, None: 2}, Y),
    ],
)
def test_numbers_are_given_by_class_whatever_its_type(number, classes):
    model = PrototypeClassifier(number).fit(Z, classes)
    assert np.unique(model.prototype_classes_, return_counts=True)[1].tolist() == [2, 3, 2]


def test_a_class_without_samples_is_named():
    with pytest.raises(LookalikeError, match="class 'frog' has no training samples"):
        learn_prototypes(Z, Y, ["a", "b", "c", "frog"], make_similarity("l2"))
    with pytest.raises(LookalikeError, match="a label 2 and there are only 2 class names"):
        learn_prototypes(Z, Y, ["a", "b"], make_similarity("l2"))


def test_single_precision_stays_single():
    model = PrototypeClassifier(2).fit(Z.astype(np.float32), Y)
    assert model.prototypes_.dtype == np.float32
    assert model.survey_.vectors.dtype == torch.float32
