"""What stands between the relevance engine and its maps: channels, targets, prototypes, layers."""

import inspect

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.relevance import lrp, prp

OPTION = "rule" if "rule" in inspect.signature(prp).parameters else "similarity"


def linear_network(channels=3):
    """Conv, ReLU, a linear head: so small that its maps can be written out."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 4, bias=False)
    )


@pytest.fixture(scope="module")
def x():
    return torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sem():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    net = nn.Sequential(*body, nn.Linear(6, 3))
    return convert(net, (x, torch.arange(60) % 3), 2, progress=False)


def test_pixels_are_sums_over_channels(x):
    found = lrp(linear_network(), x)
    assert found.maps.shape == (6, 3, 6, 6)
    torch.testing.assert_close(found.pixels, found.maps[:, 0] + found.maps[:, 1] + found.maps[:, 2])
    scores = linear_network()(x).max(1).values
    torch.testing.assert_close(found.pixels.sum((1, 2)), scores, rtol=1e-3, atol=1e-4)  # nothing is lost


def test_pixels_of_several_targets_are_sums_over_channels(x):
    found = lrp(linear_network(), x, [[0, 2]] * 6)
    assert found.maps.shape == (6, 2, 3, 6, 6)
    torch.testing.assert_close(
        found.pixels, found.maps.unbind(2)[0] + found.maps.unbind(2)[1] + found.maps.unbind(2)[2]
    )


def test_targets_are_those_asked_for_and_else_the_predicted_ones(x):
    net = linear_network()
    every = torch.stack([lrp(net, x, k).maps for k in range(4)], 1)
    torch.testing.assert_close(lrp(net, x).maps, every[torch.arange(6), net(x).argmax(1)])
    torch.testing.assert_close(lrp(net, x, [3, 2, 1, 0, 1, 2]).maps, every[torch.arange(6), [3, 2, 1, 0, 1, 2]])
    torch.testing.assert_close(lrp(net, x, [[1, 3]] * 6).maps, every[:, [1, 3]])
    torch.testing.assert_close(lrp(net, x, [3, 2, 1, 0, 1, 2], batch_size=4).maps, lrp(net, x, [3, 2, 1, 0, 1, 2]).maps)


def test_a_probabilitys_map_is_its_gradient_from_the_scores_on(x):
    """R = Σ_k R_k (∂p/∂s_k): the softmax keeps its gradient, the rest its rules."""
    net = linear_network()
    scores = net(x).detach().requires_grad_()
    p = scores.softmax(1).max(1).values
    (gradient,) = torch.autograd.grad(p.sum(), scores)
    each = torch.stack([lrp(net, x, k).maps / scores[:, k, None, None, None].detach() for k in range(4)], 1)
    begun = (scores * gradient).detach()
    expected = (each * begun[:, :, None, None, None]).sum(1)
    torch.testing.assert_close(lrp(net, x, of="probability").maps, expected, rtol=1e-2, atol=1e-4)


def by_channel(sem, x):
    """The maps of each channel of the embedding, from relevance 1 there [N, D, C, H, W]."""
    z = sem.embed(x)
    maps = lrp(sem.encoder.model[:-1], x, [list(range(z.shape[1]))] * len(x)).maps  # starts with z_c at channel c
    return maps / z.clamp_min(1e-6)[:, :, None, None, None]


def shares_of(sem, layer, z, j):
    """Relevance over the embedding's channels [D], as the layer's formula says; its absolute values sum to 1."""
    p, owners = sem.prototypes.vectors, sem.prototypes.labels
    if layer == "share":
        share = 1 / ((z - p[j]).square() + 1e-12)
    elif layer == "gradient":  # of −‖z − p‖
        share = z * -(z - p[j]) / (z - p[j]).norm()
    else:
        distances = (z - p).norm(dim=1)
        rivals = [i for i in range(len(p)) if owners[i] != owners[j]]
        q = p[min(rivals, key=lambda i: float(distances[i]))]
        share = 2 * (p[j] - q) * (z - (p[j] + q) / 2)
    return share / share.abs().sum()


@pytest.mark.parametrize("layer", ["share", "gradient", "neuralized"])
def test_each_similarity_layer_is_its_formula(sem, x, layer):
    z, each = sem.embed(x), by_channel(sem, x)
    found = prp(sem, x, "all", **{OPTION: layer}).maps
    for row in range(len(x)):
        for j in range(6):
            share = shares_of(sem, layer, z[row], j)
            expected = (each[row] * share[:, None, None, None]).sum(0)
            assert float((found[row, j] - expected).norm() / expected.norm()) < 1e-2


def test_the_nearest_prototypes_map_is_the_nearest_ones(sem, x):
    every, nearest = prp(sem, x, "all").maps, sem.similarities(x).argmax(1)
    assert len(nearest.unique()) > 2
    torch.testing.assert_close(prp(sem, x).maps[:, 0], every[torch.arange(6), nearest])


class Factor(nn.Module):
    """Feature maps times a factor: one that depends on their size, as in a norm, or a constant."""

    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(64, 3, bias=False)
        self.factor = factor

    def forward(self, x):
        h = self.conv(x).relu()
        return self.head((h * self.factor(h.square().mean((1, 2, 3), keepdim=True) + 1)).flatten(1))


@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("divisor", [lambda v: v**-0.5, lambda v: v.pow(-1), torch.rsqrt, torch.reciprocal])
def test_what_maps_are_divided_by_is_held_constant(x, composite, divisor):
    for image in x[:2].split(1):
        net = Factor(divisor)
        value = float(divisor(net.conv(image).relu().square().mean() + 1))
        found, constant = (lrp(one, image, 1, composite).maps for one in (net, Factor(lambda _, value=value: value)))
        torch.testing.assert_close(found, constant, rtol=1e-3, atol=1e-5)


class Powers(nn.Module):
    def __init__(self, power):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(64, 3, bias=False)
        self.power = power

    def forward(self, x):
        return self.head(self.power(self.conv(x).abs()).flatten(1))


@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("power", [torch.square, lambda v: v**3, lambda v: v.pow(2), torch.sqrt])
def test_a_power_passes_on_what_it_gets(x, composite, power):
    net = Powers(power)
    scores = net(x)[:, 1].detach()
    lost = lrp(net, x, 1, composite).maps.flatten(1).sum(1) - scores
    assert float(lost.abs().sum()) < 0.05 * float(scores.abs().sum())


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "groups": 3},
        {"kernel_size": (2, 3), "stride": (2, 3)},
        {"kernel_size": (2, 3), "stride": (3, 2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_linear_networks_map_is_its_input_times_its_gradient(x, kind, options):
    torch.manual_seed(0)
    layer = kind(3, 6, bias=False, **options)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(layer(x)[0].numel(), 3, bias=False))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    found = lrp(net, x, 1, "epsilon").maps
    assert float((found - x * gradient).norm() / (x * gradient).norm()) < 1e-2
