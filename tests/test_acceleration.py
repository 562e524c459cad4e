"""Convolutions of 1×1 maps."""

import copy

import pytest
import torch
from torch import nn

from lookalike._core.acceleration import Accelerated


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"padding": 1}),
        (3, {"padding": 1, "stride": 2}),
        (5, {"padding": 2, "bias": False}),
        (3, {"padding": 2, "dilation": 2}),
        ((1, 3), {"padding": (0, 1)}),
        (3, {"padding": "same"}),
        (3, {"padding": 2}),
        (3, {"padding": 3, "dilation": 2}),
        (2, {"padding": 1}),
        (1, {}),
        (3, {"padding": 1, "groups": 4}),
        (3, {"padding": 1, "groups": 8, "out_channels": 8}),
        (5, {"padding": 2, "stride": 2, "groups": 8, "out_channels": 8, "bias": False}),
        (3, {"padding": 1, "groups": 8, "out_channels": 16}),
    ],
)
def test_outputs_and_gradients_are_those_of_the_convolution(kernel, options):
    torch.manual_seed(0)
    ours = nn.Conv2d(**{"in_channels": 8, "out_channels": 4, "kernel_size": kernel, **options}).double()
    theirs = copy.deepcopy(ours)
    x = torch.randn(5, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    with Accelerated():
        out = ours(x)
        out.square().sum().backward()
    expected = theirs(y)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, y.grad)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_larger_maps_are_left_alone():
    layer, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(2, 3, 4, 4)
    with Accelerated():
        assert torch.equal(layer(x), layer(x))
        assert layer(x).shape == (2, 4, 4, 4)


def test_weights_that_change_are_laid_out_anew():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), Accelerated():
        layer(x)
        layer.weight.mul_(2)
        again = layer(x)
    torch.testing.assert_close(again, layer(x))


@torch.no_grad()
def test_one_layer_serves_tiny_and_larger_maps_each_in_its_layout():
    layer = nn.Conv2d(6, 4, 3, padding=1)
    with Accelerated():
        for side, layout in ((4, torch.contiguous_format), (5, torch.channels_last), (4, torch.contiguous_format)):
            x = torch.randn(2, 6, side, side)
            found = layer(x)
            assert found.is_contiguous(memory_format=layout)
            torch.testing.assert_close(found, nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))


def test_a_convolution_of_a_point_is_a_matrix_product():
    with Accelerated(), torch.profiler.profile() as seen:
        nn.Conv2d(8, 4, 3, padding=1)(torch.randn(2, 8, 1, 1))
    names = {event.key for event in seen.key_averages()}
    assert "aten::linear" in names
    assert "aten::conv2d" not in names


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(2, 8, 1, 1)),
    ],
)
def test_each_precision_has_weights_of_its_own(layer, x):
    with torch.no_grad(), Accelerated():
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        full = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(full, layer(x))
