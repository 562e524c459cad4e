"""What a head gives: all of the class scores, or a part of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from lookalike import Encoder, LookalikeError, convert, explain
from lookalike.relevance import lrp

X = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(5))
Y = torch.arange(24) % 3


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def features(self, x):
        return F.relu(self.convolution(x)).mean((2, 3))

    def logits(self, x):
        return self.head(self.features(x))

    def forward(self, x):
        return self.logits(x)


class TwoHeads(Plain):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(6, 3)

    def logits(self, x):
        z = self.features(x)
        return (self.head(z) + self.other(z)) / 2


class Skip(Plain):
    def logits(self, x):
        return self.head(self.features(x)) + 4 * x.mean((2, 3))


def softmax_of(kind):
    class Probabilities(kind):
        def forward(self, x):
            return self.logits(x).softmax(1)

    torch.manual_seed(1)
    return Probabilities().double().eval()


@pytest.mark.parametrize("kind", [Plain, TwoHeads, Skip])
def test_relevance_of_a_probability_takes_every_path_to_it(kind):
    net, x = softmax_of(kind), X[:4].double()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)
    found = lrp(net, x, 0, "epsilon", of="probability")
    assert float((found.maps - gradient * x).norm() / (gradient * x).norm()) < 1e-3
    outputs = Encoder(net, x[:2], head="head").outputs
    assert outputs.logits_from == ("head" if kind is Plain else None)


def test_probabilities_that_round_to_one_hide_no_other_head():
    net = softmax_of(TwoHeads)
    with torch.no_grad():
        for head in (net.head, net.other):
            head.weight *= 1000
    assert Encoder(net, X[:2].double(), head="head").outputs.logits_from is None


@pytest.mark.parametrize("kind", [TwoHeads, Skip])
def test_the_weights_of_one_head_of_several_are_no_metric(kind):
    torch.manual_seed(0)
    net = kind().eval()
    assert Encoder(net, X[:2], head="head").head_weight is None
    with pytest.raises(LookalikeError, match="the weights of a black box's linear head"):
        convert(net, (X, Y), n_prototypes=2, similarity="head", head="head", progress=False)


def test_what_follows_a_head_leaves_its_weights_a_metric():
    class Warm(Plain):
        def forward(self, x):
            return self.logits(x) / 2.5 + 1

    net = Warm().eval()
    assert torch.equal(Encoder(net, X[:2]).head_weight, net.head.weight)


class Buffered(Plain):
    """As with memory that is set aside for features once and for all."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(64, 6), persistent=False)

    def logits(self, x):
        z = self.memory[: len(x)]
        z.copy_(self.features(x))
        return self.head(z)


def test_embeddings_are_no_memory_of_the_networks():
    torch.manual_seed(0)
    net, plain = Buffered().eval(), Plain().eval()
    plain.load_state_dict(net.state_dict())
    found, expected = (convert(one, (X, Y), n_prototypes=2, progress=False) for one in (net, plain))
    first = found.embed(X[:4])
    assert torch.equal(found.embed(X, batch_size=8), expected.embed(X, batch_size=8))
    assert torch.equal(first, expected.embed(X[:4]))
    assert torch.equal(found.predict(X), expected.predict(X))


class InPlace(Plain):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


def test_a_network_that_writes_into_its_inputs_gets_copies():
    torch.manual_seed(0)
    net, plain = InPlace().eval(), Plain().eval()
    plain.load_state_dict(net.state_dict())
    x, before = X.clone(), (X - 0.5) / 0.25
    found = convert(net, (x, Y), n_prototypes=2, progress=False)
    expected = convert(plain, (before, Y), n_prototypes=2, progress=False)
    torch.testing.assert_close(found.prototypes.vectors, expected.prototypes.vectors)
    assert torch.equal(found.predict(x), expected.predict(before))
    maps = lrp(net, x[:6], composite="epsilon").maps
    leaf = x[:6].clone()
    torch.testing.assert_close(maps, torch.cat([lrp(net, leaf[k : k + 1], composite="epsilon").maps for k in range(6)]))
    assert torch.equal(x, X)
    assert torch.equal(leaf, X[:6])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_type_changes_nothing(dtype):
    torch.manual_seed(0)
    net = Plain().eval()
    expected = convert(net, (X, Y), n_prototypes=2, progress=False)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = convert(net, (X, Y), n_prototypes=2, progress=False)
        assert torch.equal(found.prototypes.vectors, expected.prototypes.vectors)
        assert found.prototypes.quantiles.dtype == torch.float32
        assert torch.equal(found.predict_proba(X), expected.predict_proba(X))
        assert torch.equal(found.encoder.probe(), expected.encoder.probe())
    finally:
        torch.set_default_dtype(before)


def test_a_network_without_weights_is_not_trained():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(LookalikeError, match="lazy layers that have no weights yet"):
        convert(net, (X, Y), progress=False)
    assert any(is_lazy(parameter) for parameter in net.parameters())


def test_a_frozen_script_inside_a_network_is_run():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.jit.freeze(torch.jit.script(Plain().eval())), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.inner(x))

    net = Outer().eval()
    model = convert(net, (X, Y), n_prototypes=2, progress=False)
    torch.testing.assert_close(model.embed(X), net.inner(X))


def test_heat_maps_of_tokens_are_refused():
    class OfTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 3)

        def forward(self, tokens):
            return self.head(self.table(tokens).mean(1))

    tokens = torch.randint(0, 10, (24, 5), generator=torch.Generator().manual_seed(0))
    model = convert(OfTokens().eval(), (tokens, Y), n_prototypes=2, progress=False)
    assert len(explain(model, tokens[:2])) == 2
    with pytest.raises(LookalikeError, match="explain them without relevance"):
        explain(model, tokens[:2], relevance=True)


def test_a_class_that_is_hidden_by_infinity_hides_no_path():
    class Masked(Plain):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([False, False, True]), float("-inf"))

    encoder = Encoder(Masked().eval(), X[:2])
    assert torch.equal(encoder.head(encoder.features(X)), encoder.model(X))


def test_tokens_say_which_output_of_a_head_is_read():
    class LastToken(nn.Module):
        """As decoders of text do, which find the last token by the number of the padding."""

        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 3)

        def forward(self, tokens):
            scores = self.head(self.table(tokens))
            return scores[torch.arange(len(tokens)), (tokens != 0).sum(1) - 1]

    tokens = torch.randint(1, 10, (8, 5), generator=torch.Generator().manual_seed(0))
    tokens[0, 3:] = 0
    net = LastToken().eval()
    assert torch.equal(Encoder(net, tokens, head="head").head_weight, net.head.weight)
