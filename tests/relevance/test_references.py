"""Independent references beside Zennit: the published AttnLRP (package ``lxt``), and gradient × input."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from lookalike.relevance import Composite, Epsilon, lrp

# No stabiliser to speak of: the references have none.
EXACT = Composite("exact", {"convolution": Epsilon(1e-12), "linear": Epsilon(1e-12)})


def gradient_times_input(model, x, target):
    pixels = x.clone().requires_grad_()
    scores = model(pixels)
    scores = getattr(scores, "logits", scores)
    (gradient,) = torch.autograd.grad(scores[:, target].sum(), pixels)
    return pixels.detach() * gradient


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 16, bias=False), nn.ReLU(), nn.Linear(16, 5, bias=False),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, bias=False)
        self.second, self.third = (nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(2))
        self.head = nn.Linear(6, 5, bias=False)

    def forward(self, x):
        z = self.first(x).relu()
        z = (z + self.third(self.second(z).relu())).relu()
        return self.head(z.mean((2, 3)))


@pytest.mark.parametrize("build", [convolutional, Residual])
def test_the_epsilon_rule_of_a_relu_network_without_biases_is_gradient_times_input(build):
    """Where nothing but ReLU, linear layers and pooling is, and no bias, they are the same (Ancona et al. 2018)."""
    torch.manual_seed(0)
    model, x = build().double().eval(), torch.randn(3, 3, 12, 12, dtype=torch.float64)
    expected = gradient_times_input(model, x, 2)
    assert relative_error(lrp(model, x, 2, EXACT).maps, expected) < 1e-4
    with torch.no_grad():
        model(x)
        for weight in model.parameters():
            weight.mul_(10)  # far above the usual stabiliser
    assert relative_error(lrp(model, x, 2, "epsilon").maps, gradient_times_input(model, x, 2)) < 1e-4


def published_patches(monkeypatch):
    """Returns the module of ``lxt`` with its rules, without its package, which needs an older transformers."""
    package = importlib.util.find_spec("lxt")
    if package is None or package.origin is None:
        pytest.skip("package lxt is not installed")
    bare = types.ModuleType("lxt.efficient")
    bare.__path__ = [str(Path(package.origin).parent / "efficient")]
    monkeypatch.setitem(sys.modules, "lxt.efficient", bare)
    return importlib.import_module("lxt.efficient.patches")


def test_attnlrp_equals_the_published_implementation(monkeypatch):
    """A Hugging Face ViT, patched as ``lxt`` patches transformers: norms, activations and attention."""
    patches = published_patches(monkeypatch)
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit import modeling_vit

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4,
        num_labels=7, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = lrp(model, x, 3, EXACT).maps
    plain = gradient_times_input(model, x, 3)

    activation = transformers.activations.GELUActivation
    monkeypatch.setattr(activation, "original_forward", activation.forward, raising=False)
    monkeypatch.setattr(activation, "forward", patches.non_linear_forward)
    monkeypatch.setattr(nn.LayerNorm, "forward", patches.layer_norm_forward)
    attention = patches.wrap_attention_forward(modeling_vit.eager_attention_forward)
    monkeypatch.setattr(modeling_vit, "eager_attention_forward", attention)
    published = gradient_times_input(model, x, 3)
    assert relative_error(found, published) < 1e-4
    assert relative_error(plain, published) > 0.1  # the patches were in effect
