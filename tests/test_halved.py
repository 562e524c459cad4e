"""The copy in bfloat16 in which a GPU embeds; here it is used on the CPU."""

import pytest
import torch
from torch import nn

from lookalike import embed
from lookalike._core.folding import find_pairs
from lookalike.embedding import halved, one_pass
from lookalike.embedding.effect import PrecisionEffect
from lookalike.embedding.halved import Halved, halved_copy
from lookalike.encoder import Encoder
from tests.small import FailingSamples
from tests.watch import model_state


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.head((self.other(self.second(x)) + x).relu().mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Network()
    for norm in (network.norm, network.other):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
    return network.eval()


@pytest.fixture
def on_gpu(monkeypatch):
    """Makes short passes on this processor use the copy, as long ones on a GPU do."""
    monkeypatch.setattr(one_pass, "computes_in_halves", lambda device: True)
    monkeypatch.setattr(halved, "_FEWEST_ROWS", 1)


def data(n=40):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 4


def test_the_copy_computes_the_same_with_its_norms_folded_and_the_network_stays(network):
    encoder, x = Encoder(network, data()[0][:2]), data()[0]
    before = model_state(network)
    pairs, plain = find_pairs(lambda: encoder(x))
    copy = Halved(encoder, pairs)
    z, scores = copy.embed_and_score(x)
    assert (copy.n_folded, z.dtype, scores.dtype) == (2, torch.bfloat16, torch.bfloat16)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy._copy.modules())
    assert ((z.float() - plain).norm(dim=1) / plain.norm(dim=1)).max() < 0.01
    assert model_state(network) == before
    assert all(p.dtype == torch.float32 for p in network.parameters())


class WithActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_that_does_more_is_not_folded(network):
    network.norm = WithActivation(8).eval()
    encoder = Encoder(network, data()[0][:2])
    pairs, plain = find_pairs(lambda: encoder(data()[0]))
    copy = Halved(encoder, pairs)
    assert copy.n_folded == 1
    assert ((copy.embed_and_score(data()[0])[0].float() - plain).norm(dim=1) / plain.norm(dim=1)).max() < 0.01


def test_shared_weights_stay_shared(network):
    network.second.weight = nn.Parameter(torch.randn(8, 8, 3, 3))
    network.again = nn.Conv2d(8, 8, 3)
    network.again.weight = network.second.weight
    copy = Halved(Encoder(network, data()[0][:2]), [])
    assert copy._copy.model.again.weight is copy._copy.model.second.weight


def test_a_pass_uses_it_and_says_so(on_gpu, network):
    store = embed(network, data(), precision="bfloat16")
    assert store.info["bfloat16_weights"] is True
    assert store.info["folded_batch_norms"] == 2
    exact = embed(network, data(), precision="float32")
    assert "bfloat16_weights" not in exact.info
    deviation = torch.from_numpy(store.embeddings - exact.embeddings).norm(dim=1)
    assert (deviation / torch.from_numpy(exact.embeddings).norm(dim=1)).max() < 0.01
    assert store.info["precision_effect"]["deviation"] < 0.01


class Sensitive(Network):
    def forward(self, x):
        return self.head((self.norm(self.first(x)) * 100).sin().mean((2, 3)))  # 100 x is known to half a turn


def test_a_network_that_bfloat16_weights_change_too_much_is_computed_otherwise(on_gpu):
    torch.manual_seed(0)
    store = embed(Sensitive(), data(), precision="bfloat16")
    assert "bfloat16_weights" not in store.info


def test_hooks_and_short_passes(network, on_gpu, monkeypatch):
    encoder, x = Encoder(network, data()[0][:2]), data()[0]
    assert halved_copy(encoder, x, 40) is not None
    network.first.register_forward_hook(lambda *_: None)
    assert halved_copy(encoder, x, 40) is None
    monkeypatch.undo()
    assert halved_copy(Encoder(Network().eval(), x[:2]), x, 40) is None


def test_a_resumed_pass_goes_on_in_the_same_way(on_gpu, network, tmp_path, monkeypatch):
    x, y = data()
    whole = embed(network, FailingSamples(x, y, None), folder=tmp_path / "whole", precision="bfloat16", batch_size=8)
    samples = FailingSamples(x, y, 20)
    with pytest.raises(Exception, match="power cut"):
        embed(network, samples, folder=tmp_path / "part", precision="bfloat16", batch_size=8)
    samples.limit = None
    monkeypatch.setattr(halved, "_TOLERANCE", 0.0)  # the trial is not repeated
    resumed = embed(network, samples, folder=tmp_path / "part", precision="bfloat16", batch_size=8, resume=True)
    assert (resumed.embeddings == whole.embeddings).all()
    assert resumed.info["bfloat16_weights"] is True


@pytest.mark.parametrize("total", [4096, 100_000, 700, None])
def test_on_a_gpu_the_compared_rows_follow_each_other(network, total):
    """As many rows as on a CPU, the same for all batch sizes."""
    encoder = Encoder(network, data()[0][:2])
    found = []
    for n in (64, 100):
        effect = PrecisionEffect(encoder, total, torch.device("cuda"))
        rows = [
            start + row
            for start in range(0, total or 100_000, n)
            for group in effect._groups(start, min(n, (total or 100_000) - start))
            for row in range(group.start, group.stop)
        ]
        found.append(rows)
    assert found[0] == found[1]
    assert len(found[0]) == (64 if total is None else max(1, min(64, total // 512)))
