"""Smaller files answer nearly alike, and what changes is counted, told and written down."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import LookalikeError, convert
from lookalike.data import ImageArray
from lookalike.export import Quantised, quantise
from tests.export.test_file import PREPROCESSING, answers, folder, metadata_of, model, pixels  # noqa: F401 - fixtures

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_what_changes_is_what_the_two_files_say(folder, tmp_path, precision):  # noqa: F811
    values, _ = pixels(64)
    found = quantise(folder, tmp_path / precision, values, precision=precision)
    before = answers(folder / "model.onnx", values)
    after = answers(tmp_path / precision / "model.onnx", values)
    assert found.n_inputs == 64
    assert found.agreement == (before["scores"].argmax(1) == after["scores"].argmax(1)).mean() > 0.9
    same = before["nearest"][:, 0] == after["nearest"][:, 0]
    assert found.same_prototype == same.mean()
    assert sum(count for _, _, count in found.changes) == (~same).sum()
    assert found.probability_change == pytest.approx(np.abs(before["probabilities"] - after["probabilities"]).max())
    assert 0 < found.probability_change < 0.5
    written = json.loads((tmp_path / precision / "prototypes.json").read_text())["quantised"]
    assert written["agreement"] == found.agreement
    assert metadata_of(tmp_path / precision / "model.onnx")["quantised"]["precision"] == precision
    assert (tmp_path / precision / "prototypes" / "00000.png").is_file()


def test_what_cannot_be_made_smaller_is_refused(folder, tmp_path):  # noqa: F811
    with pytest.raises(LookalikeError, match="precision must be 'float16' or 'int8', not 'int4'"):
        quantise(folder, tmp_path / "a", pixels(3)[0], precision="int4")
    with pytest.raises(LookalikeError, match="holds no model exported to ONNX"):
        quantise(tmp_path, tmp_path / "a", pixels(3)[0])
    with pytest.raises(LookalikeError, match="ONNX Runtime cannot run these inputs"):
        quantise(folder, tmp_path / "a", np.zeros((3, 12, 12, 3), np.float32))
    with pytest.raises(LookalikeError, match="inputs must be a tensor, not None"):
        quantise(folder, tmp_path / "a", None)
    with pytest.raises(LookalikeError, match="inputs must be inputs of the file"):
        quantise(folder, tmp_path / "a", 3)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_network_without_weights_is_not_made_smaller(tmp_path):
    x = torch.rand(12, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[::2] += 1
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    convert(net, (x, torch.arange(12) % 2), 2, progress=False).export(tmp_path / "full")
    for precision in ("float16", "int8"):
        with pytest.raises(LookalikeError, match=f"the network has no .* in {precision}"):
            quantise(tmp_path / "full", tmp_path / "small", x.numpy(), precision=precision)
    assert not (tmp_path / "small").exists()


def test_the_constants_that_scale_pixels_are_no_weights_and_stay_exact(folder, tmp_path):  # noqa: F811
    onnx = pytest.importorskip("onnx")
    values, labels = pixels()
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    data = ImageArray(values, labels, list("abcd"), PREPROCESSING)
    convert(net, data, 2, progress=False).export(tmp_path / "full", pixels=True)
    with pytest.raises(LookalikeError, match="the network has no weights that can be kept in float16"):
        quantise(tmp_path / "full", tmp_path / "small", values, precision="float16")
    quantise(folder, tmp_path / "half", values, precision="float16")
    stored = {tensor.name: tensor for tensor in onnx.load(tmp_path / "half" / "model.onnx").graph.initializer}
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored["mean"]).ravel(), np.float32(PREPROCESSING.mean))
    assert any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in stored.values())


@pytest.mark.parametrize(("precision", "way_out"), [("int8", "take float16, or float32"), ("float16", "take float32")])
def test_a_file_that_answers_otherwise_is_warned_of(precision, way_out):
    others = {"same_familiarity": 1.0, "same_set": None, "probability_change": 0.4, "changes": []}
    sizes = {"bytes": 10, "bytes_before": 40}
    effect = Quantised(precision, 100, agreement=0.729, same_prototype=0.543, **others, **sizes)
    assert effect.sentence().endswith(f". Warning: so many other answers make it another model; {way_out}")
    assert "Warning" not in Quantised(precision, 100, agreement=0.97, same_prototype=0.9, **others, **sizes).sentence()
