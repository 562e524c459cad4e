import json

import pytest
from typer.testing import CliRunner

from lookalike import load
from lookalike.cli import app
from lookalike.demo.network import digit_network
from lookalike.demo.run import load_efficientnet_lite0

KEYS = {
    "black_box_accuracy",
    "kmex_accuracy",
    "agreement",
    "ghosting",
    "n_prototypes",
    "convert_seconds",
    "embed_seconds",
    "predict_time_ratio",
    "mahalanobis_accuracy",
}


@pytest.mark.slow
def test_the_demonstration_keeps_its_promises(tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["demo", "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(result.stdout) == summary
    assert set(summary) >= KEYS
    assert summary["black_box_accuracy"] >= 0.96
    assert abs(summary["kmex_accuracy"] - summary["black_box_accuracy"]) <= 0.01
    assert summary["agreement"] >= 0.96
    assert summary["ghosting"] == 0
    assert summary["n_prototypes"] == 50
    assert summary["mahalanobis_accuracy"] >= summary["black_box_accuracy"] - 0.005  # other processors round otherwise
    for name in ("gallery.png", "likeness-right.png", "likeness-wrong.png", "photographs.png"):
        assert (out / name).stat().st_size > 10_000
    saved = load(out / "model", model=digit_network()[0])
    assert len(saved.prototypes) == 50
    # what the demonstration leaves behind is enough to convert again as one's own model
    again = CliRunner().invoke(
        app,
        [
            "convert",
            f"{out}/network.py:digit_network",
            "digits",
            "--weights",
            f"{out}/classifier.pth",
            "-o",
            f"{out}/new",
            "--json",
        ],
    )
    assert again.exit_code == 0, again.output
    report = json.loads(again.stdout)
    assert report["test"]["accuracy"] == pytest.approx(summary["kmex_accuracy"], abs=0.002)


def test_the_published_weights_pair_with_timms_network(tmp_path):
    import torch

    from lookalike.encoder import load_classifier

    loaded = load_efficientnet_lite0(tmp_path / "w.safetensors")
    assert loaded.preprocessing.crop == (224, 224)
    again = load_classifier("timm:tf_efficientnet_lite0", tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.model(x), loaded.model(x))
