"""Zennit as the oracle: equal maps in double precision, with batch-norm statistics as training leaves them."""

import pytest
import torch
import torchvision
from torch import nn
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, LayerMapComposite
from zennit.rules import AlphaBeta, Epsilon, Norm, Pass
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Activation, AvgPool
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
        ("vgg11", VGGCanonizer),
        ("vgg16_bn", VGGCanonizer),
        ("resnet18", ResNetCanonizer),
        ("resnet34", ResNetCanonizer),
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
    calls = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    together = lrp(model, x, [[0, 5, 9], [1, 2, 3]])
    handle.remove()
    assert len(calls) == 1
    assert together.maps.shape == (2, 3, 3, 16, 16)
    for column in range(3):
        alone = lrp(model, x, [[0, 5, 9][column], [1, 2, 3][column]])
        torch.testing.assert_close(together.maps[:, column], alone.maps)
        torch.testing.assert_close(together.residual[:, column], alone.residual)
