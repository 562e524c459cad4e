"""Rules with their operations: closed forms of powers, norms, pooled pixels and dilated convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lookalike import convert, evaluate
from lookalike._core.errors import RelevanceError
from lookalike.relevance import lrp
from lookalike.relevance.handlers import _least_value
from lookalike.relevance.operations import Convolution
from lookalike.relevance.rule_uses import RuleUses, Unruled


class Net(nn.Module):
    """A linear layer, a function, and two scores; without any bias, so that the ε-rule is gradient × input."""

    def __init__(self, function, inputs=5, hidden=6, first=True):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(inputs, hidden, bias=False) if first else nn.Identity()
        self.function = function
        self.last = nn.Linear(hidden, 2, bias=False)
        self.double()

    def forward(self, x):
        return self.last(self.function(self.first(x)).flatten(1))


def inputs(*shape, low=0.5):
    return low + torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def times_gradient(function, x):
    """Input times the gradient of a function's first score."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf)[:, 0].sum(), leaf)
    return x * gradient


@pytest.mark.parametrize(
    ("degree", "function"),
    [
        (2, lambda h: h**2),
        (3, lambda h: torch.pow(h, 3)),
        (2, torch.square),
        (0.5, lambda h: torch.sqrt(h)),
        (3, lambda h: torch.pow(input=h, exponent=3)),
    ],
)
def test_a_power_divides_by_its_exponent(degree, function):
    net, x = Net(function), inputs(3, 5)
    with torch.no_grad():
        net.first.weight.abs_()
    found = lrp(net, x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(net, x) / degree, rtol=1e-3)
    assert float(found.residual.max()) < 1e-3


SCALE = torch.tensor([0.5, 2.0, -1.0, 3.0, 0.25, 1.5], dtype=torch.float64)


def frozen(h, axes, *, centred=True, eps=1e-5):
    values = h - h.mean(axes, keepdim=True) if centred else h
    deviation = (values.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return values / deviation


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (lambda h: F.layer_norm(h, (6,)), lambda h: frozen(h, (-1,))),
        (lambda h: F.layer_norm(input=h, normalized_shape=(6,)), lambda h: frozen(h, (-1,))),
        (lambda h: torch.layer_norm(input=h, normalized_shape=(6,)), lambda h: frozen(h, (-1,))),
        (lambda h: F.rms_norm(h, (6,), eps=1e-5), lambda h: frozen(h, (-1,), centred=False)),
        (lambda h: F.group_norm(h, 2), lambda h: frozen(h.reshape(-1, 2, 3), (-1,)).reshape(-1, 6)),
        (lambda h: F.layer_norm(h, (6,), SCALE), lambda h: frozen(h, (-1,)) * SCALE),
        (lambda h: F.rms_norm(h, (6,), SCALE, eps=1e-5), lambda h: frozen(h, (-1,), centred=False) * SCALE),
        (
            lambda h: F.group_norm(h, 2, SCALE),
            lambda h: frozen(h.reshape(-1, 2, 3), (-1,)).reshape(-1, 6) * SCALE,
        ),
        (lambda h: F.instance_norm(h.reshape(-1, 2, 3)), lambda h: frozen(h.reshape(-1, 2, 3), (-1,))),
    ],
)
def test_a_norm_holds_its_deviation_constant(norm, expected):
    net, x = Net(norm), inputs(3, 5)
    found = lrp(net, x, target=0, composite="epsilon").maps
    wanted = times_gradient(lambda leaf: net.last(expected(net.first(leaf)).flatten(1)), x)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(found, times_gradient(net, x), rtol=1e-2, atol=1e-4)  # the plain gradient


@pytest.mark.parametrize(
    ("before", "n_features"),
    [(lambda x: F.avg_pool2d(x, 2), 4), (lambda x: F.adaptive_avg_pool2d(x, 2), 4), (torch.exp, 16), (torch.sqrt, 16)],
)
def test_what_comes_before_the_first_layer_passes_the_flat_rules_relevance_on(before, n_features):
    """Flat spreads a score evenly over the features, and each gives its share evenly to its pixels."""
    net, x = Net(before, hidden=n_features, first=False), inputs(2, 1, 4, 4)
    found = lrp(net, x, target=0).maps
    assert torch.allclose(found, (net(x)[:, :1] / 16)[:, :, None, None].expand_as(found), rtol=1e-4)


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (2, 2), (3, 1)])
def test_the_adjoint_of_a_convolution_is_its_transpose(stride, dilation):
    operation = Convolution((stride,) * 2, (0, 0), (dilation,) * 2, False, (0, 0), 1)
    weight, like = inputs(3, 2, 2, 2, low=-0.5), inputs(1, 2, 7, 7)
    out = operation.apply(like, weight, None)
    r = inputs(*out.shape, low=-0.5)
    assert float((operation.adjoint(r, weight, like) * like).sum()) == pytest.approx(float((r * out).sum()))


class Product(nn.Module):
    """Rectified features, and a product with a parameter."""

    def __init__(self, product, *shape):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.weight = nn.Linear(5, 6), nn.Parameter(torch.randn(*shape))
        self.product = product
        self.double()

    def forward(self, x):
        return self.product(self.first(x).relu(), self.weight)


def test_a_product_with_a_weight_is_a_linear_layer():
    x = inputs(3, 5, low=-0.5)
    linear = Product(lambda h, w: F.linear(h, w.t()), 6, 4)
    transposed = Product(lambda h, w: h @ w.t(), 4, 6)
    computed = Product(lambda h, w: h @ (w / 2), 6, 4)
    with torch.no_grad():
        transposed.weight.copy_(linear.weight.t())
        computed.weight.mul_(2)
    for composite in ("epsilon", "alpha1-beta0", "gamma"):
        expected = lrp(linear, x, target=1, composite=composite)
        names = [lambda h, w: torch.linalg.matmul(h, w), lambda h, w: torch.linalg.matmul(other=w, input=h)]
        for product in (Product(torch.matmul, 6, 4), *(Product(name, 6, 4) for name in names), transposed, computed):
            found = lrp(product, x, target=1, composite=composite)
            assert torch.allclose(found.maps, expected.maps)
            assert {use.rule for use in found.rules} == {use.rule for use in expected.rules}


@pytest.mark.parametrize("name", ["weight", "weight.t()"])
def test_the_first_product_with_a_weight_is_the_first_layer(name):
    """The flat rule spreads relevance evenly; a matrix that is no weight mixes colours, before the first layer."""

    class First(nn.Module):
        def __init__(self, colours):
            super().__init__()
            torch.manual_seed(0)
            self.weight, self.head = nn.Parameter(torch.randn(5, 5)), nn.Linear(5, 2)
            self.register_buffer("mixed", torch.rand(5, 5))
            self.colours = colours

        def forward(self, x):
            x = x @ self.mixed if self.colours else x
            return self.head((x @ (self.weight if name == "weight" else self.weight.t())).relu())

    x = inputs(3, 5).float()
    for colours in (False, True):
        found = lrp(First(colours).eval(), x, target=0)
        assert torch.allclose(found.maps, found.maps.mean(1, keepdim=True).expand_as(found.maps), rtol=1e-4)
        assert found.rules[int(colours)].where == "weight"


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        (lambda h, w: h * w, (1, 6)),  # a scale for each feature is no layer
        (lambda h, w: h / w, (1, 6)),
        (lambda h, w: (w @ h.T).T, (4, 6)),  # a weight from the left is none that is known
    ],
)
def test_other_products_with_a_parameter_have_their_gradient(product, shape):
    x, net = inputs(3, 5, low=-0.5), Product(product, *shape)
    with torch.no_grad():
        net.first.bias.zero_()
    found = lrp(net, x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(net, x), rtol=1e-3, atol=1e-6)


def test_a_sum_of_two_functions_of_the_pixels_spreads_over_both():
    """Before the first layer relevance is spread evenly: half of each pixel's to each operand, whatever its size."""

    def halves(x):
        return torch.cat([x[..., :2] + 0 * x[..., 2:], x[..., 2:] + x[..., :2]], -1)

    net, x = Net(halves, hidden=16, first=False), inputs(2, 1, 4, 4)
    found = lrp(net, x, target=0).maps
    assert torch.allclose(found, (net(x)[:, :1] / 16)[:, :, None, None].expand_as(found), rtol=1e-4)


def test_queries_of_several_heads_may_share_a_key():
    class Grouped(nn.Module):
        def __init__(self, enable_gqa):
            super().__init__()
            torch.manual_seed(0)
            self.query, self.key, self.value = nn.Linear(5, 16), nn.Linear(5, 8), nn.Linear(5, 8)
            self.head, self.enable_gqa = nn.Linear(16, 2), enable_gqa

        def forward(self, x):
            q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
            if not self.enable_gqa:
                k, v = (t.repeat_interleave(2, 1) for t in (k, v))
            z = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.enable_gqa)
            return self.head(z.transpose(1, 2).flatten(2).mean(1))

    x = inputs(3, 7, 5).float()  # 7 tokens, 4 heads, 2 keys
    expected, found = (lrp(Grouped(flag).eval(), x, target=1, composite="attnlrp") for flag in (False, True))
    assert torch.allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-6)


def test_an_output_of_two_operations_has_both_in_the_rule_table():
    uses, leaf = RuleUses(2), torch.ones(2, requires_grad=True)
    output = 2 * leaf
    uses.add("first", "gradient", output)
    uses.add("second", "gradient", output)
    assert {name for name, _, _ in uses.table(output, strict=True)} == {"first", "second"}


def test_more_relevance_than_started_has_gone_past_an_operation_with_the_other_sign():
    """1 started and 1 arrived; 3 went through it, so −2 went past it: 3 of 5."""
    unruled = Unruled(1)
    unruled._add_measurement("most", torch.tensor([[3.0]]))
    unruled._add_measurement("negative", torch.tensor([[-1.0]]))  # 2 went past it: 1 of 3
    shares = unruled.shares(torch.tensor([1.0]), torch.tensor([1.0]))
    assert {key: float(share) for key, share in shares.items()} == pytest.approx({"most": 3 / 5, "negative": 1 / 3})


class Autocast(nn.Module):
    """A network that switches autocast on in its forward pass."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x)


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "attnlrp"])
def test_maps_do_not_see_autocast(composite):
    """Whether the network switches it on, or the caller: maps are those of the weights in their own precision."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 3)
    ).eval()
    x = inputs(4, 3, 8, 8).float()
    expected = lrp(network, x, target=1, composite=composite)
    found = lrp(Autocast(network), x, target=1, composite=composite)
    assert torch.equal(found.maps, expected.maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = lrp(network, x, target=1, composite=composite)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(found.maps, expected.maps)
    assert found.maps.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("function", [
    lambda h, b: torch.addmm(b, h, torch.eye(6, dtype=h.dtype), alpha=-2, beta=3),
    lambda h, b: torch.addmm(b.expand(len(h), 6), h, torch.eye(6, dtype=h.dtype), alpha=-2, beta=3),
])  # fmt: skip
def test_factors_of_a_sum_with_a_product_count(function):
    x, bias = inputs(3, 5), torch.zeros(6, dtype=torch.float64)
    found = lrp(Net(lambda h: function(h, bias)), x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(Net(lambda h: -2 * h), x), rtol=1e-3)


@pytest.mark.parametrize(
    ("activation", "least"),
    [
        (lambda h: F.hardtanh(h, 0.25, 9.0), 0.25),
        (lambda h: F.hardtanh(h), -1.0),
        (lambda h: h.clamp(0.25, 9.0), 0.25),
        (lambda h: h.clamp(max=9.0), None),
        (F.relu6, 0),
    ],
)
def test_an_activation_names_what_it_puts_in_place_of_smaller_inputs(activation, least, monkeypatch):
    seen = []

    def remember(*arguments):
        seen.append(_least_value(*arguments))
        return seen[-1]

    monkeypatch.setattr("lookalike.relevance.handlers._least_value", remember)
    lrp(Net(activation), inputs(3, 5), target=0)
    assert set(seen) == {least}


@pytest.mark.parametrize("shape", [(6, 5), (4, 6), (2, 3, 4)])
def test_relevance_at_an_operation_is_split_by_input(shape):
    """Three inputs: they, or their windows, are the first axis or the second."""
    relevance = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    rows = Unruled(3)._by_row(relevance)
    axis = 0 if shape[0] % 3 == 0 else 1
    per_input = shape[axis] // 3
    expected = torch.stack([part.flatten() for part in relevance.movedim(axis, 0).split(per_input)])
    assert torch.equal(rows, expected)
    assert torch.equal(Unruled(3)._by_row(torch.tensor(6.0)), torch.full((3, 1), 2.0))


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "epsilon", "alpha1-beta0", "gamma"])
def test_a_batch_norm_without_weights_is_one_with_ones_and_zeros(composite):
    def network(affine):
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(channels, affine=affine) for channels in (4, 6)]
        for norm in norms:
            norm.running_mean.uniform_(-2, 2)
            norm.running_var.uniform_(0.5, 2)
        torch.manual_seed(1)
        first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3, bias=False)
        return nn.Sequential(
            first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
        ).eval()

    x = inputs(2, 3, 8, 8, low=-0.5).float()
    expected, found = (lrp(network(affine), x, target=1, composite=composite) for affine in (True, False))
    assert torch.allclose(found.maps, expected.maps, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.residual, expected.residual, rtol=1e-3, atol=1e-4)


class StatisticsOfTheBatch(nn.Module):
    """A batch norm that goes by the batch, and may have the statistics of other data beside it."""

    def __init__(self, *statistics):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.statistics = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), statistics or (None, None)

    def forward(self, x):
        normed = F.batch_norm(self.conv(x), *self.statistics, training=True, momentum=0.0)
        return self.head(normed.relu().mean((2, 3)))


def test_statistics_that_a_batch_norm_does_not_use_are_not_folded():
    x = inputs(1, 3, 8, 8).float()
    beside = torch.full((4,), 3.0), torch.full((4,), 9.0)
    expected, found = (lrp(StatisticsOfTheBatch(*of).eval(), x, target=1) for of in ((), beside))
    assert torch.equal(found.maps, expected.maps)


COMPOSITE_NAMES = ("epsilon", "alpha1-beta0", "gamma")


@pytest.mark.parametrize("composite", COMPOSITE_NAMES)
@pytest.mark.parametrize("form", ["addmm", "addmm, transposed", "mm", "product and norm"])
def test_every_product_with_a_weight_is_the_layer_that_it_stands_for(composite, form):
    """With its bias, behind a norm as in front of one."""
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    norm = nn.BatchNorm1d(4).double().eval()
    norm.running_mean.uniform_(-1, 1)
    products = {
        "addmm": lambda h, w: torch.addmm(bias, h, w),
        "addmm, transposed": lambda h, w: torch.addmm(bias, h, w.t().contiguous().t()),
        "mm": lambda h, w: torch.mm(h, w) + bias,
        "product and norm": lambda h, w: norm(h @ w),
    }
    layer = (lambda h, w: norm(F.linear(h, w.t(), bias))) if form == "product and norm" else None
    reference = Product(layer or (lambda h, w: F.linear(h, w.t(), bias)), 6, 4)
    found_in = Product(products[form], 6, 4)
    with torch.no_grad():
        reference.weight.copy_(weight)
        found_in.weight.copy_(weight)
    if form in ("mm", "product and norm"):  # a sum would be an operation of its own
        bias.zero_()
    x = inputs(3, 5, low=-0.5)
    expected, found = (lrp(net, x, target=1, composite=composite) for net in (reference, found_in))
    assert torch.allclose(found.maps, expected.maps, rtol=1e-6, atol=1e-9)


def test_a_product_of_one_vector_with_a_matrix_is_none_of_images():
    net = Product(lambda h, w: torch.stack([row @ w for row in h]), 6, 4)
    reference = Product(torch.matmul, 6, 4)
    x = inputs(3, 5, low=-0.5)
    expected, found = (lrp(one, x, target=1, composite="epsilon") for one in (reference, net))
    assert torch.allclose(found.maps, expected.maps, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["complex", "sparse"])
def test_products_with_matrices_that_no_rule_is_for_have_their_gradient(kind):
    def product(h, w):
        if kind == "sparse":
            return (w.t() / 2).detach().to_sparse().matmul(h.t()).t()
        matrix = torch.complex(w[:3, :2], w[3:, 2:]) / 2
        return torch.view_as_real(torch.view_as_complex(h.unflatten(-1, (3, 2)).contiguous()) @ matrix).flatten(1)

    x, net = inputs(3, 5, low=-0.5), Product(product, 6, 4)
    with torch.no_grad():
        net.first.bias.zero_()
    found = lrp(net, x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(net, x), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frozen_scale", ["parameter", "buffer"])
def test_a_scale_of_the_pixels_is_no_layer_whether_it_is_a_parameter_or_not(frozen_scale):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
            scale = torch.tensor([0.5, 1.0, 2.0])
            if frozen_scale == "parameter":
                self.scale = nn.Parameter(scale, requires_grad=False)
            else:
                self.register_buffer("scale", scale)

        def forward(self, grey):
            return self.head(self.first(grey * self.scale.view(1, 3, 1, 1)).relu().mean((2, 3)))

    grey = torch.zeros(1, 1, 6, 6)
    grey[:, :, :3] = 1
    found = lrp(Scaled().eval(), grey, target=0)
    assert [use.rule for use in found.rules if use.operation == "convolution"] == ["flat"]
    assert float(found.maps[:, :, 3:].abs().sum()) > 0  # the flat rule reaches black pixels, too


class Casting(nn.Module):
    """A network that switches autocast on, counts its calls, and does something to its features under autocast."""

    def __init__(self, function, casts=True, outputs=2):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, outputs)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))
        self.function, self.casts = function, casts

    def forward(self, x):
        self.calls += 1  # nothing of the engine's pass is kept for the plain one
        with torch.autocast("cpu", torch.bfloat16, enabled=self.casts):
            z = self.function(self.embed(x) * self.scale)
            with torch.autocast("cpu", enabled=False):
                z = self.out(z.float())
            assert torch.is_autocast_enabled("cpu") == self.casts  # each operation leaves it as it was
            return self.head(z.mean(1)).float()


def test_autocast_inside_autocast_and_a_number_in_double_precision():
    x = inputs(3, 7, 5, low=-0.5).float()
    nets = (Casting(lambda h: F.scaled_dot_product_attention(h, h, h), casts).eval() for casts in (False, True))
    expected, found = (lrp(net, x, target=1, composite="attnlrp") for net in nets)
    assert torch.equal(found.maps, expected.maps)


@pytest.mark.parametrize("seed", range(4))
def test_small_scores_under_autocast_are_compared_in_the_weights_own_precision(seed):
    """Half precision moves a score near zero by a multiple of itself."""
    net = Casting(torch.tanh, outputs=1).eval()
    x = inputs(1, 7, 5, low=-0.5).float() + seed
    with torch.no_grad():
        net.head.bias -= Casting.forward(net.float(), x)[0] - 1e-5
    assert lrp(net, x, target=0).maps.shape == x.shape


def test_a_network_that_depends_on_its_batch_is_refused_under_autocast_too():
    x = inputs(3, 7, 5, low=-0.5).float()
    with pytest.raises(RelevanceError, match="depends on the other images of its batch"):
        lrp(Casting(lambda h: h - h.mean(0)).eval(), x, target=0)


def test_a_network_whose_casts_need_autocast_is_refused_in_one_line(net, blobs):
    x = inputs(3, 7, 5, low=-0.5).float()
    casting = Casting(lambda h: F.linear(h.bfloat16(), torch.eye(8)))
    casting.eval()
    with pytest.raises(RelevanceError, match=r"casts tensors itself .* leave all casts to autocast"):
        lrp(casting, x, target=0)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.head = net, nn.Linear(3, 3)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                z = F.linear(self.network(x).bfloat16(), torch.eye(3))
            return self.head(z.float())

    model = convert(Half().eval(), blobs, n_prototypes=2, progress=False)
    card = evaluate(model, blobs, only=("faithfulness", "explanations"), n_images=4, progress=False)
    assert card["accuracy"] > 0.5
    assert "explanation_divergence" not in card.runs


def test_convolutions_take_torchs_defaults():
    weight = inputs(4, 3, 3, 3, low=-0.5)
    for function, shape in ((F.conv2d, (4, 3, 3, 3)), (F.conv_transpose2d, (3, 4, 3, 3))):

        class Bare(nn.Module):
            def __init__(self, options, function=function, shape=shape):
                super().__init__()
                torch.manual_seed(0)
                self.options, self.function, self.head = options, function, nn.Linear(4, 2).double()
                self.weight = nn.Parameter(weight.reshape(shape))

            def forward(self, x):
                return self.head(self.function(x, self.weight, **self.options).relu().mean((2, 3)))

        x = inputs(2, 3, 6, 6)
        options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        plain, named = (lrp(Bare(given), x, target=0, composite="alpha1-beta0") for given in ({}, options))
        assert torch.equal(plain.maps, named.maps)
        assert float(plain.residual.max()) < 1  # and the engine's outputs are the network's


def test_a_bias_that_depends_on_the_image_is_a_summand():
    net = Net(lambda h: F.linear(h, torch.eye(6, dtype=h.dtype), bias=3 * h[0]))
    x = inputs(1, 5)
    found = lrp(net, x, target=0, composite="epsilon")
    assert torch.allclose(found.maps, times_gradient(Net(lambda h: 4 * h), x), rtol=1e-3)


def test_a_clamp_by_a_tensor_of_another_shape_has_its_gradient():
    net = Net(lambda h: torch.clamp(h[:, None], min=torch.zeros(1, 2, 1, dtype=h.dtype)).mean(1))
    x = inputs(3, 5)
    found = lrp(net, x, target=0, composite="epsilon")
    expected = times_gradient(Net(lambda h: h.clamp(min=0)), x)
    assert torch.allclose(found.maps, expected, rtol=1e-3, atol=1e-6)


def test_a_norm_whose_scale_depends_on_the_image_is_a_norm_a_product_and_a_sum():
    """Of the product each factor gets half; the shift is a summand."""
    net = Net(lambda h: F.layer_norm(h, (6,), weight=h[0] * 2, bias=h[0] / 3))
    x = inputs(1, 5)
    found = lrp(net, x, target=0, composite="epsilon")

    def halves(leaf):
        h = net.first(leaf)
        normed, scale = frozen(h, (-1,)), 2 * h[0]
        product = (normed * scale.detach() + normed.detach() * scale) / 2
        return net.last(product + h[0] / 3)

    assert torch.allclose(found.maps, times_gradient(halves, x), rtol=1e-3, atol=1e-6)
