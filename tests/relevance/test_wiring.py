"""Rules with their operations: closed forms of powers, norms, pooled pixels and dilated convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lookalike.relevance import lrp
from lookalike.relevance.operations import Convolution


class Net(nn.Module):
    """A linear layer, a function, and two scores; without any bias, so that the ε-rule is gradient × input."""

    def __init__(self, function, inputs=5, hidden=6, first=True):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(inputs, hidden, bias=False) if first else nn.Identity()
        self.function = function
        self.last = nn.Linear(hidden, 2, bias=False)
        self.double()

    def forward(self, x):
        return self.last(self.function(self.first(x)).flatten(1))


def inputs(*shape, low=0.5):
    return low + torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def times_gradient(function, x):
    """Input times the gradient of a function's first score."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf)[:, 0].sum(), leaf)
    return x * gradient


@pytest.mark.parametrize(
    ("degree", "function"),
    [
        (2, lambda h: h**2),
        (3, lambda h: torch.pow(h, 3)),
        (2, torch.square),
        (0.5, lambda h: torch.sqrt(h)),
        (3, lambda h: torch.pow(input=h, exponent=3)),
    ],
)
def test_a_power_divides_by_its_exponent(degree, function):
    net, x = Net(function), inputs(3, 5)
    with torch.no_grad():
        net.first.weight.abs_()
    found = lrp(net, x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(net, x) / degree, rtol=1e-3)
    assert float(found.residual.max()) < 1e-3


def frozen(h, axes, *, centred=True, eps=1e-5):
    values = h - h.mean(axes, keepdim=True) if centred else h
    deviation = (values.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return values / deviation


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (lambda h: F.layer_norm(h, (6,)), lambda h: frozen(h, (-1,))),
        (lambda h: F.layer_norm(input=h, normalized_shape=(6,)), lambda h: frozen(h, (-1,))),
        (lambda h: torch.layer_norm(input=h, normalized_shape=(6,)), lambda h: frozen(h, (-1,))),
        (lambda h: F.rms_norm(h, (6,), eps=1e-5), lambda h: frozen(h, (-1,), centred=False)),
        (lambda h: F.group_norm(h, 2), lambda h: frozen(h.reshape(-1, 2, 3), (-1,)).reshape(-1, 6)),
        (lambda h: F.instance_norm(h.reshape(-1, 2, 3)), lambda h: frozen(h.reshape(-1, 2, 3), (-1,))),
    ],
)
def test_a_norm_holds_its_deviation_constant(norm, expected):
    net, x = Net(norm), inputs(3, 5)
    found = lrp(net, x, target=0, composite="epsilon").maps
    wanted = times_gradient(lambda leaf: net.last(expected(net.first(leaf)).flatten(1)), x)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(found, times_gradient(net, x), rtol=1e-2, atol=1e-4)  # the plain gradient


@pytest.mark.parametrize(
    ("before", "n_features"),
    [(lambda x: F.avg_pool2d(x, 2), 4), (lambda x: F.adaptive_avg_pool2d(x, 2), 4), (torch.exp, 16), (torch.sqrt, 16)],
)
def test_what_comes_before_the_first_layer_passes_the_flat_rules_relevance_on(before, n_features):
    """Flat spreads a score evenly over the features, and each gives its share evenly to its pixels."""
    net, x = Net(before, hidden=n_features, first=False), inputs(2, 1, 4, 4)
    found = lrp(net, x, target=0).maps
    assert torch.allclose(found, (net(x)[:, :1] / 16)[:, :, None, None].expand_as(found), rtol=1e-4)


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (2, 2), (3, 1)])
def test_the_adjoint_of_a_convolution_is_its_transpose(stride, dilation):
    operation = Convolution((stride,) * 2, (0, 0), (dilation,) * 2, False, (0, 0), 1)
    weight, like = inputs(3, 2, 2, 2, low=-0.5), inputs(1, 2, 7, 7)
    out = operation.apply(like, weight, None)
    r = inputs(*out.shape, low=-0.5)
    assert float((operation.adjoint(r, weight, like) * like).sum()) == pytest.approx(float((r * out).sum()))
