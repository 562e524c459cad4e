"""The trial of a pass: it takes what is faster, costs little, leaves short passes alone, and is written down."""

import time

import pytest
import torch
from torch import nn

from lookalike import convert, embed
from tests.small import FailingSamples

_PAUSE = 0.01  # seconds for each call, and four times as long if it is slow: far above what the network itself takes
_ROWS = 6400


@pytest.fixture(autouse=True)
def processor_with_bfloat16(monkeypatch):
    monkeypatch.setenv("LOOKALIKE_BFLOAT16", "1")


class Slow(nn.Module):
    """A network that is slow in one way of computing."""

    def __init__(self, is_slow):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 3)
        self.is_slow = is_slow
        self.rows = 0
        self.eval()

    def forward(self, x):
        y = self.convolution(x)
        time.sleep(_PAUSE * (4 if self.is_slow(y) else 1))
        return self.head(self.norm(y).relu().flatten(1))


def in_half(_):
    return torch.is_autocast_enabled("cpu")


def in_float32(_):
    return not torch.is_autocast_enabled("cpu")


def with_channels_last(y):
    return not y.is_contiguous()


def data(n):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


@pytest.mark.parametrize(
    ("is_slow", "name", "expected"),
    [
        (in_half, "precision", "float32"),
        (in_float32, "precision", "bfloat16"),
        (with_channels_last, "channels_last", False),
        (lambda y: not with_channels_last(y), "channels_last", True),
    ],
)
def test_the_faster_way_is_taken_and_written_down(is_slow, name, expected):
    info = embed(Slow(is_slow), data(_ROWS), precision="fastest", batch_size=200).info
    assert info[name] == expected
    taken = {key: info[key] for key in ("precision", "channels_last")}
    seconds = {way["seconds_per_row"]: {key: way[key] for key in taken} for way in info["trial"]}
    assert len(seconds) >= 3
    assert seconds[min(seconds)][name] == expected


def test_the_results_are_those_of_the_network_up_to_rounding():
    network = Slow(with_channels_last)
    found, plain = (embed(network, data(_ROWS), precision=asked, batch_size=200) for asked in ("fastest", "float32"))
    tolerance = 1e-5 if found.info["precision"] == "float32" else 3e-2
    torch.testing.assert_close(
        torch.from_numpy(found.embeddings[:]), torch.from_numpy(plain.embeddings[:]), rtol=tolerance, atol=tolerance
    )


def test_a_short_pass_is_computed_by_the_rule():
    info = embed(Slow(in_float32), data(1500), precision="fastest", batch_size=200).info
    assert (info["precision"], info["trial"]) == ("float32", [])


def test_auto_times_nothing():
    assert "trial" not in embed(Slow(in_float32), data(_ROWS), batch_size=200).info


@pytest.mark.parametrize("total", [1600, pytest.param(6400, marks=pytest.mark.slow)])
def test_the_trial_costs_at_most_a_fiftieth_of_the_pass(total):
    """Every row takes as long; so the rows that pass in the trial are its cost."""
    network, passed = Slow(lambda y: time.sleep(_PAUSE / 10 * len(y))), []
    original = network.convolution.forward
    network.convolution.forward = lambda x: passed.append(len(x)) or original(x)
    embed(network, data(total), precision="auto", batch_size=800)
    by_rule = sum(passed)
    passed.clear()
    embed(network, data(total), precision="fastest", batch_size=800)
    assert 0 < sum(passed) - by_rule <= total / 50


def test_a_resumed_pass_goes_on_as_it_began(tmp_path):
    images = FailingSamples(*data(_ROWS), limit=3200)
    network, options = Slow(with_channels_last), {"precision": "fastest", "batch_size": 200}
    with pytest.raises(RuntimeError):
        embed(network, images, folder=tmp_path / "z", **options)
    images.limit, network.is_slow = None, lambda y: not with_channels_last(y)  # a new trial would find the other
    info = embed(network, images, folder=tmp_path / "z", resume=True, **options).info
    assert info["channels_last"] is False


def test_a_model_records_the_trial():
    model = convert(Slow(in_half), data(_ROWS), n_prototypes=2, precision="fastest", batch_size=200, progress=False)
    assert model.provenance["precision"] == "float32"
    assert len(model.provenance["trial"]) >= 3
