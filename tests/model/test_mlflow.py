"""The program for MLflow on the documentation's page keeps a model and its figures, and loads it again."""

import pytest
import torch
from safetensors.torch import save_file

from lookalike import convert, load_classifier
from lookalike.networks import small_cnn
from tests.pages import ROOT, python_of

mlflow = pytest.importorskip("mlflow")


def test_the_page_keeps_a_model_and_loads_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    torch.manual_seed(0)
    save_file(small_cnn(2).state_dict(), "net.safetensors")
    y = torch.arange(24) % 2
    data = torch.randn(24, 3, 16, 16) + y[:, None, None, None], y
    model = load_classifier("lookalike:small-cnn", "net.safetensors")
    scope = {"sem": convert(model, data, 2, progress=False), "model": model, "train": data, "test": data}
    exec(compile(python_of(ROOT / "docs" / "how-to" / "hub.md"), "hub.md", "exec"), scope)
    torch.testing.assert_close(scope["again"](data[0]), scope["sem"](data[0]))
    logged = mlflow.get_run(scope["run"].info.run_id).data.metrics
    assert logged["accuracy"] == scope["card"].to_dict()["accuracy"]
