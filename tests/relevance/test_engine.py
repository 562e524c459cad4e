import gc
import tracemalloc
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.relevance import COMPOSITES, Composite, Epsilon, lrp, stream_lrp
from lookalike.relevance.engine import Engine
from lookalike.relevance.reading import ScoreReader
from tests.architectures import ARCHITECTURES, make, plain_cnn


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "attnlrp"])
def test_every_architecture_runs_with_every_operation_named(name, composite, untouched):
    model, x = make(name)
    with untouched(model):
        found = lrp(model, x, composite=composite, strict=True)
    assert found.maps.shape == x.shape
    assert found.maps.isfinite().all()
    assert found.without_rule == []
    assert float(found.maps.abs().max()) > 0
    counted = sum(use.count for use in found.rules if use.operation.startswith(("convolution", "linear")))
    # Swin v2's position biases are made of weights alone
    named = [m for name, m in model.named_modules() if "cpb_mlp" not in name]
    modules = [m for m in named if isinstance(m, nn.Linear | nn.Conv2d)]
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    unused = 4 if name == "torchvision-googlenet" else 0  # none: its auxiliary heads are not run
    # the projections of an attention are one product where queries, keys and values come from the same tokens
    assert counted >= len(modules) + len(attentions) - 2 * unused


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "epsilon", "alpha1-beta0", "gamma"])
def test_without_biases_relevance_is_conserved(composite):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16, bias=False), nn.ReLU(), nn.Linear(16, 5, bias=False),
    ).double().eval()  # fmt: skip
    x = torch.rand(4, 3, 12, 12, dtype=torch.float64)
    # the stabiliser's 1e-6 is all that is lost, so the scores are made large beside it
    with torch.no_grad():
        for layer in model:
            if hasattr(layer, "weight"):
                layer.weight.mul_(20)
    found = lrp(model, x, composite=composite)
    assert float(found.residual.max()) < 1e-6


def test_with_biases_the_residual_is_what_is_missing():
    torch.manual_seed(0)
    model = plain_cnn().double().eval()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    found = lrp(model, x)
    with torch.no_grad():
        scores = model(x).max(1).values
    expected = (found.maps.sum((1, 2, 3)) - scores).abs() / scores.abs()
    torch.testing.assert_close(found.residual, expected)
    assert float(found.residual.min()) > 1e-3


def test_the_softmax_of_probabilities_keeps_its_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double().eval()
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    found = lrp(model, x, of="probability", composite="epsilon")
    with torch.no_grad():
        scores = model(x)
        p = scores.softmax(1)
        predicted = scores.argmax(1)
        start = p.gather(1, predicted[:, None]) * (F.one_hot(predicted, 4) - p)
        flat = x.flatten(1)
        contributions = flat[:, None] * model[1].weight  # [n, classes, inputs]
        expected = (contributions * start[:, :, None]).sum(1).view_as(x)
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-8)


def test_a_probability_all_but_one_still_has_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.fill_(-2.0)[0] = 2.0
        x = torch.ones(2, 3, 2, 2)
        assert float(model(x).softmax(1).max()) == 1.0
    found = lrp(model, x, of="probability", composite="epsilon")
    assert float(found.maps.abs().flatten(1).sum(1).min()) > 0


def test_a_single_logit_speaks_for_class_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double().eval()
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double().eval()
    with torch.no_grad():
        two[1].weight.copy_(torch.cat([torch.zeros_like(model[1].weight), model[1].weight]))
        two[1].bias.copy_(torch.cat([torch.zeros_like(model[1].bias), model[1].bias]))
    x = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    for target in (None, 0, 1):
        ours, theirs = (lrp(m, x, target, "epsilon", of="probability").maps for m in (model, two))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-9)


class Functional(nn.Module):
    """The same network by functions, in-place operations and operators only."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        c, b, d, h = self.net[0], self.net[1], self.net[3], self.net[7]
        x = torch.conv2d(x, c.weight, c.bias, c.stride, c.padding)
        x = torch.batch_norm(x, b.weight, b.bias, b.running_mean, b.running_var, False, 0.1, b.eps, False)
        torch.relu_(x)
        y = F.conv2d(x, d.weight, d.bias, padding="same")
        y.clamp_(min=0)
        y = y.mean((2, 3))
        z = F.linear(y, h.weight)
        z += h.bias
        return z


def test_functions_modules_and_in_place_variants_are_one():
    torch.manual_seed(0)
    net = plain_cnn().double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = net(x)
    model = Functional(net)
    torch.testing.assert_close(model(x), expected)
    by_modules = lrp(net, x, composite="epsilon").maps
    by_functions = lrp(model, x, composite="epsilon").maps
    # the bias is added after the linear layer here, beyond its stabiliser
    assert float((by_functions - by_modules).norm() / by_modules.norm()) < 1e-3


def test_an_operation_without_a_rule_is_named_and_warned_of_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.erf(torch.erf(x.flatten(1))))

    model, x = Odd(), torch.rand(2, 1, 2, 2)
    with pytest.warns(LookalikeWarning, match="'erf' has no relevance rule") as caught:
        found = lrp(model, x, batch_size=2)
    assert len([w for w in caught if "erf" in str(w.message)]) == 1
    assert found.without_rule == ["erf"]
    assert {use.count for use in found.rules if use.operation == "erf"} == {2}
    with pytest.raises(LookalikeError, match=r"'erf' .* has no relevance rule"):
        lrp(model, x, strict=True)


def test_the_model_and_the_mode_are_as_before_after_an_exception(untouched):
    class Trap(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_cnn()

        def forward(self, x):
            x = self.net[:4](x)
            raise RuntimeError("in the middle")

    model = Trap().train()
    with untouched(model), pytest.raises(RuntimeError, match="in the middle"):
        lrp(model, torch.randn(1, 3, 8, 8))
    assert torch.relu(torch.ones(1, requires_grad=True)).grad_fn.name().startswith("Relu")


@pytest.mark.slow
def test_memory_does_not_grow():
    model, x = make("plain-sequential")

    def run(times):
        for _ in range(times):
            lrp(model, x)
            with pytest.raises(RuntimeError):
                lrp(model, torch.randn(1, 5, 8, 8))
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    run(3)
    tracemalloc.start()
    before = run(1)
    first = tracemalloc.get_traced_memory()[0]
    assert run(50) <= before
    assert tracemalloc.get_traced_memory()[0] - first < 300_000
    tracemalloc.stop()


def test_an_own_composite():
    mine = Composite("mine", {"convolution": Epsilon(0.5), "linear": Epsilon()})
    model, x = make("plain-sequential")
    found = lrp(model, x, composite=mine)
    assert found.composite == "mine"
    assert not torch.equal(found.maps, lrp(model, x, composite="epsilon").maps)
    with pytest.raises(LookalikeError, match="did you mean 'epsilon-plus-flat'"):
        lrp(model, x, composite="epsilon-plus-flut")
    assert set(COMPOSITES) == {"epsilon-plus-flat", "epsilon", "alpha1-beta0", "gamma", "attnlrp"}


def test_results_stream_batch_by_batch():
    model, _ = make("plain-sequential")
    x = torch.randn(5, 3, 16, 16)
    stream = stream_lrp(model, x, batch_size=2)
    first = next(stream)
    assert first.maps.shape == (2, 3, 16, 16)
    maps = torch.cat([first.maps, *(part.maps for part in stream)])
    torch.testing.assert_close(maps, lrp(model, x).maps)


def test_products_of_every_kind_take_their_parts():
    class Products(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.lift, self.run = nn.Linear(4, 4, bias=False), run

        def forward(self, x):
            z = self.lift(x.flatten(1))
            return self.run(z, z.view(-1, 2, 2))

    torch.manual_seed(0)
    x = torch.rand(2, 1, 2, 2).double()
    for run in (
        lambda z, m: (m @ m).flatten(1),
        lambda z, m: torch.bmm(m, m).flatten(1),
        lambda z, m: torch.einsum("nij,njk,nkl->nil", m, m, m).flatten(1),
        lambda z, m: torch.baddbmm(m, m, m).flatten(1),
        lambda z, m: z * z * z,
        lambda z, m: z / z.abs().amax(1, keepdim=True),
    ):
        found = lrp(Products(run).double(), x, 1, composite="epsilon")
        assert float(found.residual.max()) < 1e-4  # conserved, whatever the number of factors


def test_wrong_targets_are_told():
    model, x = make("plain-sequential")
    with pytest.raises(LookalikeError, match="target 9 is no class; the model has 7"):
        lrp(model, x, 9)
    with pytest.raises(LookalikeError, match="2 images and targets for 3"):
        lrp(model, x, [1, 2, 3])


def test_values_are_those_of_the_ordinary_pass():
    """The engine changes gradients, never values."""
    for name in (
        "torchvision-small_vit",
        "torchvision-small_swin",
        "torchvision-efficientnet_b0",
        "hf-vit",
        "timm-convnext",
    ):
        model, x = make(name)
        model, x = model.double().eval(), x.double()
        with torch.no_grad():
            expected = model(x)
        pixels = x.clone().requires_grad_()
        with warnings.catch_warnings(), Engine(COMPOSITES["attnlrp"], [pixels], {}):
            found = model(pixels)
        torch.testing.assert_close(getattr(found, "logits", found), getattr(expected, "logits", expected))


# -- AttnLRP, written out by hand on a small transformer --


class TinyTransformer(nn.Module):
    def __init__(self, tokens=4, width=6, heads=2):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 10), nn.Linear(10, width)
        self.head = nn.Linear(width, 3)
        self.heads = heads

    def forward(self, x):
        z = self.patch(x).flatten(2).transpose(1, 2)
        n, t, d = z.shape
        q, k, v = self.qkv(self.norm(z)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
        z = z + self.out(a)
        z = z + self.down(F.gelu(self.up(self.norm2(z))))
        return self.head(z.mean(1))


def explicit_attnlrp(m, x, target):
    """Relevance of one image by the formulas of AttnLRP, layer by layer, on relevances and not on gradients."""
    eps = 1e-6

    def stab(z):
        return z + torch.where(z < 0, -eps, eps)

    def linear(layer, a, y, r):
        return a * ((r / stab(y)) @ layer.weight)

    def norm(layer, a, r):
        # y = (a − mean) w / s + b with s constant: bias keeps its share
        s = (a.var(-1, unbiased=False, keepdim=True) + layer.eps).sqrt()
        y = layer(a)
        g = torch.where(y == 0, 0, r / torch.where(y == 0, 1, y)) * layer.weight / s
        return a * (g - g.mean(-1, keepdim=True))

    z0 = m.patch(x).flatten(2).transpose(1, 2)[0]
    t, d = z0.shape
    n0 = m.norm(z0)
    qkv = m.qkv(n0)
    q, k, v = qkv.view(t, 3, m.heads, d // m.heads).permute(1, 2, 0, 3)
    scale = (d // m.heads) ** -0.5
    s = q @ k.transpose(1, 2) * scale
    p = s.softmax(-1)
    o = p @ v
    a = o.transpose(0, 1).reshape(t, d)
    att = m.out(a)
    z1 = z0 + att
    n1 = m.norm2(z1)
    u = m.up(n1)
    g = F.gelu(u)
    dn = m.down(g)
    z2 = z1 + dn
    pooled = z2.mean(0)
    y = m.head(pooled)
    r = torch.zeros(3, dtype=x.dtype)
    r[target] = y[target]

    r_pooled = linear(m.head, pooled, y, r)
    r_z2 = z2 / t * (r_pooled / pooled)
    r_z1, r_dn = z1 * r_z2 / z2, dn * r_z2 / z2
    r_g = linear(m.down, g, dn, r_dn)
    r_u = r_g * (u / stab(u))  # the activation passes
    r_n1 = linear(m.up, n1, u, r_u)
    r_z1 = r_z1 + norm(m.norm2, z1, r_n1)
    r_z0, r_att = z0 * r_z1 / z1, att * r_z1 / z1
    r_a = linear(m.out, a, att, r_att)
    r_o = r_a.view(t, m.heads, d // m.heads).transpose(0, 1)
    share = r_o / o
    r_p = 0.5 * p * (share @ v.transpose(1, 2))
    r_v = 0.5 * v * (p.transpose(1, 2) @ share)
    r_s = s * (r_p / s * 0) + s * (r_p - p * r_p.sum(-1, keepdim=True))  # x_i (R_i − s_i Σ R), Achtibat et al. eq. 13
    share = r_s / (s / scale)
    r_q = 0.5 * q * (share @ k)
    r_k = 0.5 * k * (share.transpose(1, 2) @ q)
    r_qkv = torch.stack([r_q, r_k, r_v]).permute(2, 0, 1, 3).reshape(t, 3 * d)
    r_n0 = linear(m.qkv, n0, qkv, r_qkv)
    r_z0 = r_z0 + norm(m.norm, z0, r_n0)
    # the patches: the gamma rule on pixels that are all positive
    w, b = m.patch.weight.reshape(d, -1), m.patch.bias
    patches = F.unfold(x, 2, stride=2)[0].T
    found = torch.zeros_like(patches)
    for i in range(t):
        for j in range(d):
            c = patches[i] * w[j]
            value = c.sum() + b[j]
            favoured = c.clamp(min=0) if value > 0 else c.clamp(max=0)
            bias = b[j] + 0.25 * (b[j].clamp(min=0) if value > 0 else b[j].clamp(max=0))
            terms = c + 0.25 * favoured
            found[i] += terms / stab(terms.sum() + bias) * r_z0[i, j]
    return F.fold(found.T[None], x.shape[-2:], 2, stride=2)


def test_attnlrp_on_a_small_transformer_equals_its_formulas():
    torch.manual_seed(0)
    model = TinyTransformer().double().eval()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    found = lrp(model, x, [0, 2], composite="attnlrp")
    with torch.no_grad():
        expected = torch.cat([explicit_attnlrp(model, x[i : i + 1], t) for i, t in enumerate((0, 2))])
    assert float((found.maps - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_precision(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    expected = lrp(model, x, 0).pixels
    found = lrp(model.to(dtype), x, 0).pixels
    assert found.dtype == dtype
    assert float((found - expected).norm() / expected.norm()) < (1e-4 if dtype == torch.float64 else 0.05)


def test_half_precision_that_overflows_is_refused():
    with pytest.raises(LookalikeError, match="overflows in a float16 network"):
        lrp(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half(), torch.rand(1, 1, 2, 2))


class TwoHeads(nn.Module):
    """Independent classes from two layers side by side: no one layer gives the scores before the last function."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.a, self.b, self.last = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3), last

    def forward(self, x):
        z = self.body(x).relu()
        return self.last(torch.cat([4 * self.a(z), 4 * self.b(z)], 1))[:, :]


def in_one(two):
    """The same function with one head, whose scores are its logits."""
    head = nn.Linear(6, 5)
    head.weight.data, head.bias.data = (
        4 * torch.cat([two.a.weight, two.b.weight]),
        4 * torch.cat([two.a.bias, two.b.bias]),
    )
    return nn.Sequential(two.body, nn.ReLU(), head, two.last)


@pytest.mark.parametrize("of", ["score", "probability"])
def test_sigmoids_of_several_layers_have_the_maps_of_one_layers(of):
    two = TwoHeads(nn.Sigmoid()).eval()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert 0 < (two(x) < 0.5).sum() < two(x).numel()
    for target in range(5):
        maps = lrp(two, x, target, "epsilon", of=of).maps
        torch.testing.assert_close(maps, lrp(in_one(two), x, target, "epsilon", of=of).maps, rtol=1e-3, atol=1e-6)


def test_numbers_from_0_to_1_that_are_no_sigmoids_are_no_logits():
    class Clamped(nn.Module):
        def forward(self, scores):
            return scores.clamp(0.05, 0.95)

    two = TwoHeads(Clamped()).eval()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert ScoreReader(two, x, None).outputs.kind == "sigmoids"
    assert ScoreReader(two, x, None).tail is None
    two.last = nn.Sigmoid()
    assert ScoreReader(two, x, None).tail is not None


def test_sigmoids_that_round_to_one_have_finite_maps():
    two = TwoHeads(nn.Sigmoid()).eval()
    x = 100 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert (two(x) == 1).any()
    assert lrp(two, x, 0, "epsilon").maps.isfinite().all()
