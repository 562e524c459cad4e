"""Exported networks of several families answer as the models do, on any batch; tools/exported.py tries 25."""

import json

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lookalike import convert, explain
from tests.architectures import randomised
from tests.export.test_file import answers
from tests.export.test_plain import images, network

pytest.importorskip("onnxruntime")


def depthwise():
    block = (nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8))
    return nn.Sequential(*block, nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def transformer():
    return VisionTransformer(img_size=24, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=4)


NETWORKS = {
    "depthwise": (depthwise, 24),
    "transformer": (transformer, 24),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_answers_as_the_model_does_on_any_batch(name, tmp_path):
    make, side = NETWORKS[name]
    torch.manual_seed(0)
    model = convert(randomised(make()), images(24, side), 2, progress=False)
    file = model.export(tmp_path / "exported")
    x = torch.cat([images(40, side)[0], 3 * images(24, side)[0]])
    explained = explain(model, x)
    for n in (1, 3, 64):
        found = answers(file, x[:n].numpy())
        scores = model(x[:n]).detach().numpy()
        np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-4 * np.abs(scores).max())
        assert found["nearest"].tolist() == [[near.prototype for near in e.likenesses] for e in explained[:n]]
        assert found["unfamiliar"].tolist() == [e.unfamiliar for e in explained[:n]]


def test_the_map_inside_the_file_is_the_sum_that_numpy_gives(tmp_path):
    """Position by position: 2 (p − q) · (F(x) − (p + q) / 2) over their number, for prototype p and its rival q."""
    net = network()
    model = convert(net, images(), 2, progress=False)
    x = images(6)[0]
    found = answers(model.export(tmp_path / "exported"), x.numpy())
    assert json.loads((tmp_path / "exported" / "prototypes.json").read_text())["evidence"]
    features = net[:3](x).detach().double().numpy()  # [N, D, H, W]
    vectors, labels = model.prototypes.vectors.double().numpy(), model.prototypes.labels.numpy()
    similarities = model.similarities(x).numpy()
    for row in range(len(x)):
        for rank, number in enumerate(found["nearest"][row]):
            rivals = np.flatnonzero(labels != labels[number])
            p, q = vectors[number], vectors[rivals[similarities[row, rivals].argmax()]]
            expected = 2 * np.einsum("d,dhw->hw", p - q, features[row] - ((p + q) / 2)[:, None, None]) / 100
            np.testing.assert_allclose(found["evidence"][row, rank], expected, rtol=1e-3, atol=1e-6)
