"""A calibrated model as a file: the thresholds are constants."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, explain
from lookalike.export import PlainModel
from tests.model.test_doubt import images


@pytest.fixture(scope="module", params=["mahalanobis", "percentile"])
def calibrated(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    model = convert(net, images(300, 2), n_prototypes=2, progress=False)
    return model.calibrate(images(600, 3), novelty=request.param, false_alarm=0.05)


INPUTS = torch.cat([images(100, 4)[0], 8 * torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(5))])


def test_it_calls_the_same_inputs_unfamiliar(calibrated):
    expected = [explanation.unfamiliar for explanation in explain(calibrated, INPUTS)]
    assert any(expected)
    assert not all(expected)
    assert PlainModel(calibrated)(INPUTS).unfamiliar.tolist() == expected


def test_the_file_does_too(calibrated, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = calibrated.export(tmp_path / "out")
    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    answers = session.run(None, {session.get_inputs()[0].name: INPUTS.numpy()})
    expected = [explanation.unfamiliar for explanation in explain(calibrated, INPUTS)]
    assert np.asarray(answers[names.index("unfamiliar")]).tolist() == expected
    described = json.loads((tmp_path / "out" / "prototypes.json").read_text())["calibration"]
    assert described["coverage"] == 0.95
    assert described["unfamiliar_above"] == pytest.approx(calibrated.doubt.unfamiliar_above)
