"""The contrast of an explanation: the nearest prototype of the class that the prediction missed."""

import numpy as np
import pytest
import torch

from lookalike import convert, explain
from lookalike.data import InputBatch
from lookalike.explanation import Explainer


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


def test_a_wrong_prediction_is_shown_beside_its_true_class(sem, blobs):
    x, y = blobs
    wrong = (y + 1) % 3
    for n_nearest in (1, 6):  # with all six prototypes the contrast is one of the likenesses
        for k, explanation in enumerate(explain(sem, x[:6], labels=wrong[:6], n_nearest=n_nearest)):
            similarities = sem.similarities(x[k : k + 1])[0]
            of_class = torch.nonzero(sem.prototypes.labels == wrong[k])[:, 0]
            assert explanation.contrast.prototype == int(of_class[similarities[of_class].argmax()])
            assert explanation.to_dict()["contrast"]["class"] == explanation.true_name
            assert len(explanation.shown) == min(n_nearest + 1, 6)
            assert f"nearest prototype of class '{explanation.true_name}'" in explanation.sentence()


def test_a_correct_and_agreeing_prediction_has_none(sem, blobs):
    x, y = blobs
    agrees = sem.predict(x) == sem.encoder.model.eval()(x).argmax(1)
    rows = torch.nonzero(agrees & (sem.predict(x) == y))[:4, 0]
    assert len(rows)
    for explanation in explain(sem, x[rows], labels=y[rows]):
        assert explanation.contrast is None
        assert explanation.to_dict()["contrast"] is None
        assert explanation.shown == explanation.likenesses


def test_the_contrast_has_the_maps_of_its_own_prototype(sem, blobs):
    x, y = blobs
    wrong = (y + 1) % 3
    few, all_of_them = (
        explain(sem, x[:3], labels=wrong[:3], n_nearest=n, relevance=True) for n in (1, len(sem.prototypes))
    )
    for one, other in zip(few, all_of_them, strict=True):
        same = next(near for near in other.likenesses if near.prototype == one.contrast.prototype)
        np.testing.assert_allclose(one.contrast.heat_map, same.heat_map, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(one.contrast.prototype_heat_map, same.prototype_heat_map)
        np.testing.assert_array_equal(other.contrast.heat_map, same.heat_map)
        one.plot()


def test_batches_give_what_all_inputs_at_once_give(sem, blobs):
    x, y = blobs
    explainer = Explainer(sem, relevance=True)
    in_batches = [
        explanation
        for rows in torch.arange(6).split(4)
        for explanation in explainer.explain(InputBatch(x[rows], None, y[rows].tolist()))
    ]
    for one, other in zip(in_batches, explain(sem, x[:6], labels=y[:6], relevance=True), strict=True):
        assert one.sentence() == other.sentence()
        for near, same in zip(one.likenesses, other.likenesses, strict=True):
            np.testing.assert_allclose(near.heat_map, same.heat_map, rtol=1e-3, atol=1e-5)
