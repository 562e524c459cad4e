"""What is right in every spelling of a network and of an argument, or refused in one line."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike import LookalikeError, convert
from lookalike.relevance import Composite, lrp, prp
from lookalike.relevance.attribution import lrp_of_heads
from lookalike.relevance.rules import Epsilon
from tests.small import bright_images


class Function(nn.Module):
    """A network without biases: a function of a convolution's features."""

    def __init__(self, function, channels=4):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.Conv2d(3, channels, 3, padding=1)
        self.head, self.function = nn.Linear(channels, 3, bias=False), function

    def forward(self, x):
        return self.head(self.function(self.first(x), self.gate(x)).mean((2, 3)))


def maps_of(function, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lrp(Function(function).eval(), x, composite="epsilon")


X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EQUAL = {
    "lerp": (
        lambda a, b: torch.lerp(a, 2 * a, b.sigmoid()),
        lambda a, b: a + (2 * a - a) * b.sigmoid(),
    ),
    "div by name": (lambda a, b: a.div(other=b.exp()), lambda a, b: a / b.exp()),
    "all by name": (lambda a, b: torch.div(input=a, other=2.0), lambda a, b: a / 2.0),
    "addmm by name": (
        lambda a, b: torch.addmm(input=b.flatten(2)[:, :, 0], mat1=a.mean((2, 3)), mat2=torch.eye(4))[..., None, None],
        lambda a, b: torch.addmm(b.flatten(2)[:, :, 0], a.mean((2, 3)), torch.eye(4))[..., None, None],
    ),
    "baddbmm by name": (
        lambda a, b: torch.baddbmm(b, batch1=a, batch2=b) if a.ndim == 3 else torch.baddbmm(
            b.flatten(0, 1), batch1=a.flatten(0, 1), batch2=b.flatten(0, 1)
        ).reshape(a.shape),
        lambda a, b: (b.flatten(0, 1) + a.flatten(0, 1) @ b.flatten(0, 1)).reshape(a.shape),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_two_spellings_of_one_operation_have_one_map(name):
    first, second = (maps_of(function, X) for function in EQUAL[name])
    torch.testing.assert_close(first.maps, second.maps, atol=1e-6, rtol=1e-4)


def test_a_sampling_grid_of_the_image_is_held_constant():
    def sampled(a, b):
        return F.grid_sample(a, b[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)

    relevance = maps_of(sampled, X)
    assert float(relevance.residual.max()) < 1e-3

    def of_grid(a, b):
        return F.grid_sample(torch.ones(len(a), 4, 4, 4), b[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False)

    with pytest.warns(UserWarning, match="'grid_sample at a grid of the image' has no relevance rule"):
        lrp(Function(of_grid).eval(), X)


@pytest.mark.parametrize("outputs", [6, 5])
def test_a_norm_over_another_axis_is_not_folded_into_the_layer_before(outputs):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), nn.init.normal_(norm.weight)
    net = nn.Sequential(nn.Linear(4, outputs), norm, nn.Flatten(), nn.Linear(6 * outputs, 3)).eval()

    class Copied(nn.Module):
        def forward(self, x):
            return x.clone()

    apart = nn.Sequential(net[0], Copied(), *net[1:]).eval()
    x = torch.randn(3, 6, 4)
    torch.testing.assert_close(lrp(net, x, 0, "epsilon").maps, lrp(apart, x, 0, "epsilon").maps, atol=1e-5, rtol=1e-3)


class Attends(nn.Module):
    def __init__(self, uses):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head, self.uses = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3), uses

    def forward(self, x):
        out, weights = self.attention(x, x, x, average_attn_weights=self.uses != "heads")
        self.last = weights.detach()
        if self.uses == "mask":
            mask = torch.zeros(len(x) * 2, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
            out, _ = self.attention(x, x, x, attn_mask=mask)
        if self.uses in ("pooled", "heads"):
            weights = weights if self.uses == "pooled" else weights.sum(1)
            out = weights @ out
        return self.head(out.mean(1))


@pytest.mark.parametrize("uses", ["nothing", "pooled", "heads", "mask"])
def test_networks_that_use_attention_weights_are_explained(uses):
    net, x = Attends(uses).eval(), torch.randn(3, 5, 8)
    relevance = lrp(net, x, 1, "attnlrp", strict=True)
    assert relevance.caution is None
    assert relevance.maps.isfinite().all()
    assert net.last.shape[1:] == ((2, 5, 5) if uses == "heads" else (5, 5))


def wide():
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1024, 3))


@pytest.mark.parametrize("edit", ["part", "NumPy", "order"])
def test_maps_follow_any_edit_of_the_weights(edit):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
    )
    lrp(net, X, 0)
    weight = net[2].weight
    if edit == "part":
        weight.data[:, 5:40] = 0
    elif edit == "NumPy":
        weight.detach().numpy()[:, :, 1:] *= -1
    else:
        weight.data.copy_(weight.data.flip(0))
    fresh = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
    )
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(lrp(net, X, 0).maps, lrp(fresh, X, 0).maps)


class Switched(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.soft = nn.Linear(192, 3), False

    def forward(self, x):
        scores = self.head(x.flatten(1))
        return 5 * scores.softmax(1) / 5 if self.soft else scores


def test_what_is_known_of_outputs_follows_the_network():
    net, fresh = Switched().eval(), Switched().eval()
    lrp(net, X, of="probability")
    net.soft = fresh.soft = True
    assert torch.equal(lrp(net, X, of="probability").maps, lrp(fresh, X, of="probability").maps)
    net.soft = False
    net.head = nn.Linear(192, 7)
    lrp(net, X, target=5)
    net.head.weight = nn.Parameter(torch.randn(9, 192))
    net.head.bias = None
    assert lrp(net, X, target=8).maps.shape == X.shape


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return convert(net, bright_images(60), n_prototypes=2, progress=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int64])
def test_numbers_of_any_type_are_numbers(model, dtype):
    x = bright_images(6)[0]
    assert torch.equal(prp(model, x, np.array([3], dtype)).maps, prp(model, x, [3]).maps)
    assert torch.equal(lrp(model, x, np.array([1] * 6, dtype)).maps, lrp(model, x, 1).maps)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 2])
def test_images_without_numbers_have_no_map(model, bad, row):
    x = bright_images(6)[0].clone()
    x[row, 0, 3, 3] = bad
    for explain in (lambda: lrp(model, x), lambda: prp(model, x, batch_size=2), lambda: lrp(model.encoder.model, x)):
        with pytest.raises(LookalikeError, match=f"no maps of the images in rows {row}: they have NaN or infinite"):
            explain()
    json.dumps(lrp(model, x[3:]).to_dict(), allow_nan=False)


def test_arguments_that_cannot_be_are_refused_in_one_line(model):
    x = bright_images(6)[0]
    assert torch.equal(lrp(model, x.tolist()).maps, lrp(model, x).maps)
    with pytest.raises(LookalikeError, match="of floating-point numbers, as the network takes them"):
        lrp(model, (x * 9).long())
    with pytest.raises(LookalikeError, match="bytes"):
        lrp(model, (x * 9).byte())
    with pytest.raises(LookalikeError, match="a prototype model has one output"):
        lrp(model, x, output="logits")
    with pytest.raises(LookalikeError, match="composite"):
        lrp_of_heads(model.encoder, x, [lambda z, rows: z], composite=None)
    with pytest.raises(LookalikeError, match="softmax must be"):
        Composite("own", {"linear": Epsilon()}, softmax="Constant")
    with pytest.raises(LookalikeError, match="no rule for operations of the kind 'convolution'"):
        lrp(model, x, composite=Composite("own", {"linear": Epsilon()}))


def test_prototypes_of_the_predicted_class_need_equal_numbers_whatever_the_batch():
    data = bright_images(60)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    unequal = convert(net, data, n_prototypes={"0": 1, "1": 2, "2": 2}, progress=False)
    for size in (1, 32):
        with pytest.raises(LookalikeError, match="the classes have different numbers of prototypes"):
            prp(unequal, data[0][:6], "predicted", batch_size=size)


@pytest.mark.parametrize(("shape", "last"), [((9, 12, 1), False), ((6, 8, 4), False), ((12, 12, 3), True)])
def test_the_channels_are_those_of_the_first_convolution(shape, last):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(shape[2] if last else shape[0], 4, 1), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.first(x.permute(0, 3, 1, 2) if last else x).relu().mean((2, 3)))

    relevance = lrp(Net().eval(), torch.rand(2, *shape), batch_size=1)
    assert relevance.pixels.shape[1:] == (shape[:2] if last else shape[1:])
