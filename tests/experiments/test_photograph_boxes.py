"""Black boxes on tiny stamps, on a tiny backbone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lookalike.experiments.photograph_boxes import black_box, fine_tune
from tests.experiments.tiny_encoder import use_tiny_encoder


@pytest.fixture
def box(tmp_path, monkeypatch):
    use_tiny_encoder(tmp_path, monkeypatch, 8, 32, 32)
    return black_box("tiny", 0)


def test_the_head_is_the_logistic_regression_of_the_averaged_feature_maps(box):
    network, data = box
    x = torch.stack([data.train[i][0] for i in range(len(data.train))])
    labels = np.array([data.train[i][1] for i in range(len(data.train))])
    with torch.no_grad():
        z = network.backbone(x).mean((2, 3)).numpy()
        scores = network(x).numpy()
    scaler = StandardScaler().fit(z)
    expected = LogisticRegression(max_iter=1_000, random_state=0).fit(scaler.transform(z), labels)
    np.testing.assert_allclose(scores, expected.decision_function(scaler.transform(z)), atol=1e-3)


def test_fine_tuning_changes_the_backbone_and_ends_in_evaluation(box):
    network, data = box
    before = network.backbone[0].weight.detach().clone()
    tuned = fine_tune(network, data, 0)
    assert not torch.equal(tuned.backbone[0].weight, before)
    assert not tuned.training
