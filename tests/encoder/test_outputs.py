"""What a classifier's numbers are, and which output holds them: read once, when it is cut."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike import convert
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches
from lookalike.encoder import Encoder
from lookalike.encoder.outputs import as_columns
from lookalike.explanation import explain
from lookalike.metrics.black_box import BlackBox
from lookalike.relevance import lrp


class Net(nn.Module):
    """A linear classifier, and what becomes of its logits [N, K]."""

    def __init__(self, n, tail, inputs=12):
        super().__init__()
        generator = torch.Generator().manual_seed(n)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 6), nn.ReLU())
        self.head, self.tail = nn.Linear(6, n), tail
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.4, generator=generator)

    def forward(self, x):
        return self.tail(self.head(self.body(x)))


class ConvNet(Net):
    def __init__(self, n, tail):
        super().__init__(n, tail)
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 6, 2), nn.ReLU()), nn.Conv2d(6, n, 1)


X = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(0))

MANY = {  # tail: (kind, how its probabilities follow from its outputs as columns)
    "logits": (nn.Identity(), "logits", lambda s: s.softmax(1)),
    "temperature": (lambda s: s / 3, "logits", lambda s: s.softmax(1)),
    "softmax": (nn.Softmax(1), "probabilities", lambda s: s),
    "softmax with temperature": (lambda s: (s / 3).softmax(1), "probabilities", lambda s: s),
    "log-softmax": (nn.LogSoftmax(1), "log-probabilities", torch.exp),
    "sigmoids": (nn.Sigmoid(), "sigmoids", lambda s: s),
    "[N, 1, K]": (lambda s: s[:, None], "logits", lambda s: s.softmax(1)),
    "[N, K, 1, 1] of probabilities": (lambda s: s.softmax(1)[..., None, None], "probabilities", lambda s: s),
    "dict": (lambda s: {"embedding": s[:, :1] * 0, "scores": s.softmax(1)}, "probabilities", lambda s: s),
}
SINGLE = {  # tail: (kind, the probability of class 1)
    "[N, 1]": (nn.Identity(), "logits", torch.sigmoid),
    "[N]": (lambda s: s[:, 0], "logits", torch.sigmoid),
    "squeezed": (torch.squeeze, "logits", torch.sigmoid),
    "[N, 1, 1, 1]": (lambda s: s[..., None, None], "logits", torch.sigmoid),
    "sigmoid [N, 1]": (nn.Sigmoid(), "sigmoids", lambda s: s),
    "sigmoid [N]": (lambda s: s[:, 0].sigmoid(), "sigmoids", lambda s: s),
    "log-sigmoid": (nn.LogSigmoid(), "log-probabilities", torch.exp),
}


@pytest.mark.parametrize("make", [Net, ConvNet])
@pytest.mark.parametrize("name", MANY)
def test_the_scores_of_many_classes_are_read_as_what_they_are(name, make):
    tail, kind, to_probabilities = MANY[name]
    net = make(4, nn.Sequential(nn.Flatten(), Call(tail)) if make is ConvNet else tail).eval()
    encoder = Encoder(net, X[:2])
    box = BlackBox.of(encoder, Batches((X, torch.zeros(40, dtype=torch.int64))))
    scores = encoder.scores(X)
    assert (scores.shape, encoder.outputs.kind, encoder.outputs.n_classes) == ((40, 4), kind, 4)
    torch.testing.assert_close(box.probabilities(X), to_probabilities(scores))
    assert torch.equal(encoder.outputs.predicted(scores), scores.argmax(1))


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_output_is_read_as_what_it_is(name):
    tail, kind, to_probability = SINGLE[name]
    net = Net(1, tail).eval()
    encoder = Encoder(net, X[:2])
    scores = encoder.scores(X)
    assert (scores.shape, encoder.outputs.kind, encoder.outputs.n_classes) == ((40, 1), kind, 2)
    p = to_probability(net(X).reshape(40))
    box = BlackBox(encoder)
    torch.testing.assert_close(box.probabilities(X), torch.stack([1 - p, p], 1))
    assert torch.equal(encoder.outputs.predicted(scores), (p > 0.5).long())
    assert 5 < int((p > 0.5).sum()) < 35  # both classes occur
    for rows in (X[:1], X[:3]):  # squeezing leaves nothing of a batch of one
        torch.testing.assert_close(box.probabilities(rows)[:, 1], p[: len(rows)])


def test_one_logit_shown_as_two_probabilities():
    net = Net(1, lambda s: torch.cat([1 - s.sigmoid(), s.sigmoid()], 1)).eval()
    outputs = Encoder(net, X[:2]).outputs
    assert (outputs.kind, outputs.n_classes) == ("probabilities", 2)


def test_values_that_look_like_probabilities_decide_nothing():
    """The first images' logits happen to be 0.3 and 0.7; a sigmoid network's first images are all below one half."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    sample = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    assert Encoder(nn.Sequential(head), sample).outputs.kind == "logits"
    one = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([[1.0, 0.0]]))
    assert Encoder(nn.Sequential(one), sample).outputs.kind == "logits"
    assert Encoder(nn.Sequential(one, nn.Sigmoid()), sample).outputs.kind == "sigmoids"


@pytest.mark.parametrize("tail", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.Identity()])
def test_a_head_of_several_layers_and_half_precision(tail):
    expected = {nn.Softmax: "probabilities", nn.LogSoftmax: "log-probabilities", nn.Sigmoid: "sigmoids"}
    kind = expected.get(type(tail), "logits")
    net = Net(5, nn.Identity()).eval()
    net.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), tail)
    assert Encoder(net, X[:2], head="head").outputs.kind == kind
    many = Net(200, tail).eval().bfloat16()
    assert Encoder(many, X[:2].bfloat16()).outputs.kind == kind


def test_the_kind_survives_saving(tmp_path, blobs):
    from lookalike.model import load

    x, y = blobs
    net = Net(3, nn.Softmax(1), 64).eval()
    sem = convert(net, (x, y), n_prototypes=2, class_order=["b", "a", "c"], progress=False, class_names=list("abc"))
    sem.save(tmp_path / "m")
    again = load(tmp_path / "m", model=net).encoder.outputs
    assert again == sem.encoder.outputs
    assert (again.kind, again.names) == ("probabilities", ("b", "a", "c"))


Pair = namedtuple("Pair", ["features", "scores"])


@dataclass
class Result:
    features: torch.Tensor
    scores: torch.Tensor


@pytest.mark.parametrize(
    ("pack", "key"),
    [
        (lambda z, s: (z, s), 1),
        (lambda z, s: [z, s], 1),
        (lambda z, s: {"z": z, "logits": s}, "logits"),
        (lambda z, s: {"z": z, "out": s}, "out"),
        (Pair, "scores"),
        (Result, "scores"),
    ],
)
def test_lrp_explains_the_output_that_the_encoder_finds(pack, key):
    class Several(Net):
        def forward(self, x):
            z = self.body(x)
            return pack(z, self.head(z))

    several, plain = Several(4, None).eval(), Net(4, nn.Identity()).eval()
    encoder = Encoder(several, X[:2])
    assert encoder.output_key == key
    torch.testing.assert_close(encoder.scores(X), plain(X))
    for of in ("score", "probability"):
        expected = lrp(plain, X[:3], of=of).maps
        torch.testing.assert_close(lrp(several, X[:3], of=of).maps, expected)
        torch.testing.assert_close(lrp(several, X[:3], of=of, output=encoder.outputs).maps, expected)


@pytest.mark.parametrize("name", SINGLE)
def test_both_classes_of_a_single_output_are_explained(name):
    """As the same network with two logits, 0 and the single one."""
    net = Net(1, SINGLE[name][0]).double().eval()
    two = Net(2, nn.Identity()).double().eval()
    two.load_state_dict({**net.state_dict(), "head.weight": torch.cat([net.head.weight * 0, net.head.weight]),
                         "head.bias": torch.cat([net.head.bias * 0, net.head.bias])})  # fmt: skip
    x = X.double()
    for target in (None, 0, 1):
        found, expected = (lrp(m, x, target, "epsilon", of="probability") for m in (net, two))
        torch.testing.assert_close(found.maps, expected.maps, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.residual, expected.residual, rtol=1e-3, atol=1e-6)
    against, towards = (lrp(net, x, target, "epsilon").maps for target in (0, 1))
    if SINGLE[name][1] == "logits":
        torch.testing.assert_close(against, -towards)
    predicted = Encoder(net, x[:2]).outputs.predicted(net(x).reshape(-1, 1))
    assert torch.equal(lrp(net, x, None, "epsilon").maps, lrp(net, x, predicted, "epsilon").maps)


@pytest.mark.parametrize("name", ["softmax", "log-softmax", "[N, K, 1, 1] of probabilities", "dict"])
def test_a_softmax_inside_gives_the_maps_of_the_network_without_it(name):
    inside, outside = Net(4, MANY[name][0]).double().eval(), Net(4, nn.Identity()).double().eval()
    x = X.double()
    for target in (None, 0, [[1, 3]] * 40):
        found, expected = (lrp(m, x, target, "epsilon", of="probability") for m in (inside, outside))
        torch.testing.assert_close(found.maps, expected.maps, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.residual, expected.residual, rtol=1e-3, atol=1e-6)


def test_a_saturated_softmax_inside_still_has_a_map():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False), nn.Softmax(1)).eval()
    with torch.no_grad():
        net[1].weight.fill_(-2.0)[0] = 2.0
        x = torch.ones(2, 3, 2, 2)
        assert float(net(x).max()) == 1.0
    assert float(lrp(net, x, of="probability", composite="epsilon").maps.abs().flatten(1).sum(1).min()) > 0


def test_the_black_boxs_map_of_an_image_predicted_as_class_0_is_not_upside_down():
    x = torch.zeros(40, 1, 8, 8)
    y = torch.arange(40) % 2
    x[y == 0, :, :4] = 1.0  # class 0 is bright above
    x[y == 1, :, 4:] = 1.0
    x = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 1), nn.Flatten(0))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[0, :32], net[1].weight[1, 32:] = 1.0, 1.0
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[-1.0, 1.0, 0.0, 0.0]]))
        net[3].bias.zero_()
    sem = convert(net, (x, y), n_prototypes=1, progress=False)
    shown = explain(sem, x[:2], relevance=True, composite="epsilon")
    for row, half in ((0, slice(0, 4)), (1, slice(4, 8))):
        assert shown[row].black_box_heat_map[half].sum() > 1


@pytest.mark.parametrize("pack", [lambda s: s, lambda s: {"out": s, "aux": s[:, :1]}])
def test_an_output_for_each_pixel_is_refused_until_its_user_says_how_to_read_it(pack):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1), Call(pack)).eval()
    x = torch.randn(2, 1, 8, 8)
    output = None if isinstance(net(x), torch.Tensor) else "out"
    with pytest.raises(LookalikeError, match=r"has shape \(3, 8, 8\) per image.*mean over the positions.*head='2'"):
        Encoder(net, x, output=output)
    pooled = nn.Sequential(net, Call(lambda s: (s if output is None else s[output]).mean((2, 3))))
    assert Encoder(pooled, x).outputs.n_columns == 3
    assert lrp(pooled, x).maps.shape == x.shape
    encoder = Encoder(net, x, head="2", output=output)
    torch.testing.assert_close(encoder(x), net[:2](x).mean((2, 3)))
    assert encoder.outputs is None
    assert encoder.embed_and_score(x)[1] is None
    with pytest.raises(LookalikeError, match=r"shape \(2, 3, 8, 8\), not a row of scores"):
        encoder.scores(x)
    with pytest.raises(
        LookalikeError, match=r"shape \(2, 3, 8, 8\).*needs a row of scores per image.*return their mean"
    ):
        lrp(net, x, output=output)


def test_a_target_of_a_single_output_is_0_or_1():
    with pytest.raises(LookalikeError, match="target 2 is no class; the model has 2"):
        lrp(Net(1, nn.Identity()).eval(), X, 2)


def test_the_network_is_left_as_it_was(untouched):
    net = Net(3, nn.Softmax(1))
    with untouched(net):
        Encoder(net, X[:2])
        lrp(net, X[:2], of="probability")


def test_probabilities_sum_to_one_and_follow_torch():
    net = Net(4, nn.Identity()).eval()
    box = BlackBox(Encoder(net, X[:2]))
    torch.testing.assert_close(box.probabilities(X), F.softmax(net(X), 1))


def test_an_activation_in_place_behind_the_head_is_no_probability():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        net[0].weight.mul_(0.1)
    encoder = Encoder(net, X[:2])
    assert encoder.outputs.kind == "logits"
    inside = nn.Sequential(*net, nn.Softmax(1))
    assert Encoder(inside, X[:2]).outputs.kind == "probabilities"
    for of in ("score", "probability"):
        assert lrp(inside, X[:3], of=of).maps.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 1, 1), (0, 1, 3)])
def test_no_rows_have_as_many_columns_as_any(shape):
    assert as_columns(torch.zeros(shape), 0).shape == (0, 3)
