"""Batch norm folded into convolutions: the same embeddings, where nobody watches and nothing else uses the output."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike import embed
from lookalike._core.acceleration import Accelerated
from lookalike._core.folding import Folded, NotFoldableError, find_pairs
from lookalike.encoder import Encoder
from tests.small import FailingSamples


class Block(nn.Module):
    """A residual network whose convolutions are used in several ways, by `kind`."""

    def __init__(self, kind="plain"):
        super().__init__()
        self.kind = kind
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 8, 3, bias=False, groups=4), nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        a = self.first(x)
        h = F.relu(self.first_norm(a), inplace=self.kind == "in place")
        if self.kind == "used again":
            h = h + a
        b = self.second(h)
        if self.kind == "shared":
            b = self.second(F.pad(b, (1, 1, 1, 1)))
        return self.head(F.relu(self.second_norm(b)).mean((2, 3)))


def trained(kind="plain"):
    torch.manual_seed(0)
    net = Block(kind).eval()
    for norm in (net.first_norm, net.second_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.01, 4)
    with torch.no_grad():
        net.first_norm.weight.uniform_(-2, 2)
        net.first_norm.bias.normal_()
    return net


X = torch.randn(256, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(256) % 3


@pytest.mark.parametrize(("kind", "n_pairs"), [("plain", 2), ("in place", 2), ("used again", 1), ("shared", 1)])
def test_only_outputs_that_the_norm_alone_uses_are_folded(kind, n_pairs):
    net = trained(kind)
    with torch.no_grad():
        pairs, plain = find_pairs(lambda: net(X))
        with Folded(pairs):
            folded = net(X)
    assert len(pairs) == n_pairs
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-5)
    assert not torch.equal(folded, plain)  # something else was computed


def test_a_folded_convolution_is_the_closed_form():
    net = trained()
    convolution, norm = net.first, net.first_norm
    with torch.no_grad():
        pairs, _ = find_pairs(lambda: norm(convolution(X[:1])))
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        bias = (convolution.bias - norm.running_mean) * factor + norm.bias
        expected = F.conv2d(X, convolution.weight * factor[:, None, None, None], bias, padding=1)
        with Folded(pairs):
            torch.testing.assert_close(norm(convolution(X)), expected)


def test_a_folded_output_stays_channels_last_in_an_accelerated_pass():
    net = trained()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        pairs, _ = find_pairs(lambda: net.first_norm(net.first(x)))
        with Accelerated(), Folded(pairs):
            folded = net.first_norm(net.first(x))
    assert len(pairs) == 1
    assert folded.is_contiguous(memory_format=torch.channels_last)


def test_a_pass_that_uses_a_folded_output_after_all_is_given_up():
    net = trained()
    with torch.no_grad():
        pairs, _ = find_pairs(lambda: net(X[:1]))
        net.kind = "used again"
        with pytest.raises(NotFoldableError), Folded(pairs):
            net(X)
        net.kind = "plain"
        net.second_norm.track_running_stats = False
        net.second_norm.running_mean = net.second_norm.running_var = None  # statistics of the batch
        with pytest.raises(NotFoldableError), Folded(pairs):
            net(X)


def test_changed_weights_are_folded_again_and_gradients_are_those_of_the_network():
    net = trained()
    with torch.no_grad():
        pairs, _ = find_pairs(lambda: net(X[:1]))
        with Folded(pairs):
            net(X[:1])
            net.first.weight.mul_(2)
            net.second_norm.running_var.mul_(3)
            folded = net(X)
    torch.testing.assert_close(folded, net(X).detach(), rtol=1e-5, atol=1e-5)
    with Folded(pairs):
        net(X[:8]).sum().backward()
    assert net.first.weight.grad is not None


def test_embeddings_are_within_rounding_and_the_network_stays_as_it_was():
    net = trained()
    before = copy.deepcopy(net.state_dict())
    store = embed(net, (X, Y))
    assert store.info["folded_batch_norms"] == 2
    with torch.no_grad():
        plain = Encoder(net, X[:2])(X).numpy()
    deviation = np.linalg.norm(store.embeddings - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert 0 < deviation.max() <= 1e-5
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.first._forward_hooks


def test_nothing_is_folded_where_a_hook_watches_or_a_trial_would_cost_more_than_it_gains():
    net = trained()
    assert embed(net, (X[:199], Y[:199])).info["folded_batch_norms"] == 0
    seen = []
    net.first.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    store = embed(net, (X, Y))
    assert store.info["folded_batch_norms"] == 0
    torch.testing.assert_close(torch.cat(seen[-1:])[-8:], F.conv2d(X[-8:], net.first.weight, net.first.bias, padding=1))


def test_a_network_that_does_otherwise_with_later_inputs_is_embedded_as_it_is():
    net = trained()

    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = net, nn.Linear(3, 3)

        def forward(self, x):
            net.kind = "used again" if bool((x > 50).any()) else "plain"
            return self.head(net(x))

    changing, x = Changing().eval(), X.clone()
    x[200] = 100.0
    store = embed(changing, (x, Y), batch_size=64)
    with torch.no_grad():
        plain = torch.cat([Encoder(changing, x[:2])(part) for part in x.split(64)]).numpy()
    np.testing.assert_allclose(store.embeddings, plain, rtol=1e-4, atol=1e-4)


def test_an_interrupted_pass_goes_on_in_the_same_way(tmp_path):
    net, data = trained(), FailingSamples(X, Y, limit=128)
    with pytest.raises(RuntimeError):
        embed(net, data, batch_size=64, folder=tmp_path / "z")
    data.limit = None
    embed(net, data, batch_size=64, folder=tmp_path / "z", resume=True)
    embed(net, data, batch_size=64, folder=tmp_path / "whole")
    for name in ("embeddings.npy", "embeddings.json"):
        assert (tmp_path / "z" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
