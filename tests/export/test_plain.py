"""A plain module computes what the model computes, and its evidence is the lead over the strongest rival, in parts."""

import copy

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from lookalike import LookalikeError, convert, explain
from lookalike.export import PlainModel
from lookalike.model.similarity import SIMILARITIES

NEEDS_NEWER_TORCH = pytest.mark.skipif(
    torch.__version__ < (2, 14), reason="torch.compile and torch.export of older versions (seen with 2.11) stop here"
)
SUMS = {"l2", "sqeuclidean", "log", "log-l2", "rbf", "dot", "cosine", "mahalanobis", "head"}


def images(n=40, side=12):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    return torch.randn(n, 3, side, side, generator=generator) + 0.5 * y[:, None, None, None], y


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    net[1].running_mean.normal_(0, 0.1)
    return net.eval()


@pytest.fixture(scope="module", params=list(SIMILARITIES))
def pair(request):
    model = convert(network(), images(), 2, request.param, progress=False)
    return model, PlainModel(model, n_nearest=4)


def assert_it_answers_as_the_model(plain, model, x):
    """Compares a plain model with four nearest prototypes with its model and the model's explanations."""
    answer = plain(x)
    torch.testing.assert_close(answer.scores, model(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer.probabilities, model.predict_proba(x), rtol=1e-5, atol=1e-5)
    for row, explanation in enumerate(explain(model, x, n_nearest=4)):
        assert answer.nearest[row].tolist() == [near.prototype for near in explanation.likenesses]
        assert bool(answer.unfamiliar[row]) == explanation.unfamiliar
        for column, near in enumerate(explanation.likenesses):
            assert float(answer.distances[row, column]) == pytest.approx(near.distance, rel=1e-4, abs=1e-5)
            assert float(answer.percentiles[row, column]) == pytest.approx(near.percentile, abs=1, nan_ok=True)


def test_it_answers_as_the_model_does(pair):
    model, plain = pair
    far = 1 if model.similarity.name == "rbf" else 8  # far away all its similarities are 0, and none is the largest
    assert_it_answers_as_the_model(plain, model, torch.cat([images()[0][:7], far * images()[0][:3]]))


def test_the_evidence_sums_to_the_lead_over_the_strongest_rival(pair):
    model, plain = pair
    x = images()[0][:5]
    answer = plain(x)
    if model.similarity.name not in SUMS:
        assert answer.evidence.shape == (5, 4, 1, 1)
        assert plain.evidence is None
        return
    assert answer.evidence.shape == (5, 4, 10, 10)
    z, similarities = model.embed(x), model.similarities(x).numpy()
    points = model.similarity.project(z).numpy().astype(np.float64)
    vectors = model.similarity.project(model.prototypes.vectors).numpy().astype(np.float64)
    labels = model.prototypes.labels.numpy()
    for row in range(5):
        for column, p in enumerate(answer.nearest[row].tolist()):
            rivals = np.flatnonzero(labels != labels[p])
            q = rivals[similarities[row, rivals].argmax()]
            if model.similarity.name == "dot":
                lead = points[row] @ (vectors[p] - vectors[q])
            elif model.similarity.name == "cosine":
                lead = similarities[row, p] - similarities[row, q]
            else:
                lead = ((points[row] - vectors[q]) ** 2).sum() - ((points[row] - vectors[p]) ** 2).sum()
            size = float(answer.evidence[row, column].abs().sum())
            assert float(answer.evidence[row, column].sum()) == pytest.approx(lead, rel=1e-3, abs=1e-5 * size + 1e-7)


def test_evidence_lies_where_the_image_differs():
    """A bright corner makes an image of the bright class: the evidence lies there."""
    x = torch.zeros(40, 1, 16, 16)
    x[1::2, :, :4, :4] = 1
    y = torch.arange(40) % 2
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    nn.init.ones_(net[0].weight)
    model = convert(net, (x, y), n_prototypes=1, progress=False)
    answer = PlainModel(model, n_nearest=1)(x[1:2])
    evidence = answer.evidence[0, 0]
    row, column = divmod(int(evidence.argmax()), 14)
    assert row < 4
    assert column < 4


@pytest.mark.parametrize("strict", [False, True])
def test_it_is_exported_with_any_batch_size(strict):
    model = convert(network(), images(), 2, progress=False)
    plain, (x, _) = PlainModel(model), images(64)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(plain, (x[:2],), dynamic_shapes=batch, strict=strict).module()
    for n in (1, 3, 64):
        torch.testing.assert_close(program(x[:n]).scores, model(x[:n]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_compiles_as_one_graph():
    model = convert(network(), images(), 2, progress=False)
    compiled = torch.compile(PlainModel(model), fullgraph=True, backend="eager", dynamic=True)
    x, _ = images(64)
    for n in (1, 3, 64):
        torch.testing.assert_close(compiled(x[:n]).scores, model(x[:n]), rtol=1e-5, atol=1e-5)


@NEEDS_NEWER_TORCH
def test_the_model_itself_compiles_as_one_graph():
    """Also copies of it; gradients reach the weights, and changes of the weights the answers."""
    model = copy.deepcopy(convert(network(), images(), 2, progress=False))
    compiled, (x, _) = torch.compile(model, fullgraph=True, backend="aot_eager"), images(5)
    weight = model.encoder.model[0].weight
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(scores(x).sum(), weight)[0] for scores in (compiled, model)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        weight.mul_(1.5)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_the_model_itself_is_exported_and_traced_with_any_batch_size(level):
    model, (x, _) = convert(network(), images(), level=level, progress=False), images(64)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (x[:2],), dynamic_shapes=batch).module()
    traced = torch.jit.trace(model, (x[:2],))
    for n in (1, 3, 64):
        torch.testing.assert_close(program(x[:n]), model(x[:n]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(traced(x[:n]), model(x[:n]), rtol=1e-5, atol=1e-5)


def test_a_strict_export_of_the_model_itself_says_what_to_do():
    model = convert(network(), images(), 2, progress=False)
    with pytest.raises(
        Exception, match=r"cannot be exported with strict=True: leave strict out, or export \S*PlainModel"
    ):
        torch.export.export(model, (images()[0][:2],), strict=True)


@pytest.mark.parametrize("similarity", ["l2", "dot", "cosine", "mahalanobis"])
def test_equal_likenesses_go_by_number_as_in_explanations(similarity):
    """Both classes have the same images, so each prototype has a twin of the other class."""
    x, _ = images(20)
    model = convert(network(), (torch.cat([x, x]), torch.arange(40) // 20), 3, similarity, progress=False)
    vectors = model.prototypes.vectors
    vectors[3:] = vectors[:3]
    answer = PlainModel(model, n_nearest=6)(x)
    explained = [[near.prototype for near in e.likenesses] for e in explain(model, x, n_nearest=6)]
    assert answer.nearest.tolist() == explained
    is_equal = answer.similarities[:, 1:] == answer.similarities[:, :-1]
    assert (answer.nearest[:, 1:] > answer.nearest[:, :-1])[is_equal].all()
    # a matrix product may give the same prototype another last digit in another column, on some processors
    if similarity in ("l2", "mahalanobis"):
        assert is_equal.sum() >= 3 * len(x)
        assert (answer.nearest[:, 0] < 3).all()
        assert (answer.scores.argmax(1) == 0).all()


def test_it_is_traced_with_any_batch_size():
    model = convert(network(), images(), 2, progress=False)
    x, _ = images(64)
    traced = torch.jit.trace(PlainModel(model), (x[:2],), check_trace=False)
    for n in (1, 3, 64):
        torch.testing.assert_close(traced(x[:n])[0], model(x[:n]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "has_map"),
    [
        ("resnet18", True),
        ("timm:test_vit", False),
        ("timm:test_resnet", True),
        ("timm:test_efficientnet", True),
    ],
)
def test_known_architectures(name, has_map):
    torch.manual_seed(0)
    if name.startswith("timm:"):
        net = timm.create_model(name.removeprefix("timm:"), num_classes=4).eval()
        side = net.default_cfg["input_size"][1]
    else:
        net, side = torchvision.models.get_model(name, weights=None, num_classes=4).eval(), 64
    model = convert(net, images(12, side), 1, progress=False)
    plain = PlainModel(model)
    x, _ = images(5, side)
    torch.testing.assert_close(plain(x).scores, model(x), rtol=1e-4, atol=1e-4)
    assert plain.has_map is has_map


def test_the_model_is_left_as_it_was(untouched):
    net = network().train()
    model = convert(net, images(), 2, progress=False)
    with untouched(net):
        PlainModel(model)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x if float(x.sum()) > 0 else -x)


def test_networks_without_a_plain_graph_are_refused():
    x = torch.rand(20, 4)
    model = convert(Branching(), (x, torch.arange(20) % 2), 1, progress=False)
    with pytest.raises(LookalikeError, match=r"cannot be exported.*branch on their data"):
        PlainModel(model, n_nearest=1)
    with pytest.raises(LookalikeError, match="n_nearest must be a whole number from 1 to 2, not 3"):
        PlainModel(model, n_nearest=3)


class Flattening(nn.Module):
    """Flattens as hand-written networks do: the number of images is a plain number to code that runs."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

    def forward(self, x):
        features = nn.functional.avg_pool2d(self.layers(x).relu(), 5)
        return self.head(features.view(len(features), -1))


@NEEDS_NEWER_TORCH
def test_a_network_that_counts_its_images_is_exported_for_any_batch_size():
    x = images()[0]
    model = convert(Flattening(), (x, torch.arange(len(x)) % 2), 1, progress=False)
    plain = PlainModel(model)
    for n in (1, 5):
        torch.testing.assert_close(plain(x[:n])[0], model(x[:n]), atol=1e-5, rtol=1e-5)


def test_a_clamp_after_the_average_leaves_no_map():
    """Evidence would no longer sum to the lead where the clamp acts."""
    layers = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Hardtanh(-0.5, 0.5))
    model = convert(nn.Sequential(*layers, nn.Linear(6, 4)).eval(), images(), 2, progress=False)
    assert not PlainModel(model).has_map
