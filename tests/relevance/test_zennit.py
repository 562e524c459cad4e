"""Zennit as the oracle: equal maps in double precision, with batch-norm statistics as training leaves them."""

import copy
import importlib.metadata

import pytest
import torch
import torchvision
from packaging.version import Version
from torch import nn
from zennit.attribution import Gradient
from zennit.canonizers import NamedMergeBatchNorm, SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, LayerMapComposite, MixedComposite, NameMapComposite
from zennit.rules import AlphaBeta, Epsilon, Flat, Norm, Pass, ZPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Activation, AvgPool, BatchNorm
from zennit.types import Convolution as AnyConvolution
from zennit.types import Linear as AnyLinear

from lookalike.relevance import lrp
from tests.architectures import randomised


def oracle(model, x, composite):
    """Zennit's maps, which start with 1 at the predicted class; ours start with the score."""
    with torch.no_grad():
        predicted = model(x).argmax(1)
    with Gradient(model=model, composite=composite) as attributor:
        out, relevance = attributor(x.clone().requires_grad_(), nn.functional.one_hot(predicted, 10).to(x.dtype))
    return relevance * out.detach().gather(1, predicted[:, None])[:, :, None, None]


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "canonizer"),
    [
        pytest.param("vgg11", VGGCanonizer, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", VGGCanonizer, marks=pytest.mark.slow),
        ("resnet18", ResNetCanonizer),
        pytest.param("resnet34", ResNetCanonizer, marks=pytest.mark.slow),
        ("resnet50", ResNetCanonizer),
    ],
)
def test_equal_to_zennit_on_torchvision(name, canonizer):
    torch.manual_seed(0)
    model = randomised(torchvision.models.get_model(name, weights=None, num_classes=10)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12  # zennit's merged batch norms still divide by the root of 1 + eps
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    expected = oracle(model, x, EpsilonPlusFlat(canonizers=[canonizer()]))
    assert relative_error(lrp(model, x).maps, expected) < 1e-4


def plain(*layers):
    torch.manual_seed(0)
    return randomised(nn.Sequential(*layers)).double()


PLAIN = {
    "strides, groups, dilation": lambda: plain(
        nn.Conv2d(3, 8, 5, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, dilation=2, padding=2, bias=False), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12 * 9, 10),
    ),
    "inputs of mixed sign": lambda: plain(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        nn.Linear(8 * 16, 20), nn.ReLU(), nn.Linear(20, 10),
    ),
    "grouped first layer": lambda: plain(
        nn.Conv2d(3, 6, 3, groups=3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 10)
    ),
    "linear first layer": lambda: plain(
        nn.Flatten(), nn.Linear(3 * 256, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10)
    ),
    "transposed": lambda: plain(
        nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.ConvTranspose2d(6, 5, 3, stride=2, output_padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 10),
    ),
}  # fmt: skip

COMPOSITE = {
    "epsilon-plus-flat": lambda: EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]),
    "alpha1-beta0": lambda: LayerMapComposite(
        [(Activation, Pass()), (AvgPool, Norm()), (AnyLinear, AlphaBeta(1.0, 0.0))],
        canonizers=[SequentialMergeBatchNorm()],
    ),
    "epsilon": lambda: LayerMapComposite(
        [(Activation, Pass()), (AvgPool, Norm()), (AnyLinear, Epsilon())], canonizers=[SequentialMergeBatchNorm()]
    ),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("composite", COMPOSITE)
def test_equal_to_zennit_on_plain_networks(kind, composite):
    model = PLAIN[kind]()
    x = 10 * torch.randn(
        4, 3, 16, 16, dtype=torch.float64
    )  # far above the stabilisers, which zennit has in more places
    expected = oracle(model, x, COMPOSITE[composite]())
    assert relative_error(lrp(model, x, composite=composite).maps, expected) < 1e-4


def test_several_targets_and_prototypes_share_one_forward_pass():
    model = PLAIN["strides, groups, dilation"]()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    rows = []
    handle = model[0].register_forward_hook(lambda _module, _inputs, output: rows.append(len(output)))
    lrp(model, x, 0)  # finds out what its outputs are, once
    rows.clear()
    together = lrp(model, x, [[0, 5, 9], [1, 2, 3]])
    handle.remove()
    assert rows == [2, 1]  # one pass for all targets, then one image to compare the engine with the network
    assert together.maps.shape == (2, 3, 3, 16, 16)
    for column in range(3):
        alone = lrp(model, x, [[0, 5, 9][column], [1, 2, 3][column]])
        torch.testing.assert_close(together.maps[:, column], alone.maps)
        torch.testing.assert_close(together.residual[:, column], alone.residual)


class DenseNet(nn.Module):
    """torchvision's, with the last ReLU and pooling as modules, as Zennit sees nothing else."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16, num_classes=10)
        self.features, self.relu = net.features, nn.ReLU()
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier

    def forward(self, x):
        return self.classifier(self.flatten(self.pool(self.relu(self.features(x)))))


def test_batch_norm_before_a_convolution_takes_its_own_rule():
    """In a DenseNet one batch norm follows its convolution as executed, the next one only in order of declaration."""
    torch.manual_seed(0)
    model = randomised(DenseNet()).double()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for module in norms.values():
        module.eps = 1e-12
    merged = [([name.replace("norm2", "conv1")], name) for name in norms if name.endswith("norm2")]
    canonizer = NamedMergeBatchNorm([(["features.conv0"], "features.norm0"), *merged])
    composite = LayerMapComposite(
        [
            (Activation, Pass()),
            (AvgPool, Norm()),
            (BatchNorm, Epsilon()),
            (AnyConvolution, ZPlus()),
            (AnyLinear, Epsilon()),
        ],
        canonizers=[canonizer],
    )
    composite = MixedComposite([NameMapComposite([(["features.conv0"], Flat())]), composite])
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    found = lrp(model, x)
    assert relative_error(found.maps, oracle(model, x, composite)) < 1e-4
    alone = sum(use.count for use in found.rules if (use.operation, use.rule) == ("batch norm", "affine"))
    folded = sum(use.count for use in found.rules if use.operation == "convolution + batch norm")
    assert (alone, folded) == (len(norms) - len(merged) - 1, len(merged) + 1)


class Residual(nn.Module):
    """A residual sum and a pooling written as functions: y = mean of x₁ + relu(conv(x₁)), x₁ = relu(conv(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1, bias=False)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        self.head = nn.Linear(2, 10, bias=False)

    def forward(self, x):
        x = nn.functional.relu(self.first(x))
        x = x + nn.functional.relu(self.second(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_functions_take_their_rules_where_zennit_sees_modules_only():
    """Zennit passes all relevance to both sides of the sum, and evenly to all pixels; ours in proportion."""
    torch.manual_seed(1)
    model = Residual().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    x = torch.rand(1, 1, 2, 2, dtype=torch.float64) + 0.5
    found = lrp(model, x)

    # by hand: all weights and activations are positive, so every share is a contribution over their sum
    w1, w2, v = model.first.weight[:, 0, 0, 0], model.second.weight[:, :, 0, 0], model.head.weight[model(x).argmax()]
    pixels = x[0, 0].flatten()
    a = w1[:, None] * pixels  # [2, 4]
    b = w2 @ a
    at_sum = v[:, None] * (a + b) / 4  # linear layer, then pooling in proportion
    skip, branch = at_sum * a / (a + b), at_sum * b / (a + b)
    through = a * (w2.T @ (branch / b))
    by_hand = (skip + through).sum(0)  # 1×1 and one channel: flat gives each pixel what is above it
    torch.testing.assert_close(found.maps[0, 0].flatten(), by_hand, atol=1e-5, rtol=1e-5)
    assert float(found.residual) < 1e-5

    zennit = oracle(model, x, EpsilonPlusFlat())
    score = float(model(x)[0].max())
    assert abs(float(zennit.sum()) - score) > 0.1 * score  # not conserved there


def test_a_batch_norms_own_epsilon_is_folded():
    torch.manual_seed(0)
    normed = randomised(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, eps=0.5), nn.ReLU(),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    ).double()  # fmt: skip
    _, conv, norm, *_ = normed
    plain = copy.deepcopy(normed)
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + 0.5).sqrt()
        plain[1].weight.mul_(scale[:, None, None, None])
        plain[1].bias.copy_((conv.bias - norm.running_mean) * scale + norm.bias)
    plain[2] = nn.Identity()
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(lrp(normed, x, 3).maps, lrp(plain, x, 3).maps)
    merged = oracle(normed, x, EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]))
    error = relative_error(merged, lrp(plain, x).maps)
    # before version 1.0, Zennit folds every norm with the same epsilon
    assert error < 1e-4 if Version(importlib.metadata.version("zennit")) >= Version("1.0") else error > 1e-3
