"""Convolutions in faster equivalent ways, which a network must not notice."""

import copy

import pytest
import torch
from torch import nn

from lookalike._core.acceleration import Accelerated
from lookalike._core.errors import UnfitInputsError
from lookalike.encoder.calls import call


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


class Flattens(nn.Module):
    """Two convolutions, a function that looks at the memory of what they return, and a linear layer."""

    def __init__(self, flatten, n_features=64):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.flatten, self.head = flatten, nn.Linear(n_features, 5)

    def forward(self, x):
        return self.head(self.flatten(nn.functional.max_pool2d(self.second(self.first(x).relu()).relu(), 2)))


def writes_through_a_view(h):
    h.view(len(h), -1)[:, ::2] = 0
    return h.flatten(1)


@torch.jit.script
def scripted(h):
    return h.view(h.size(0), -1)


def unguarded(h):
    assert h.is_contiguous()
    return h.flatten(1)


def responds_locally(h):
    return nn.functional.local_response_norm(h, 2).flatten(1)


FLATTENED = {
    "view": lambda h: h.view(h.size(0), -1),
    "view as": lambda h: h.view_as(torch.empty(len(h), 64)),
    "write": writes_through_a_view,
    "mean": lambda h: h.mean(3, keepdim=True).expand(-1, -1, -1, 4).mean(3).view(len(h), -1).repeat(1, 4),
    "flattened": lambda h: h.flatten(2).view(len(h), -1),
    "strided": lambda h: h.as_strided((len(h), 64), (64, 1)),
    "strided by its strides": lambda h: h.as_strided((len(h), 4, 4, 4), h.stride()).flatten(1),
    "strided view": lambda h: h.flatten(2).as_strided((len(h), 64), (64, 1)),
    "slice": lambda h: h[:, :].as_strided((len(h), 64), (64, 1)),
    "assertion": unguarded,
    "script": scripted,
    "local response": responds_locally,
    "complex": lambda h: torch.view_as_complex(h.reshape(len(h), 4, 8, 2)).abs().flatten(1).repeat(1, 2),
}


@pytest.mark.parametrize("name", FLATTENED)
def test_a_network_does_not_notice_the_layout(name):
    net, x = Flattens(FLATTENED[name]).eval(), torch.randn(3, 3, 8, 8)
    accelerated = Accelerated()
    with torch.no_grad():
        expected = net(x)
        for _ in range(2):
            with accelerated:
                torch.testing.assert_close(call(net, x), expected)
        with torch.inference_mode(), Accelerated():
            torch.testing.assert_close(call(net, x), expected)


def test_a_view_costs_no_second_pass_and_leaves_channels_last():
    net, x, passes = Flattens(FLATTENED["view"]).eval(), torch.randn(3, 3, 8, 8), []
    net.first.register_forward_hook(lambda _module, _args, output: passes.append(output))
    with torch.no_grad(), Accelerated():
        call(net, x)
    assert len(passes) == 1
    assert passes[0].is_contiguous(memory_format=torch.channels_last)


def test_the_networks_own_error_is_told():
    net = Flattens(lambda h: h.transpose(1, 2).view(len(h), -1)).eval()
    with torch.no_grad(), Accelerated(), pytest.raises(UnfitInputsError, match="view size is not compatible"):
        call(net, torch.randn(3, 3, 8, 8))


def test_gradients_pass_a_view():
    net, x = Flattens(FLATTENED["view"]), torch.randn(3, 3, 8, 8)
    with Accelerated():
        net(x).sum().backward()
    assert net.first.weight.grad is not None


@pytest.mark.parametrize(
    ("n", "options", "is_onednn"),
    [
        (3, {}, True),
        (3, {"stride": 2, "bias": False}, True),
        (3, {"padding": 1}, True),
        (1, {}, False),
        (16, {}, False),
        (3, {"padding": "same"}, False),
        (3, {"groups": 2}, False),
        (3, {"dtype": torch.float64}, False),
    ],
)
def test_pointwise_convolutions_of_few_images_go_through_onednn_in_one_thread_too(n, options, is_onednn, monkeypatch):
    called, convolve, n_threads = [], torch.mkldnn_convolution, torch.get_num_threads()
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *args: called.append(1) or convolve(*args))
    layer = nn.Conv2d(8, 6, 1, **options).eval()
    x = torch.randn(n, 8, 7, 9, dtype=options.get("dtype"))
    try:
        torch.set_num_threads(1)
        with torch.no_grad(), Accelerated():
            fast = layer(x)
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(fast, layer(x), rtol=1e-5, atol=1e-5)
    assert bool(called) == is_onednn
