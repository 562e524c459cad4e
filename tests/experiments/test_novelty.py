"""Scores of others that the prototypes' scores are compared with, and divisions of held-out images."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.data import load_data
from lookalike.experiments.experiment import Plan, table_names
from lookalike.experiments.held_out import HeldOut, places_of
from lookalike.experiments.rivals import Rivals
from lookalike.experiments.strange_images import strange_images
from lookalike.model.calibrating import Validation
from tests.model.test_doubt import images

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 200)
TRAIN = np.abs(RNG.normal(size=(200, 10)) + 3 * np.eye(3, 10)[LABELS])
TEST = np.abs(RNG.normal(size=(40, 10)) * 2)
WEIGHT, BIAS = RNG.normal(size=(3, 10)), RNG.normal(size=3)
PREDICTED = (TEST @ WEIGHT.T + BIAS).argmax(1)
RIVALS = Rivals(TRAIN, LABELS, (TRAIN @ WEIGHT.T + BIAS).argmax(1), WEIGHT, BIAS)
SCORES = RIVALS.scores(TEST, PREDICTED)


def test_knn_is_the_distance_to_the_kth_nearest_direction():
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    neighbours = NearestNeighbors(n_neighbors=RIVALS.k).fit(normalize(TRAIN))
    assert np.allclose(SCORES["kNN"], neighbours.kneighbors(normalize(TEST))[0][:, -1])


def test_all_four_equal_those_of_pytorch_ood():
    detector = pytest.importorskip("pytorch_ood.detector")
    train, labels, test = torch.from_numpy(TRAIN), torch.from_numpy(LABELS), torch.from_numpy(TEST)
    weight, bias = torch.from_numpy(WEIGHT), torch.from_numpy(BIAS)

    def head(z):
        return z @ weight.T + bias

    vim = detector.ViM(nn.Identity(), d=5, w=weight, b=bias)
    expected = {
        "kNN": detector.KNN(None, k=RIVALS.k).fit_features(train, labels).predict_features(test),
        "ViM": vim.fit_features(train, labels).predict_features(test),
        "SHE": detector.SHE(nn.Identity(), head).fit_features(train, labels).predict_features(test),
        "energy": detector.EnergyBased.score(head(test)),
    }
    assert set(expected) == set(SCORES)
    for name, values in expected.items():
        assert np.allclose(SCORES[name], values.numpy(), rtol=1e-4), name


def test_energy_falls_as_a_logit_grows_and_she_is_a_product_with_the_mean():
    assert np.allclose(SCORES["energy"], -np.log(np.exp(TEST @ WEIGHT.T + BIAS).sum(1)))
    correct = (TRAIN @ WEIGHT.T + BIAS).argmax(1) == LABELS
    for row, k in enumerate(PREDICTED):
        assert SCORES["SHE"][row] == pytest.approx(-TEST[row] @ TRAIN[correct & (k == LABELS)].mean(0))


def test_few_training_images_leave_vim_directions_that_they_do_not_use():
    wide = np.abs(RNG.normal(size=(20, 50)) + 3 * np.eye(3, 50)[LABELS[:20]])
    rivals = Rivals(wide, LABELS[:20], LABELS[:20], RNG.normal(size=(3, 50)), BIAS)
    assert rivals.residual.shape == (50, 40)
    assert np.isfinite(rivals.scores(np.abs(RNG.normal(size=(5, 50))), PREDICTED[:5])["ViM"]).all()


def test_photographs_have_encoders_in_place_of_networks():
    plan = Plan(("digits", "stamps"), ("lookalike:small-cnn", "torchvision:resnet18"))
    assert [table_names(*pair) for pair in places_of(plan)] == [
        ("digits", "small-cnn"), ("digits", "resnet18"), ("stamps", "EfficientNet-Lite0"), ("stamps", "MobileNetV2"),
    ]  # fmt: skip


def test_the_probe_is_a_logistic_regression_on_standardised_embeddings():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    read = Validation(torch.from_numpy(TRAIN), LABELS, None, None)
    pool = HeldOut(None, None, read, None, None, ["a", "b", "c"], None)
    rows = np.arange(80)
    expected = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(TRAIN[rows], LABELS[rows])
    assert np.allclose(pool.probe(rows).logits(TEST), expected.decision_function(TEST), atol=1e-6)


def test_divisions_are_new_disjoint_and_of_the_requested_size():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3))
    model = convert(net, images(60, 2), n_prototypes=1, progress=False)
    x, y = images(90, 3)
    read = Validation(model.embed(x), y.numpy(), None, None)
    data = load_data("digits")
    for own in (model, None):
        pool = HeldOut(own, model.encoder, read, None, None, ["a", "b", "c"], data)
        first, second = pool.divisions(2, 0.6, probed=True)
        n = 90 - (0 if own is not None else len(pool.of_each_class(np.arange(90), 0.35)))
        assert len(first.calibration.labels) == round(0.6 * n)
        assert len(first.calibration.labels) + len(first.test.labels) == n
        rows = torch.cat([first.calibration.embeddings, first.test.embeddings])
        assert len(rows.unique(dim=0)) == len(read.embeddings.unique(dim=0)) - (90 - n)
        assert not torch.equal(first.test.embeddings, second.test.embeddings)
        assert (first.test.logits is None) == (own is not None)  # of the photographs, those of a logistic regression


def test_strange_images_are_of_the_kinds_that_are_not_known():
    found = strange_images(6, 0, without="glyphs")
    assert {"digits", "photographs"} <= set(found)
    assert "letters" not in found
    assert all(len(pictures) == 6 for pictures in found.values())
    assert all(picture.mode == "L" for picture in found["photographs"])
