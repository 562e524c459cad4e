"""On a GPU, reading a value waits for all work before it; so within a map, nothing is read."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lookalike import convert
from lookalike.relevance import lrp, operations, prp
from lookalike.relevance.attribution import stream_lrp, stream_prp
from lookalike.relevance.composites import COMPOSITES
from lookalike.relevance.functions import max_pool2d
from lookalike.relevance.operations import Call, Convolution
from lookalike.relevance.signs import cannot_be_negative

READS = frozenset(
    [
        "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2", "unique_dim",
        "allclose",
    ]
)  # fmt: skip


class Reads(TorchDispatchMode):
    """Counts operations: by default those whose result the program waits for."""

    def __init__(self, names=READS):
        super().__init__()
        self.names, self.counts = names, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.names or (is_mask and self.names is READS):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Network(nn.Module):
    """Convolutions with everything between them that a rule may want to look at: signs, masks, pools, products."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 8)))
        self.norm, self.attention = nn.BatchNorm2d(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)
        self.register_buffer("deviation", torch.tensor([0.5, 0.2, 0.3]).view(1, 3, 1, 1))

    def forward(self, x):
        x = self.norm(self.first(x * self.deviation)).relu()
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.silu(self.second(x)) * self.third(x).sigmoid() + x
        tokens = x.flatten(2).transpose(1, 2)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


def reads_after_the_first_batch(stream):
    """The first batch of a call is compared with the network's own pass, which reads one figure when it is done."""
    next(stream)
    with Reads() as reads:
        next(stream)
    return dict(reads.counts)


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "attnlrp", "alpha1-beta0", "epsilon"])
@pytest.mark.parametrize("target", [None, 1, [[0, 1]] * 4])
@pytest.mark.parametrize("of", ["score", "probability"])
def test_lrp_reads_nothing_within_a_map(network, composite, target, of):
    stream = stream_lrp(network, torch.rand(4, 3, 8, 8), target, composite, of=of, batch_size=2)
    assert reads_after_the_first_batch(stream) == {}


@pytest.mark.parametrize("prototypes", ["nearest", "predicted", "all", [0, 2]])
@pytest.mark.parametrize("rule", ["neuralized", "share", "gradient"])
def test_prp_reads_nothing_within_a_map(network, prototypes, rule):
    model = convert(network, (torch.randn(12, 3, 8, 8), [0, 1] * 6), n_prototypes=2, n_images=0, progress=False)
    stream = stream_prp(model, torch.rand(4, 3, 8, 8), prototypes, rule=rule, batch_size=2)
    assert reads_after_the_first_batch(stream) == {}


def test_the_check_against_the_plain_pass_is_read_when_the_map_is_done(network):
    class UntilDone(Reads):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ == "convolution_backward":
                assert set(self.counts) <= {"equal"}  # by which only a CPU takes results from the engine's pass
            return super().__torch_dispatch__(func, types, args, kwargs)

    plain = nn.Sequential(network.first, network.norm, nn.ReLU(), network.second, nn.Flatten(), nn.Linear(512, 4))
    x = torch.rand(2, 3, 8, 8)
    lrp(plain, x)  # the first call also finds which output has the class scores
    with UntilDone() as reads:
        lrp(plain, x)
    assert reads.counts["_local_scalar_dense"] > 0


def test_the_reads_that_this_test_looks_for_are_seen():
    x = torch.tensor([1.0, -1.0])
    for read in (x[0].item, x.nonzero, lambda: bool((x > 0).any()), lambda: x[x > 0], lambda: torch.equal(x, x + 1)):
        with Reads() as reads:
            read()
        assert reads.counts


def test_unknown_prototypes_are_told_before_any_pass(network):
    model = convert(network, (torch.randn(12, 3, 8, 8), [0, 1] * 6), n_prototypes=2, n_images=0, progress=False)
    with pytest.raises(ValueError, match="there is no prototype 9; there are prototypes 0 to 3"):
        prp(model, torch.rand(1, 3, 8, 8), [9])


def test_signs_follow_from_the_operations():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    positive = x.relu()
    pooled = nn.functional.avg_pool2d(max_pool2d(positive, 2), 2)
    for certain in (
        positive,
        pooled,
        positive + x.sigmoid(),
        torch.cat([positive, positive[:, :2]], 1),
        positive * positive,
    ):
        assert cannot_be_negative(certain)
        assert float(certain.min()) >= 0
    for unknown in (
        x,
        x + positive,
        positive - positive,
        torch.sub(positive, x.abs()),
        positive * -1,
        positive * x,
        -positive,
    ):
        assert not cannot_be_negative(unknown)
    assert not cannot_be_negative(torch.add(positive, positive, alpha=-2))


class Padded(nn.Module):
    """Pads what a ReLU gives by a value, with the function of torch or with that of ``nn``."""

    def __init__(self, value, as_keyword):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3)
        self.value, self.as_keyword = value, as_keyword

    def forward(self, x):
        x = self.first(x).relu()
        x = (
            torch.constant_pad_nd(x, (0, 1, 1, 0), value=self.value)
            if self.as_keyword
            else F.pad(x, (0, 1, 1, 0), "constant", self.value)
        )
        return self.second(x).flatten(1)


@pytest.mark.parametrize("as_keyword", [False, True])
@pytest.mark.parametrize(("value", "is_known"), [(0.0, True), (0.5, True), (-1.0, False)])
def test_padding_keeps_a_known_sign_unless_its_value_is_negative(monkeypatch, value, is_known, as_keyword):
    torch.manual_seed(0)
    network, x = Padded(value, as_keyword), torch.randn(2, 2, 7, 7)
    with Reads(frozenset(["where"])) as calls:
        maps = lrp(network, x).maps
    assert (calls.counts["where"] == 0) == is_known  # the rule looks at the inputs' signs only if it must
    monkeypatch.setattr(operations, "cannot_be_negative", lambda _: False)
    torch.testing.assert_close(maps, lrp(network, x).maps)


@pytest.mark.parametrize("composite", sorted(set(COMPOSITES)))
def test_known_signs_change_no_rule(composite):
    torch.manual_seed(0)
    source = torch.randn(2, 3, 6, 6, requires_grad=True).relu()
    weight, operation = torch.randn(4, 3, 3, 3), Convolution((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    output = operation.apply(source, weight, None).detach()
    relevance = torch.randn_like(output)
    rule = COMPOSITES[composite].rules["convolution"]
    known, unknown = (
        rule.gradient(Call(operation, s, weight, None, output), relevance) for s in (source, source.detach())
    )
    positive = source > 0
    torch.testing.assert_close(known[positive], unknown[positive], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3)},
        {"kernel_size": 3, "dilation": 2, "ceil_mode": True},
    ],
)
def test_pooling_in_another_layout_has_the_same_values_and_gradient(options):
    torch.manual_seed(0)
    x = torch.randint(-3, 3, (2, 5, 9, 11)).float().requires_grad_()  # many equal values: ties have the same winner
    ours, torchs = max_pool2d(x, **options), nn.functional.max_pool2d(x, **options)
    assert torch.equal(ours, torchs)
    assert ours.stride() == torchs.stride()
    at_output = torch.randn_like(ours)
    (gradient,), (expected,) = (torch.autograd.grad(y, x, at_output) for y in (ours, torchs))
    torch.testing.assert_close(gradient, expected)
