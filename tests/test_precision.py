"""The precision of a pass: chosen without a trace, the same way on processors with and without bfloat16."""

import pytest
import torch
from torch import nn

import lookalike.embedding.precision as precision
from lookalike import embed
from lookalike.encoder.shadow import shadow_of
from tests.small import FailingSamples


@pytest.fixture(params=["0", "1"], ids=["without-bfloat16", "with-bfloat16"])
def processor(request, monkeypatch):
    """A processor of either kind."""
    monkeypatch.setenv("LOOKALIKE_BFLOAT16", request.param)
    return request.param == "1"


@pytest.fixture
def every_pass_is_long(monkeypatch):
    """Makes any pass long enough to be run in bfloat16, and any network one of much arithmetic."""
    monkeypatch.setattr(precision, "_MIN_OPERATIONS", 1.0)
    monkeypatch.setattr(precision, "_MIN_ROWS", 1)
    monkeypatch.setattr(precision, "_MIN_OPERATIONS_PER_BYTE", 0.0)


class Queries(nn.Module):
    """A network whose learned query, which requires grad, enters a module."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 64))
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.mix(self.query) * x.flatten(1))


def test_owners_see_each_row_once(processor, every_pass_is_long, net, blobs):
    rows = []
    for module in net.modules():
        module.register_forward_hook(lambda _m, _i, _o: None)
    net[0].register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    encoder = precision.Encoder(net, blobs[0][:2])
    rows.clear()
    store = embed(encoder, blobs)
    assert sum(rows) == len(blobs[0])
    assert store.info["precision"] == ("bfloat16" if processor else "float32")
    assert ("precision_effect" in store.info) == processor


def test_a_short_pass_stays_in_float32(processor, net, blobs):
    assert embed(net, blobs).info["precision"] == "float32"


def test_a_query_that_requires_grad_enters_a_module(processor, every_pass_is_long, blobs):
    assert embed(Queries(), blobs).embeddings.shape == (90, 64)


def test_inputs_that_require_grad_are_embedded(processor, every_pass_is_long, net, blobs):
    x, y = blobs
    store = embed(net, (x.clone().requires_grad_(), y))
    torch.testing.assert_close(
        torch.from_numpy(store.embeddings), torch.from_numpy(embed(net, blobs).embeddings), rtol=0, atol=0.02
    )


def test_a_pass_moves_no_random_numbers(processor, every_pass_is_long, blobs):
    class Noisy(nn.Sequential):
        def forward(self, x):
            return super().forward(x + 0 * torch.rand_like(x))

    net = Noisy(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3))
    encoder = precision.Encoder(net, blobs[0][:2])
    torch.manual_seed(0)
    untouched = torch.rand(1)
    torch.manual_seed(0)
    embed(encoder, blobs)
    assert torch.equal(torch.rand(1), untouched)


def test_a_shadow_shares_weights_and_runs_no_hook(net, blobs):
    calls = []
    for module in net.modules():
        module.register_forward_pre_hook(lambda _m, _i: calls.append("before"))
        module.register_forward_hook(lambda _m, _i, _o: calls.append("after"))
    net.eval()
    shadow = shadow_of(net)
    output = shadow(blobs[0])
    assert not calls
    assert torch.equal(output, net(blobs[0]))
    assert shadow[0].weight is net[0].weight
    shadow.train()
    assert not net.training


def test_the_choice_is_a_rule_so_two_calls_give_the_same_bits(processor, monkeypatch, blobs):
    """No clock decides: much arithmetic per byte goes to bfloat16, little stays, each time anew."""
    monkeypatch.setattr(precision, "_MIN_OPERATIONS", 1.0)
    monkeypatch.setattr(precision, "_MIN_ROWS", 1)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    each = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(64, 1))
    for network, much in ((wide, True), (each, False)):
        stores = [embed(network, blobs) for _ in range(3)]
        assert {store.info["precision"] for store in stores} == {"bfloat16" if processor and much else "float32"}
        assert all((store.embeddings == stores[0].embeddings).all() for store in stores)


def test_the_effect_is_measured_on_rows_spread_over_the_pass(net, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(1100, 1, 8, 8, generator=generator), torch.arange(1100) % 3
    half = embed(net, (x, y), precision="bfloat16", batch_size=100).info["precision_effect"]
    full = embed(net, (x, y), precision="float32")
    halves = embed(net, (x, y), precision="bfloat16").embeddings
    rows = [0, 550]  # two of 1,100
    difference = torch.from_numpy(halves[rows] - full.embeddings[rows]).norm(dim=1).mean()
    assert half["rows"] == 2
    assert half["deviation"] == pytest.approx(
        float(difference / torch.from_numpy(full.embeddings[rows]).norm(dim=1).mean()), rel=0.02
    )
    assert half["same_predictions"] in (0, 0.5, 1)
    assert not any(name.startswith("compared_from_") for name in full.info)


def test_an_interrupted_pass_in_half_precision_ends_with_the_same_effect(net, tmp_path):
    data = FailingSamples(
        torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(256) % 3, limit=128
    )
    options = {"precision": "bfloat16", "batch_size": 64}
    with pytest.raises(RuntimeError):
        embed(net, data, folder=tmp_path / "z", **options)
    data.limit = None
    store = embed(net, data, folder=tmp_path / "z", resume=True, **options)
    embed(net, data, folder=tmp_path / "whole", **options)
    assert store.info["precision_effect"]["rows"] == 1
    assert (tmp_path / "z" / "embeddings.json").read_bytes() == (tmp_path / "whole" / "embeddings.json").read_bytes()
