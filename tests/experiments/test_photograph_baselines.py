"""The baselines train on a frozen backbone's embeddings of tiny stamps."""

import numpy as np
import pytest

from lookalike.experiments import photograph_baselines
from lookalike.experiments.photograph_baselines import embedded_bundle, measure
from tests.experiments.tiny_encoder import use_tiny_encoder

pytest.importorskip("lightning")


@pytest.fixture(autouse=True)
def tiny_backbone(tmp_path, monkeypatch):
    use_tiny_encoder(tmp_path, monkeypatch, 1280, 4, 64)


def test_embeddings_are_scaled_by_the_training_part():
    data = embedded_bundle("tiny", 0)
    train = data.train.tensors[0]
    assert train.shape[1:] == (1280, 1, 1)
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert len(data.train.tensors[1]) == len(train)
    assert data.test.tensors[0].shape[1:] == (1280, 1, 1)


def test_every_method_is_measured_and_kmex_never_ghosts(monkeypatch):
    monkeypatch.setitem(photograph_baselines.COMMON, "epochs", 2)
    for own in photograph_baselines.OWN.values():
        for name in ("epochs", "warm_epochs", "push_every", "last_layer_epochs"):
            if name in own:
                monkeypatch.setitem(own, name, 1)
    record = measure("tiny", 0)
    own = ["ProtoPNet", "FLINT", "ProtoVAE"]
    assert list(record) == ["KMEx", *(name for title in own for name in (title, f"{title} + KMEx"))]
    assert all(record[title]["ghosting"] == 0 for title in record if title.endswith("KMEx"))
    assert all(np.isfinite(figures["train_seconds"]) for figures in record.values())
    black_box = [figures["accuracy"] - figures["difference"] for figures in record.values()]
    assert black_box == pytest.approx([black_box[0]] * len(record))
