"""The baselines train on a frozen backbone's embeddings of tiny stamps."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike.data import Preprocessing
from lookalike.encoder import LoadedClassifier
from lookalike.experiments import photograph_baselines, photographs
from lookalike.experiments.photograph_baselines import embedded_bundle, measure
from tests.data.test_stamps import write_stamps

pytest.importorskip("lightning")


@pytest.fixture(autouse=True)
def tiny_backbone(tmp_path, monkeypatch):
    write_stamps(tmp_path / "usr/share/tuxpaint/stamps")
    monkeypatch.setenv("LOOKALIKE_STAMPS", str(tmp_path))

    def tiny():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 1280, 4, 64), nn.ReLU())
        return LoadedClassifier(network, {"source": "file", "name": "tiny"}, Preprocessing.square(224), None, "output")

    monkeypatch.setattr(photographs, "ENCODERS", {"tiny": tiny})


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
