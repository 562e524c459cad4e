"""Habits of networks that must not change a map, and what the engine cannot follow, which it names."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.utils.checkpoint import checkpoint

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.relevance import COMPOSITES, CP_LRP, lrp
from lookalike.relevance.rule_uses import Unruled


class Net(nn.Module):
    """A small network whose middle is written in one way or another."""

    def __init__(self, middle=None, before=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.3, generator=generator)
        self.scripted = torch.jit.script(nn.ReLU())
        self.middle, self.before = middle or (lambda z, _: F.relu(z)), before or (lambda x: x)
        self.double().eval()

    def forward(self, x):
        z = self.middle(self.first(self.before(x)), self)
        return self.head(F.relu(self.second(z)).mean((2, 3)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class MemoryEfficientSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * torch.sigmoid(z)

    @staticmethod
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z)))


def on_a_view(z, _):
    z = z * 1
    F.relu_(z[:, :4])
    return z


def by_slices(z, _):
    out = torch.zeros_like(z)
    out[:, :4] = F.relu(z[:, :4])
    out[:, 4:] = F.relu(z[:, 4:])
    return out


def into_a_buffer(z, _):
    out = torch.empty_like(z)
    out.copy_(F.relu(z))
    return out


def with_a_gradient_hook(z, _):
    z = F.relu(z)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * 5)
    return z


@torch.inference_mode()
def without_autograd(z, _):
    return F.relu(z)


RELU = lambda z, _: F.relu(z)  # noqa: E731
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

SAME = {
    "a trainable scale": (lambda z, net: F.relu(z) * net.gamma, lambda z, net: F.relu(z) * net.gamma.detach()),
    "an autograd function": (lambda z, _: MemoryEfficientSwish.apply(z), lambda z, _: F.silu(z)),
    "checkpoint": (lambda z, _: checkpoint(F.relu, z, use_reentrant=False), RELU),
    "reentrant checkpoint": (lambda z, _: checkpoint(F.relu, z, use_reentrant=True), RELU),
    "detach": (lambda z, _: F.relu(z.detach()), RELU),
    "data": (lambda z, _: F.relu(z.data), RELU),
    "a view in place": (on_a_view, lambda z, _: torch.cat([F.relu(z[:, :4]), z[:, 4:]], 1)),
    "slices": (by_slices, RELU),
    "a buffer": (into_a_buffer, RELU),
    "out=": (lambda z, _: torch.maximum(z, torch.zeros_like(z), out=torch.empty_like(z)), RELU),
    "a gradient hook": (with_a_gradient_hook, RELU),
    "inference_mode inside": (without_autograd, RELU),
    "a mask": (lambda z, _: z * (z > 0).double(), RELU),
    "the larger of it and a number": (lambda z, _: torch.max(torch.tensor(0.5), z), lambda z, _: z.clamp(min=0.5)),
    "the smaller of it and a number": (lambda z, _: torch.fmin(z, torch.tensor(0.5)), lambda z, _: z.clamp(max=0.5)),
    "rows one by one": (lambda z, _: torch.stack([F.relu(row) for row in z]), RELU),
    "a computed scale": (
        lambda z, net: F.relu(z) * net.gamma.exp().mean(),
        lambda z, net: F.relu(z) * float(net.gamma.exp().mean()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("habit", SAME)
@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "epsilon"])
def test_two_ways_to_write_one_network_have_one_map(habit, composite):
    middle, plain = SAME[habit]
    found = lrp(Net(middle), X, 1, composite, strict=True)
    expected = lrp(Net(plain), X, 1, composite, strict=True)
    assert float((found.maps - expected.maps).norm() / expected.maps.norm()) < 1e-3
    assert float(found.unruled.max()) == 0


NAMED = {
    "numpy": (lambda z, _: torch.from_numpy(np.maximum(z.numpy(), 0)), "numpy"),
    "TorchScript": (lambda z, net: net.scripted(z), "TorchScript module"),
    "a function without a rule": (lambda z, _: torch.erf(z), "erf"),
    "a choice": (lambda z, _: (z > 0).double() + 0.001 * z, "gt"),
}


@pytest.mark.parametrize("habit", NAMED)
def test_what_the_engine_cannot_follow_is_named_and_measured(habit):
    middle, name = NAMED[habit]
    with pytest.warns(LookalikeWarning, match=rf"{name}.* has no relevance rule: .*; do not rely on this map"):
        found = lrp(Net(middle), X, 1)
    assert name in found.without_rule[0]
    assert float(found.unruled.min()) > 0.5
    assert all(caution is not None and name in caution for caution in found.cautions)
    with pytest.raises(LookalikeError, match="no relevance rule"):
        lrp(Net(middle), X, 1, strict=True)


def test_a_small_part_without_a_rule_is_named_and_leaves_the_map():
    with pytest.warns(LookalikeWarning, match="'erf' has no relevance rule: its gradient is used$"):
        found = lrp(Net(lambda z, _: F.relu(z) + 1e-4 * torch.erf(z)), X, 1)
    assert found.caution is None
    assert 0 < float(found.unruled.max()) < 0.1


def test_scores_that_no_gradient_reaches_are_refused():
    def quantised(z, _):
        return torch.quantize_per_tensor(z.float(), 0.05, 64, torch.quint8).dequantize().double()

    with pytest.raises(LookalikeError, match="through 'quantize_per_tensor' alone, which has no gradient"):
        lrp(Net(quantised), X, 1)
    with pytest.raises(LookalikeError, match="do not depend on the pixels"):
        lrp(Net(lambda z, _: torch.ones_like(z)), X, 1)


def test_other_numbers_than_the_networks_are_an_error():
    def behind_its_back(z, _):
        z.numpy()[:] *= -3
        return z

    for middle, message in (
        (behind_its_back, "computes other outputs than the network"),
        (lambda z, _: F.dropout(z, 0.5, True), "other outputs for the same image each time"),
        (lambda z, _: z * z.mean(), "depends on the other images of its batch"),
    ):
        with pytest.raises(LookalikeError, match=message):
            lrp(Net(middle), X, 1)


@pytest.mark.parametrize("name", ["output", "input"])
def test_what_changes_memory_unseen_is_refused_for_a_single_image_too(name):
    """Of one image the engine takes results from the plain pass: they are those from before the change."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 6).double()

    def behind_its_back(z, _):
        flat = z.flatten(1)[:, :6].contiguous()
        out = layer(flat)
        (out if name == "output" else flat).numpy()[:] *= -3
        return (out + flat).sum(1)[:, None, None, None] * torch.ones_like(z)

    with pytest.raises(LookalikeError, match="computes other outputs than the network"):
        lrp(Net(behind_its_back), X[:1], 1)


def test_one_image_and_a_batch_have_the_same_map_where_layers_repeat():
    """A layer that runs several times, on other values each time."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 1).double()

    def repeated(z, _):
        for _ in range(3):
            z = F.relu(layer(z) + z)
        return z

    alone, together = lrp(Net(repeated), X[:1], 1).maps, lrp(Net(repeated), X, 1).maps[:1]
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)


MATRIX = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.6, -0.5, -0.1]], dtype=torch.float64)


def grey(x):
    out = torch.empty(len(x), 3, 8, 8, dtype=x.dtype)
    for channel in range(3):
        out[:, channel] = x.mean(1)
    return out


BEFORE = {
    "einsum": lambda x: torch.einsum("oc,nchw->nohw", MATRIX, x),
    "matmul": lambda x: (x.permute(0, 2, 3, 1) @ MATRIX.T).permute(0, 3, 1, 2),
    "slices of a mean": grey,
    "expanded mean": lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1),
    "a sum of slices": lambda x: torch.cat([(x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3] * 3, 1),
    "normalised": lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True),
    "gamma": lambda x: x.clamp(0, 1) ** 2.2,
}


@pytest.mark.parametrize("kind", BEFORE)
def test_before_the_first_layer_relevance_is_spread_over_what_it_mixes(kind):
    """A pixel's relevance, over its channels, is that of the pixel that the first layer is given."""
    before = BEFORE[kind]
    found = lrp(Net(before=before), X, 1, strict=True).pixels
    expected = lrp(Net(), before(X), 1, strict=True).pixels
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def on_a_canvas(x, value=0.0):
    canvas = torch.full((len(x), 3, 12, 12), value, dtype=x.dtype)
    canvas[:, :, 2:10, 2:10] = x
    return canvas


def into_a_view(x, value=0.0):
    canvas = torch.full((len(x), 3, 12, 12), value, dtype=x.dtype)
    inside = canvas.narrow(2, 2, 8).narrow(3, 2, 8)
    inside[:, :2].copy_(x[:, :2])
    inside[:, 2:].copy_(x[:, 2:])
    return canvas


def between_zeros(x):
    above = x.new_zeros(len(x), 3, 2, 8)
    beside = x.new_zeros(len(x), 3, 12, 2)
    return torch.cat([beside, torch.cat([above, x, above], 2), beside], 3)


PADDED = {
    "F.pad": lambda x: F.pad(x, (2, 2, 2, 2)),
    "F.pad by names": lambda x: F.pad(input=x, pad=(2, 2, 2, 2), mode="constant", value=0),
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, (2, 2, 2, 2)),
    "a module": nn.ZeroPad2d(2),
    "twice": lambda x: F.pad(F.pad(x, (0, 0, 2, 2)), (2, 2)),
    "on a canvas": on_a_canvas,
    "into a view": into_a_view,
    "between zeros": between_zeros,
    "flipped": lambda x: F.pad(x.flip(3), (2, 2, 2, 2)).flip(3),
    "negative": lambda x: -F.pad(-x, (2, 2, 2, 2)),
    "in place": lambda x: F.pad(x, (2, 2, 2, 2)).mul_(1),
}


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", PADDED)
def test_zeros_around_an_image_are_no_pixels_as_those_of_a_convolution_are_none(kind, groups):
    """Under the flat rule all inputs of a receptive field get the same: a padding's share would be lost."""
    layers = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    torch.manual_seed(0)
    own = nn.Sequential(nn.Conv2d(3, 6, 5, padding=2, groups=groups), *layers).double().eval()
    without = nn.Conv2d(3, 6, 5, groups=groups).double()
    without.load_state_dict(own[0].state_dict())
    padded = nn.Sequential(Function(PADDED[kind]), without, *own[1:]).eval()
    expected = lrp(own, X, 1)
    torch.testing.assert_close(lrp(padded, X, 1).maps, expected.maps, rtol=1e-9, atol=1e-12)


def with_coordinates(x):
    rows = torch.linspace(-1, 1, 8, dtype=x.dtype).expand(len(x), 1, 8, 8)
    return torch.cat([x, rows, rows.mT], 1)


def filled(x):
    x = x.clone()
    x[:, :, :, :2] = 0.5
    return x


def filled_sideways(x):
    x = x.clone()
    x.mT[..., :2] = 0.5
    return x


def doubled_sideways(x):
    x = F.pad(x[..., :5], (0, 3))
    x.mT.mul_(2)
    return x


NOT_ALL_PIXELS = {
    "coordinates": with_coordinates,
    "coordinates, then padding": lambda x: F.pad(with_coordinates(x), (2, 2, 2, 2)),
    "white": lambda x: F.pad(x, (2, 2, 2, 2), value=1.0),
    "white as an integer": lambda x: F.pad(x, (2, 2, 2, 2), "constant", 1),
    "white by name": lambda x: torch.constant_pad_nd(x, (2, 2, 2, 2), value=1),
    "grey canvas": lambda x: on_a_canvas(x, 0.5),
    "view of a grey canvas": lambda x: into_a_view(x, 0.5),
    "normalised when it is padded": lambda x: (F.pad(x, (2, 2, 2, 2)) - 0.5) / 0.25,
    "scaled when it is padded": lambda x: F.pad(x, (2, 2, 2, 2)) * torch.tensor([2.0, 3.0, 4.0])[:, None, None],
    "resized when it is padded": lambda x: F.interpolate(F.pad(x, (2, 2, 2, 2)), size=(9, 9), mode="bilinear"),
    "grey when it is padded": lambda x: F.pad(x, (2, 2, 2, 2)).mean(1, keepdim=True).expand(-1, 3, -1, -1),
    "a circle": lambda x: x * CIRCLE,
    "a circle of a padded image": lambda x: F.pad(x, (2, 2, 2, 2)) * F.pad(CIRCLE, (2, 2, 2, 2)),
    "where": lambda x: torch.where(CIRCLE > 0, x, torch.tensor(0.5, dtype=x.dtype)),
    "masked_fill": lambda x: x.masked_fill(CIRCLE == 0, 0.5),
    "filled": filled,
    "where, a number": lambda x: torch.where(CIRCLE > 0, x, 0.5),
    "where of an image": lambda x: x.where(CIRCLE > 0, 0.5),
    "where, an integer": lambda x: torch.where(CIRCLE > 0, x, torch.tensor(1)),
    "masked_fill, an integer": lambda x: x.masked_fill(CIRCLE == 0, torch.tensor(1)),
    "a circle of conditions": lambda x: x * (CIRCLE > 0),
    "a circle of integers": lambda x: x * CIRCLE.long(),
    "a circle of copies": lambda x: x[:, :1] * CIRCLE.expand(3, 8, 8),
    "a circle blended in": lambda x: torch.lerp(x, torch.full_like(x, 0.3), 1 - CIRCLE.expand_as(x)),
    "integer coordinates": lambda x: torch.cat([x, torch.arange(1, 9).expand(len(x), 1, 8, 8)], 1),
    "white by NumPy's number": lambda x: F.pad(x, (2, 2, 2, 2), value=np.float32(0.5)),
    "filled sideways": filled_sideways,
    "doubled sideways": doubled_sideways,
    "sampled beyond the image": lambda x: F.grid_sample(x, 1.4 * identity_grid(x).to(x), align_corners=False),
    "largest of a padded image": lambda x: F.max_pool2d(F.pad(x, (2, 2, 2, 2)), 2),
    "with its largest colour": lambda x: torch.cat([F.pad(x, (2,) * 4).amax(1, keepdim=True), F.pad(x, (2,) * 4)], 1),
    "means of rows and columns": lambda x: x.mean(2, keepdim=True) + x.mean(3, keepdim=True),
    "grey less means, padded": lambda x: F.pad(x, (2, 2, 2, 2)).mean(1, keepdim=True) - MEANS.double(),
    "a mixture without a row": lambda x: torch.einsum("oc,nchw->nohw", MATRIX * torch.tensor([[1], [0], [1]]), x),
    "patches with padding": lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), (9, 9), 3, stride=2),
    "rows of patches": lambda x: F.unfold(x, 3, padding=1, stride=3).unflatten(1, (3, 9)),
}
CIRCLE = torch.zeros(8, 8, dtype=torch.float64)
CIRCLE[2:6, 1:7] = 1


@pytest.mark.parametrize(
    ("kind", "layer"), [(kind, nn.Conv2d) for kind in NOT_ALL_PIXELS] + [("coordinates", nn.ConvTranspose2d)]
)
def test_what_is_no_pixel_takes_no_relevance_before_the_first_layer(kind, layer):
    """Each position of the layer sees a pixel, to which all of its relevance can go."""
    before = NOT_ALL_PIXELS[kind]
    torch.manual_seed(0)
    first = layer(before(X).shape[1], 6, 3, bias=False)
    layers = (first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4, bias=False))
    network = nn.Sequential(Function(before), *layers).double().eval()
    found = lrp(network, X, 1)
    torch.testing.assert_close(found.maps.sum((1, 2, 3)), network(X)[:, 1].detach(), rtol=1e-4, atol=1e-6)
    if "circle" in kind or "where" in kind or "masked_fill" in kind:
        assert not found.maps[..., CIRCLE == 0].any()


SCALE = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)[:, None, None]
REREAD = {
    "a scale, in one row": lambda x: (x * SCALE).view(len(x), -1),
    "a scale by a whole image": lambda x: (x * (SCALE + CIRCLE)).view(len(x), -1),
    "memory read with other strides": lambda x: (x * (1 + CIRCLE)).as_strided((len(x), 192), (192, 1)),
    "a part of a padding": lambda x: F.pad(x, (2, 2, 2, 2))[:, :, 2:-2, 2:-2].reshape(len(x), -1),
    "another type": lambda x: (F.pad(x.float(), (2, 2, 2, 2)) - MEANS.double())[:, :, 2:-2, 2:-2].reshape(len(x), -1),
}


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "epsilon", "gamma"])
@pytest.mark.parametrize("kind", REREAD)
def test_masks_of_pixels_go_through_what_their_tensors_go_through(kind, composite):
    torch.manual_seed(0)
    layers = nn.Linear(192, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)
    network = nn.Sequential(Function(REREAD[kind]), *layers).double().eval()
    maps = lrp(network, X, 1, composite).maps
    torch.testing.assert_close(maps.sum((1, 2, 3)), network(X)[:, 1].detach(), rtol=1e-4, atol=1e-6)


def test_chance_before_the_first_layer_is_drawn_once():
    """What draws again, to know which values are pixels, would have the network draw others afterwards."""

    def seeded(x):
        torch.manual_seed(3)
        return F.dropout(torch.cat([x, x.new_ones(x.shape)], 1), 0.5, True)[:, :3] + torch.rand(1, dtype=x.dtype)

    layers = nn.Flatten(), nn.Linear(192, 4, bias=False)
    assert lrp(nn.Sequential(Function(seeded), *layers).double().eval(), X[:1], 1).maps.isfinite().all()


def test_a_linear_first_layer_spreads_over_the_pixels_alone():
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(5 * 64, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False))
    network = nn.Sequential(Function(with_coordinates), *layers).double().eval()
    maps = lrp(network, X, 1).maps
    expected = network(X)[:, 1, None, None, None] / (3 * 64)
    torch.testing.assert_close(maps, expected.expand_as(maps), rtol=1e-4, atol=1e-7)


def test_a_linear_operation_on_pixels_is_gradient_times_input_under_epsilon():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 6, 3, bias=False), nn.Linear(6, 4, bias=False)

        def forward(self, x):
            return 100 * self.head(F.relu(self.conv(torch.einsum("oc,nchw->nohw", MATRIX, x))).mean((2, 3)))

    net = Bare().double()
    pixels = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(pixels)[:, 1].sum(), pixels)
    found = lrp(net, X, 1, "epsilon").maps
    assert float((found - gradient * X).norm() / found.norm()) < 1e-4


def test_gamma_and_attnlrp_differ_and_cp_lrp_holds_attention_constant():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.qkv, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 18), nn.Linear(6, 4)
            self.fixed = None

        def forward(self, x):
            q, k, v = self.qkv(self.patch(x).flatten(2).transpose(1, 2)).chunk(3, -1)
            if self.fixed is None:
                return self.head(F.scaled_dot_product_attention(q, k, v).mean(1))
            return self.head((self.fixed @ v).mean(1))

    net = Attention().double()
    x = X[:1]
    maps = {name: lrp(net, x, 1, name).maps for name in ("gamma", "attnlrp")}
    assert not torch.allclose(maps["gamma"], maps["attnlrp"])
    gated = lrp(net, x, 1, CP_LRP).maps
    with torch.no_grad():
        q, k, _ = net.qkv(net.patch(x).flatten(2).transpose(1, 2)).chunk(3, -1)
        net.fixed = (q @ k.transpose(1, 2) / 6**0.5).softmax(-1)
    torch.testing.assert_close(gated, lrp(net, x, 1, COMPOSITES["attnlrp"]).maps)


def test_one_image_of_a_batch_and_channels_wherever_they_are():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x.permute(0, 3, 1, 2))

    found = lrp(Last(), X.permute(0, 2, 3, 1), 1)
    torch.testing.assert_close(found.pixels, lrp(Net(), X, 1).pixels)
    signal = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    assert lrp(signal, torch.rand(5, 2, 9), 1).pixels.shape == (5, 9)
    assert lrp(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.rand(5, 6), 1).pixels.shape == (5, 6)


@pytest.mark.parametrize("at_the_end", [False, True])
def test_torchscript_that_a_network_does_not_list_has_the_map_of_that_it_lists(at_the_end):
    listed = torch.jit.script(nn.Sequential(nn.Linear(8, 5).double(), nn.ReLU()))
    net = Net(lambda z, _: F.relu(z))
    head, hidden = net.head, [listed]

    class Hiding(nn.Module):
        def __init__(self, script):
            super().__init__()
            self.net, self.script = net, script

        def forward(self, x):
            z = F.relu(net.second(net.first(x))).mean((2, 3))
            scores = (self.script or hidden[0])(z)
            return scores if at_the_end else scores + head(z)

    with pytest.warns(LookalikeWarning, match="TorchScript"):
        expected = lrp(Hiding(listed).eval(), X, 1, batch_size=1)
    with pytest.warns(LookalikeWarning, match="TorchScript"):
        found = lrp(Hiding(None).eval(), X, 1, batch_size=1)
    assert torch.equal(found.maps, expected.maps)
    assert [use.rule for use in found.rules] == [use.rule for use in expected.rules]


def test_no_hook_of_all_modules_stays_behind():
    before = len(_global_forward_pre_hooks), len(_global_forward_hooks)
    with pytest.warns(LookalikeWarning, match="TorchScript"):
        lrp(Net(lambda z, net: net.scripted(z)), X, 1)
    assert (len(_global_forward_pre_hooks), len(_global_forward_hooks)) == before


def test_a_share_counts_where_it_is_more_than_rounding():
    """Of two operations, one passes a third of the relevance on, and one what rounding leaves."""
    unruled = Unruled(2)
    unruled._add_measurement("a third", torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    unruled._add_measurement("rounding", torch.full((2, 2), 1e-9))
    shares = unruled.shares(torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(shares["a third"], torch.tensor([1 / 3, 0.0]))
    assert shares["rounding"].tolist() == [0, 0]


class OnPixels(nn.Module):
    """A convolution of what a function makes of the pixels."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.conv, self.head = function, nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 3, bias=False)

    def forward(self, x):
        return self.head(F.relu(self.conv(self.function(x))).mean((2, 3)))


def test_a_grey_image_less_three_means_is_as_if_it_were_repeated():
    mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = lrp(OnPixels(lambda x: x - mean), x, 0)
    expected = lrp(OnPixels(lambda x: x.expand(-1, 3, -1, -1) - mean), x, 0)
    torch.testing.assert_close(found.maps, expected.maps)
    assert float(found.residual.max()) < 1e-2


def test_an_operation_without_a_rule_may_have_several_outputs():
    def normalised(x):
        variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-6).sqrt()

    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    class After(OnPixels):
        def forward(self, x):
            return self.head(F.relu(normalised(self.conv(x))).mean((2, 3)))

    assert lrp(After(None), x, 0).maps.isfinite().all()


def test_a_mask_of_attentions_function_hides_where_it_is_true():
    class Attends(nn.Module):
        def __init__(self, mask):
            super().__init__()
            torch.manual_seed(0)
            self.mask, self.attention, self.head = mask, nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

        def forward(self, x):
            t, a = x.transpose(0, 1), self.attention
            out, _ = F.multi_head_attention_forward(
                t, t, t, 8, 2, a.in_proj_weight, a.in_proj_bias, None, None, False, 0.0, a.out_proj.weight,
                a.out_proj.bias, training=False, attn_mask=self.mask, need_weights=False,
            )  # fmt: skip
            return self.head(out.mean(0))

    hidden = torch.ones(5, 5).triu(1).bool()
    as_numbers = torch.zeros(5, 5).masked_fill(hidden, -torch.inf)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    found, expected = (lrp(Attends(mask).eval(), x, 1, "attnlrp") for mask in (hidden, as_numbers))
    torch.testing.assert_close(found.maps, expected.maps)


MEANS = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def identity_grid(x):
    return F.affine_grid(torch.eye(2, 3)[None].expand(len(x), -1, -1), list(x.shape), align_corners=False)


@pytest.mark.parametrize(
    ("function", "same"),
    [
        (lambda x: F.grid_sample(x, identity_grid(x), align_corners=False), lambda x: x),
        (lambda x: torch.lerp(x, torch.zeros_like(x), torch.tensor(0.5)), lambda x: 0.5 * x),
        (lambda x: torch.lerp(x, torch.full_like(x, 0.2), torch.tensor(0.5)), lambda x: 0.5 * x + 0.1),
        (lambda x: torch.lerp(x, torch.full_like(x, 0.2), 0.5), lambda x: 0.5 * x + 0.1),
        (lambda x: x - MEANS.expand_as(x), lambda x: x - MEANS),
        (lambda x: x + x, lambda x: 2 * x),
        (lambda x: torch.maximum(x, MEANS), lambda x: x.clamp(min=MEANS)),
    ],
    ids=[
        "an identity grid", "half of zeros", "half of grey", "half by a number", "means in the image's form",
        "the same twice", "at least the means",
    ],
)  # fmt: skip
def test_what_is_done_with_pixels_has_the_map_of_its_plain_form(function, same):
    found, expected = lrp(OnPixels(function), IMAGES, 0), lrp(OnPixels(same), IMAGES, 0)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-3, atol=1e-4 * float(expected.maps.abs().max()))
    assert found.caution is None


@pytest.mark.parametrize("size", [3, 7])
def test_padding_to_the_same_size_is_that_by_its_number(size):
    def network(padding):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 8, size, padding=padding, bias=False)
        layers = (conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3, bias=False))
        return nn.Sequential(*layers).eval()

    found, expected = lrp(network("same"), IMAGES, 0), lrp(network(size // 2), IMAGES, 0)
    torch.testing.assert_close(found.maps, expected.maps)
