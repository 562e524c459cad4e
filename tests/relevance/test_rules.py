"""Each rule against its formula, written out on the dense matrix of a small layer."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lookalike.relevance import lrp
from lookalike.relevance.derived import DERIVED_WEIGHTS
from lookalike.relevance.operations import Call, Convolution, Linear
from lookalike.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, ZPlus

EPS = 1e-6


def dense(operation, weight, shape, output_shape):
    """The matrix [outputs, inputs] of a linear operation."""
    n = int(torch.tensor(shape).prod())
    basis = torch.eye(n, dtype=torch.float64).view(n, *shape)
    return operation.apply(basis, weight, None).reshape(n, -1).T


def stabilise(z):
    return z + torch.where(z < 0, -EPS, EPS)


def explicit(rule, a, b, x, r):
    """The rules on a matrix, one sum per output."""
    c = a * x  # contributions [outputs, inputs]
    up, down = c.clamp(min=0), c.clamp(max=0)
    if rule == "epsilon":
        return (c / stabilise(c.sum(1) + b)[:, None] * r[:, None]).sum(0)
    if rule == "z-plus":
        return (up / stabilise(up.sum(1) + b.clamp(min=0))[:, None] * r[:, None]).sum(0)
    if rule == "alpha2-beta1":
        plus = up / stabilise(up.sum(1) + b.clamp(min=0))[:, None]
        minus = down / stabilise(down.sum(1) + b.clamp(max=0))[:, None]
        return ((2 * plus - minus) * r[:, None]).sum(0)
    if rule == "gamma":
        y = c.sum(1) + b
        favoured = torch.where(y[:, None] > 0, up, down)
        bias = torch.where(y > 0, b + 0.25 * b.clamp(min=0), b + 0.25 * b.clamp(max=0))
        t = c + 0.25 * favoured
        return (t / stabilise(t.sum(1) + bias)[:, None] * r[:, None]).sum(0)
    touched = (a != 0).double()
    return (touched / touched.sum(1, keepdim=True) * r[:, None]).sum(0)


RULES = {"epsilon": Epsilon(), "z-plus": ZPlus(), "alpha2-beta1": AlphaBeta(2.0, 1.0), "gamma": Gamma(), "flat": Flat()}


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 3),
    signed=st.booleans(),
    transposed=st.booleans(),
)
def test_convolutions_equal_their_formula(name, seed, stride, padding, dilation, groups, kernel, signed, transposed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 6, 5, generator=generator, dtype=torch.float64)
    x = x if signed else x.abs()
    weight = torch.randn(4, 4 // groups, kernel, kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    padding = min(padding, dilation * (kernel - 1))
    operation = Convolution((stride,) * 2, (padding,) * 2, (dilation,) * 2, transposed, (0, 0), groups)
    if not transposed and min(6, 5) + 2 * padding < dilation * (kernel - 1) + 1:
        return
    y = operation.apply(x, weight, bias)
    r = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    found = RULES[name].relevance(Call(operation, x, weight, bias, y), r)
    a = dense(operation, weight, x.shape[1:], y.shape)
    full_bias = bias[:, None].expand(4, y[0, 0].numel()).reshape(-1)
    if bool((a != 0).sum(1).min() == 0) and name == "flat":
        return  # an output that sees nothing but padding
    expected = explicit(name, a, full_bias, x.reshape(-1), r.reshape(-1))
    torch.testing.assert_close(found.reshape(-1), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-9)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), signed=st.booleans())
def test_linear_layers_equal_their_formula(name, seed, signed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 7, generator=generator, dtype=torch.float64)
    x = x if signed else x.abs()
    weight = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    operation = Linear()
    y = operation.apply(x, weight, bias)
    r = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    found = RULES[name].relevance(Call(operation, x, weight, bias, y), r)
    expected = explicit(name, weight, bias, x[0], r[0])
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-9)


def test_alpha_and_beta_must_differ_by_one():
    with pytest.raises(ValueError, match="alpha - beta must be 1"):
        AlphaBeta(2.0, 0.0)


def small_network():
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, 3)).eval()


def test_derived_weights_follow_every_change_and_go_with_the_weights():
    def follow_changes():
        net, x = small_network(), torch.rand(1, 1, 8, 8)
        first = lrp(net, x).maps
        torch.testing.assert_close(lrp(net, x).maps, first)
        assert len(DERIVED_WEIGHTS) > before
        changes = (
            lambda: net[2].weight.data.mul_(-1),  # .data leaves no version
            lambda: net[3].running_var.mul_(3),
            lambda: nn.init.normal_(net[3].weight),
        )
        for change in changes:
            with torch.no_grad():
                change()
            fresh = small_network()
            fresh.load_state_dict(net.state_dict())
            torch.testing.assert_close(lrp(net, x).maps, lrp(fresh, x).maps)

    gc.collect()
    before = len(DERIVED_WEIGHTS)
    follow_changes()
    gc.collect()
    assert len(DERIVED_WEIGHTS) == before


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 2), (1, 1, 0), (2, 2, 1), (3, 1, 2), (4, 1, 2)]
)
@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_one_position_gives_the_values_and_the_adjoint_of_the_convolution(kernel, dilation, padding, n_axes):
    """Kernels without a middle, and paddings that move it, must not be taken for a product with one matrix."""
    torch.manual_seed(0)
    options = [(value,) * n_axes for value in (1, padding, dilation)]
    operation = Convolution(*options, False, (0,) * n_axes, 1)
    x = torch.randn(2, 3, *[1] * n_axes, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(4, 3, *[kernel] * n_axes, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = operation.run(x, weight, bias)
    torch.testing.assert_close(operation.apply(x, weight, bias), expected)
    at_output = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, at_output)
    torch.testing.assert_close(operation.adjoint(at_output, weight, x.detach()), gradient)


def test_rows_of_tokens_are_multiplied_in_any_order_of_memory():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 3), torch.randn(4, 3), torch.randn(4)
    transposed = x.transpose(0, 1)
    result = Linear().run(transposed, weight, bias)
    torch.testing.assert_close(result, nn.functional.linear(x, weight, bias).transpose(0, 1))
    assert result.is_contiguous()
    torch.testing.assert_close(Linear().adjoint(result.transpose(0, 1), weight, x), result.transpose(0, 1) @ weight)
