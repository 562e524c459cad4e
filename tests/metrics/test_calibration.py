import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from lookalike import convert, embed, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches
from lookalike.encoder import Encoder
from lookalike.metrics import (
    BlackBox,
    CalibrationBins,
    ExpectedCalibrationError,
    compare,
    diversity,
    expected_calibration_error,
    reference_diversity,
)
from lookalike.metrics.calibration import black_box_confidences


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_it_is_that_of_torchmetrics(n_bins):
    rng = torch.Generator().manual_seed(0)
    p, y = (3 * torch.randn(500, 4, generator=rng)).softmax(1), torch.randint(4, (500,), generator=rng)
    expected = multiclass_calibration_error(p, y, 4, n_bins=n_bins, norm="l1")
    assert expected_calibration_error(p, y, n_bins) == pytest.approx(float(expected), abs=1e-6)


def test_closed_forms():
    sure = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    assert expected_calibration_error(sure, torch.zeros(10, dtype=torch.long)) == 0
    assert expected_calibration_error(sure, torch.ones(10, dtype=torch.long)) == 1
    half = torch.tensor([[0.8, 0.2]]).repeat(10, 1)
    assert expected_calibration_error(half, torch.arange(10) // 5) == pytest.approx(0.3)
    with pytest.raises(LookalikeError, match="labels"):
        expected_calibration_error(sure, torch.full((10,), 2))


def test_parts_add_up():
    rng = torch.Generator().manual_seed(0)
    confidences = torch.rand(300, generator=rng)
    right = torch.rand(300, generator=rng) < confidences
    whole, parts = ExpectedCalibrationError(), ExpectedCalibrationError()
    whole.update(confidences, right)
    for rows in torch.arange(300).split(70):
        parts.update(confidences[rows], right[rows])
    assert float(whole.compute()) == pytest.approx(float(parts.compute()))


def test_what_chance_does_to_calibrated_predictions():
    rng = torch.Generator().manual_seed(0)
    found, expected = [], []
    for _ in range(100):
        confidences = 0.5 + 0.5 * torch.rand(400, generator=rng)
        metric = ExpectedCalibrationError()
        metric.update(confidences, torch.rand(400, generator=rng) < confidences)
        found.append(float(metric.compute()))
        expected.append(metric.bins.by_chance)
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.1)


def test_the_scorecard_has_the_models_and_the_black_boxes(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, blobs, only=("calibration",), progress=False)
    p = net.eval()(x).softmax(1)
    assert card["calibration_error"] == pytest.approx(expected_calibration_error(sem.predict_proba(x), y))
    assert card["calibration_error_black_box"] == pytest.approx(expected_calibration_error(p, y), abs=1e-6)
    stored = evaluate(sem, embed(sem, blobs), only=("calibration",), progress=False)
    assert stored["calibration_error_black_box"] == pytest.approx(card["calibration_error_black_box"], abs=1e-6)
    assert card.details["calibration"][0]["temperature"] == sem.classifier.temperature


def test_a_head_that_takes_maps_is_asked_with_the_images(blobs):
    x, y = blobs
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Softmax(1))
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, blobs, only=("calibration",), progress=False)
    assert card["calibration_error_black_box"] == pytest.approx(expected_calibration_error(net(x), y), abs=1e-5)


def test_another_black_box_is_asked_itself(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    torch.manual_seed(1)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    card = evaluate(sem, blobs, black_box=other, only=("calibration",), progress=False)
    expected = expected_calibration_error(other(x).softmax(1), y)
    assert card["calibration_error_black_box"] == pytest.approx(expected, abs=1e-6)


def test_the_verdict_warns_of_probabilities_that_are_no_chances(net, blobs):
    options = {"n_prototypes": 2, "similarity": "cosine", "progress": False}
    fitted, plain = convert(net, blobs, **options), convert(net, blobs, temperature=1, **options)
    said = [" ".join(evaluate(m, blobs, only=("calibration",), progress=False).verdict()) for m in (fitted, plain)]
    assert "do not read them as chances" not in said[0]
    assert "do not read them as chances" in said[1]


def test_diversity_is_over_the_temperature_and_the_authors_reading_beside_it(net, blobs):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, blobs, only=("diversity",), progress=False)
    vectors = sem.prototypes.vectors
    among = -torch.cdist(vectors.double(), vectors.double())
    assert card["diversity"] == pytest.approx(diversity(among / sem.classifier.temperature), abs=1e-4)
    reference = torch.log((-among + 1) / (-among + 1e-4))
    assert card["diversity_reference"] == pytest.approx(diversity(reference), abs=1e-4)
    assert card["diversity_reference"] > card["diversity_reference_floor"]
    assert "D_dvs as the authors' code takes it" in card.to_markdown()


def test_the_floor_that_epsilon_sets():
    apart, floor = reference_diversity(1e7 * torch.eye(50))
    assert floor == pytest.approx(0.0127, abs=5e-5)
    assert apart == pytest.approx(floor, abs=1e-5)
    assert reference_diversity(torch.eye(50), epsilon=1e-2)[1] > floor


def test_the_error_is_of_the_predicted_class_where_another_is_more_probable(net, blobs):
    x, y = blobs
    x = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    model = convert(net, (x, y), n_prototypes={0: 1, 1: 9, 2: 9}, probabilities="sum", temperature=5.0, progress=False)
    predicted, probabilities = model.predict(x), model.predict_proba(x).double()
    assert (probabilities.argmax(1) != predicted).any()
    confidences = probabilities.gather(1, predicted[:, None])[:, 0]
    card = evaluate(model, (x, y), only=("calibration",), progress=False)
    assert card["calibration_error"] == pytest.approx(CalibrationBins.of(confidences, predicted == y).ece, abs=1e-6)


def test_the_black_box_runs_over_a_few_images_where_its_head_tells_the_rest(net, blobs, monkeypatch):
    model = convert(net, blobs, n_prototypes=2, progress=False)
    rows, scores = [], Encoder.scores

    def watched(encoder, inputs):
        rows.append(len(inputs))
        return scores(encoder, inputs)

    monkeypatch.setattr(Encoder, "scores", watched)
    x, _ = blobs
    box, batches = BlackBox(model.encoder), Batches(blobs)
    store = embed(model, blobs, progress=False)
    rows.clear()
    confidences = black_box_confidences(box, model, store, batches)
    assert sum(rows) < len(x)
    torch.testing.assert_close(confidences, box.probabilities(x).amax(1))


def test_embeddings_of_another_network_are_refused(net, blobs):
    model = convert(net, blobs, n_prototypes=2, progress=False)
    other = copy.deepcopy(net)
    torch.nn.init.normal_(other[0].weight)
    store = embed(Encoder(other.eval(), blobs[0][:2]), blobs)
    for given in (
        lambda: evaluate(model, store, progress=False),
        lambda: evaluate(model, blobs, test_embeddings=store, progress=False),
        lambda: evaluate(model, blobs, train=store, progress=False),
        lambda: evaluate(model, blobs, train=blobs, train_embeddings=store, progress=False),
        lambda: compare(model, store),
    ):
        with pytest.raises(LookalikeError, match="made with other weights; embed the data again"):
            given()
    evaluate(model, embed(model, blobs), only=("faithfulness",), progress=False)
