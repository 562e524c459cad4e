"""The standard measures equal Quantus's on the same inputs, the same subsets and the same noise."""

import warnings

import numpy as np
import pytest
import torch

from lookalike.metrics import (
    complexity,
    deletion,
    faithfulness_correlation,
    impute,
    map_stability,
    pointing_game,
    relevance_mass,
    relevance_rank,
    road,
    sparseness,
)
from lookalike.metrics.map_stability import relative_changes
from tests.metrics.test_standard_measures import images, linear_model, probabilities

QUIET = {"disable_warnings": True, "display_progressbar": False}
PLAIN = {"abs": False, "normalise": False, **QUIET}


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


@pytest.fixture
def given():
    x, relevance = images()
    model = linear_model()
    with torch.no_grad():
        predicted = model(x).argmax(1)
    call = {
        "model": model, "x_batch": x.numpy(), "y_batch": predicted.numpy(), "a_batch": relevance[:, None].numpy(),
        "device": "cpu", "channel_first": True,
    }  # fmt: skip
    return x, relevance, predicted, call


def test_pixel_flipping(quantus, given):
    x, relevance, _, call = given
    metric = quantus.PixelFlipping(features_in_step=8, perturb_baseline="black", return_aggregate=False, **PLAIN)
    theirs = np.array(metric(**call, softmax=True))
    lowest = x.amin((1, 2, 3)).view(-1, 1, 1, 1).expand_as(x)
    ours = deletion(probabilities, x, relevance, baseline=lowest, n_steps=8).probabilities[:, 1:]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_road(quantus, given):
    x, relevance, predicted, call = given
    metric = quantus.ROAD(percentages=[20, 40, 60, 80], noise=0.0, perturb_func_kwargs={"noise": 0.0}, **PLAIN)
    theirs = metric(**call, softmax=False)
    ours = road(probabilities, x, relevance, classes=predicted, percentages=(20, 40, 60, 80), noise=0.0)
    np.testing.assert_allclose(ours.mean.numpy(), list(theirs.values()), atol=1e-6)


def test_imputed_pixels(quantus):
    from quantus.functions.perturb_func import noisy_linear_imputation

    rng = np.random.default_rng(0)
    for share in (0.1, 0.5, 0.9):
        image = rng.random((3, 9, 12), dtype=np.float32)
        indices = rng.permutation(108)[: int(108 * share)]
        removed = torch.zeros(108, dtype=torch.bool)
        removed[torch.from_numpy(indices)] = True
        theirs = noisy_linear_imputation(image, indices, noise=0.0)
        ours = impute(torch.from_numpy(image).double(), removed.view(9, 12))
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_faithfulness_correlation(quantus, given, monkeypatch):
    x, relevance, predicted, call = given
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=12, subset_size=10, perturb_baseline="black", return_aggregate=False, **PLAIN
    )
    rng, drawn = np.random.default_rng(0), []

    def choice(n, size, replace):
        drawn.append(rng.choice(n, size, replace=replace))
        return drawn[-1]

    monkeypatch.setattr(np.random, "choice", choice)
    theirs = metric(**call, softmax=False)
    subsets = torch.from_numpy(np.array(drawn)).view(12, 4, 10).permute(1, 0, 2)
    lowest = x.amin((1, 2, 3)).view(-1, 1, 1, 1).expand_as(x)
    ours = faithfulness_correlation(linear_model(), x, relevance, targets=predicted, baseline=lowest, subsets=subsets)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_sensitivity(quantus, given):
    x, _, _, call = given
    weights = torch.arange(64.0).view(8, 8) / 64

    def explain(inputs):
        return (inputs[:, 0] ** 2) * weights

    class Noise:
        """Hands out the noise that ours draws."""

        def __init__(self):
            self.draw = 0

        def __call__(self, arr, indices, **kwargs):
            from lookalike.relevance.stability import uniform_noise

            self.draw += 1
            noise = uniform_noise(x, torch.tensor([0.1]), draw=self.draw - 1)
            return arr + noise.flatten(1).numpy()

    call["a_batch"] = explain(x)[:, None].numpy()
    ours = map_stability(lambda images, rows: explain(images), x, radius=0.1, n_samples=5)
    for metric_class, mine in (
        (quantus.MaxSensitivity, ours.changes.max(1).values),
        (quantus.AvgSensitivity, ours.changes.mean(1)),
    ):
        metric = metric_class(nr_samples=5, perturb_func=Noise(), return_aggregate=False, **PLAIN)
        theirs = metric(**call, explain_func=lambda inputs, **kwargs: explain(torch.as_tensor(inputs))[:, None].numpy())
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-6)
    assert relative_changes(torch.ones(1, 4), torch.zeros(1, 4)).tolist() == [1.0]


def test_sparseness_and_complexity(quantus, given):
    _, relevance, _, call = given
    signed = relevance - 0.5
    call["a_batch"] = signed[:, None].numpy()
    options = {"abs": True, "normalise": False, "return_aggregate": False, **QUIET}
    np.testing.assert_allclose(sparseness(signed).numpy(), quantus.Sparseness(**options)(**call), atol=1e-6)
    call["a_batch"] = signed[:, None].numpy()
    np.testing.assert_allclose(complexity(signed).numpy(), quantus.Complexity(**options)(**call), atol=1e-6)


def test_relevance_mass(quantus, given):
    _, relevance, _, call = given
    masks = torch.zeros(4, 1, 8, 8)
    masks[:, :, 2:6, 1:5] = 1
    metric = quantus.RelevanceMassAccuracy(abs=True, normalise=False, return_aggregate=False, **QUIET)
    theirs = metric(**call, s_batch=masks.numpy())
    np.testing.assert_allclose(relevance_mass(relevance, masks[:, 0]).numpy(), theirs, atol=1e-6)


def test_pointing_game_and_relevance_rank(quantus, given):
    _, relevance, _, call = given
    masks = torch.zeros(4, 1, 8, 8)
    masks[:, :, 2:6, 1:5] = 1
    options = {"abs": False, "normalise": False, "return_aggregate": False, **QUIET}
    hits = quantus.PointingGame(**options)(**call, s_batch=masks.numpy())
    np.testing.assert_array_equal(pointing_game(relevance, masks[:, 0]).numpy(), np.asarray(hits, dtype=float))
    ranks = quantus.RelevanceRankAccuracy(**options)(**call, s_batch=masks.numpy())
    np.testing.assert_allclose(relevance_rank(relevance, masks[:, 0]).numpy(), ranks, atol=1e-6)
