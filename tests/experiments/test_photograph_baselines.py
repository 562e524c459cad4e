"""The baselines train on a frozen backbone's embeddings of tiny stamps."""

import numpy as np
import pytest
import torch

from lookalike.experiments import photograph_baselines
from lookalike.experiments.photograph_baselines import embedded, measure, measure_maps, measure_times
from tests.experiments.tiny_encoder import use_tiny_encoder

pytest.importorskip("lightning")


@pytest.fixture(autouse=True)
def tiny_backbone(tmp_path, monkeypatch):
    use_tiny_encoder(tmp_path, monkeypatch, 1280, 4, 64)


def test_embeddings_are_scaled_by_the_training_part():
    data = embedded("tiny", 0).data
    train = data.train.tensors[0]
    assert train.shape[1:] == (1280, 1, 1)
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert len(data.train.tensors[1]) == len(train)
    assert data.test.tensors[0].shape[1:] == (1280, 1, 1)


@pytest.fixture
def few_epochs(monkeypatch):
    monkeypatch.setitem(photograph_baselines.COMMON, "epochs", 2)
    for own in photograph_baselines.OWN.values():
        for name in ("epochs", "warm_epochs", "push_every", "last_layer_epochs"):
            if name in own:
                monkeypatch.setitem(own, name, 1)


MODELS = ["KMEx", *(name for title in ("ProtoPNet", "FLINT", "ProtoVAE") for name in (title, f"{title} + KMEx"))]


def test_every_method_is_measured_and_kmex_never_ghosts(few_epochs):
    record = measure("tiny", 0)
    assert list(record) == MODELS
    assert all(record[title]["ghosting"] == 0 for title in record if title.endswith("KMEx"))
    assert all(np.isfinite(figures["train_seconds"]) for figures in record.values())
    black_box = [figures["accuracy"] - figures["difference"] for figures in record.values()]
    assert black_box == pytest.approx([black_box[0]] * len(record))


def test_heat_maps_of_every_method_are_measured_behind_the_backbone(few_epochs, monkeypatch):
    monkeypatch.setattr(photograph_baselines, "_IMAGES", 2)
    monkeypatch.setattr(photograph_baselines, "_STEPS", 2)
    record = measure_maps("tiny", 0)
    assert list(record) == MODELS
    assert all(np.isfinite(figure) for figures in record.values() for figure in figures.values())
    assert len({figures["auroc_black_box"] for figures in record.values()}) == 1


def test_times_of_every_method_hold_what_comes_before_it(few_epochs):
    record = measure_times("tiny", 0)
    assert list(record) == ["black box", *MODELS]
    assert all(0 < figures["predict_seconds"] < 60 for figures in record.values())
    black_box, kmex = record["black box"], record["KMEx"]
    embedding = black_box["total_seconds"] - black_box["train_seconds"]
    assert embedding > 0
    assert kmex["total_seconds"] - kmex["train_seconds"] == pytest.approx(black_box["total_seconds"])
    for title in ("ProtoPNet", "FLINT", "ProtoVAE"):
        trained, converted = record[title], record[f"{title} + KMEx"]
        assert trained["total_seconds"] == pytest.approx(embedding + trained["train_seconds"])
        assert converted["total_seconds"] == pytest.approx(trained["total_seconds"] + converted["train_seconds"])


def test_a_network_behind_the_backbone_sees_the_same_embeddings():
    embeddings = embedded("tiny", 0)
    _, photographs = photograph_baselines.prepared("tiny", 0)
    network = embeddings.behind_backbone(torch.nn.Flatten())
    with torch.no_grad():
        seen = network(photographs.test[0][0][None])
    torch.testing.assert_close(seen[0], embeddings.data.test[0][0].flatten(), rtol=1e-4, atol=1e-5)
