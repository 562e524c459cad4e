"""The field's standard measures: closed forms, invariants, and equality with Quantus."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics import (
    RandomSubsets,
    complexity,
    deletion,
    faithfulness_correlation,
    identical_class,
    impute,
    insertion,
    map_stability,
    mislabelled_detection,
    randomised,
    rank_agreement,
    relevance_mass,
    road,
    shift_stability,
    sparseness,
    standard,
)
from lookalike.metrics.prototype_stability import PrototypeStability, cluster_again, mean_stability
from lookalike.relevance.stability import uniform_noise

WEIGHTS = [[(3 * i + 7 * k) % 11 / 11 - 0.4 for i in range(64)] for k in range(3)]


def linear_model():
    """A linear classifier of 1×8×8 images whose weights are the same on every machine."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor(WEIGHTS))
        model[1].bias.zero_()
    return model


def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.random((4, 1, 8, 8), dtype=np.float32)), torch.from_numpy(
        rng.random((4, 8, 8), dtype=np.float32)
    )


def probabilities(x):
    return linear_model()(x).softmax(1)


def test_similarities_to_training_images_do_not_depend_on_batches(net, blobs, monkeypatch):
    model = convert(net, blobs, 2, progress=False)
    context = SimpleNamespace(model=model)
    queries, embeddings = model.embed(blobs[0][:5]), model.embed(blobs[0]).numpy()
    monkeypatch.setattr(standard, "_ROWS", 7)
    found = standard.similarities_to(context, queries, embeddings)
    torch.testing.assert_close(found, model.similarity(queries, torch.from_numpy(embeddings)))


def test_deletion_and_insertion_of_a_pixel_that_decides():
    """The score is the first pixel alone: it goes in the first step, and comes back in the first."""
    x = torch.ones(1, 1, 2, 2)
    relevance = torch.tensor([[[3.0, 2.0], [1.0, 0.0]]])

    def score(images):
        first = images[:, 0, 0, 0]
        return torch.stack([first, 0.5 * (1 - first)], 1)

    gone = deletion(score, x, relevance, n_steps=4)
    assert gone.probabilities.tolist() == [[1, 0, 0, 0, 0]]
    assert gone.area == pytest.approx(0.125)
    back = insertion(score, x, relevance, n_steps=4)
    assert back.probabilities.tolist() == [[0, 1, 1, 1, 1]]
    assert back.area == pytest.approx(0.875)
    assert deletion(score, x, -relevance, n_steps=4).area == pytest.approx(0.875)


def test_curves_do_not_depend_on_batches():
    x, relevance = images()
    for measure in (deletion, insertion):
        whole = measure(probabilities, x, relevance, n_steps=5)
        alone = measure(probabilities, x, relevance, n_steps=5, batch_size=1)
        assert torch.allclose(whole.probabilities, alone.probabilities)
        half = measure(probabilities, x[:2], None, n_steps=5, seed=3)
        assert torch.allclose(half.probabilities, measure(probabilities, x, None, n_steps=5, seed=3).probabilities[:2])


def test_imputed_pixels_are_the_means_of_their_neighbours():
    """A plane is its own solution, and so stays; the corners keep it, as they are known."""
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    plane = torch.stack([rows + 2 * columns, 5 - columns])
    removed = torch.zeros(7, 7, dtype=torch.bool)
    removed[1:6, 2:5] = True
    assert torch.allclose(impute(plane, removed), plane, atol=1e-5)
    assert torch.equal(impute(plane, ~removed & False), plane)
    assert torch.allclose(impute(plane, removed | True), plane.mean((1, 2), keepdim=True).expand_as(plane))
    corner = torch.zeros(7, 7, dtype=torch.bool)
    corner[0, 0] = True
    expected = (plane[:, 0, 1] / 6 + plane[:, 1, 0] / 6 + plane[:, 1, 1] / 12) / (5 / 12)
    assert torch.allclose(impute(plane, corner)[:, 0, 0], expected)


def test_faithfulness_of_a_linear_score_is_perfect():
    x, _ = images()
    weights = torch.tensor(WEIGHTS).view(3, 8, 8)
    relevance = x[:, 0] * weights[1]
    model = linear_model()
    found = faithfulness_correlation(
        model, x, relevance, targets=torch.ones(4, dtype=torch.long), subsets=RandomSubsets(20)
    )
    assert torch.allclose(found, torch.ones(4, dtype=torch.float64))
    opposite = faithfulness_correlation(
        model, x, -relevance, targets=torch.ones(4, dtype=torch.long), subsets=RandomSubsets(20)
    )
    assert torch.allclose(opposite, -torch.ones(4, dtype=torch.float64))


def test_a_linear_map_changes_as_much_as_its_input():
    x = torch.ones(3, 1, 4, 4)
    found = map_stability(lambda images, rows: images[:, 0], x, radius=0.1, n_samples=4)
    assert found.changes.shape == (3, 4)
    assert 0 < found.avg_sensitivity <= found.max_sensitivity <= 0.1
    constant = map_stability(lambda images, rows: x[rows, 0] + torch.eye(4), x, radius=0.1)
    assert constant.max_sensitivity == 0
    assert constant.correlation == pytest.approx(1)
    in_parts = map_stability(lambda images, rows: images[:, 0], x, radius=0.1, n_samples=4, batch_size=1)
    assert torch.equal(found.changes, in_parts.changes)


def test_compactness_and_localisation_in_closed_form():
    maps = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[0.0, 0.0], [0.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert sparseness(maps).tolist()[:2] == [0.0, 0.75]
    assert complexity(maps).tolist()[:2] == pytest.approx([np.log(4), 0.0])
    assert sparseness(maps)[2].isnan()
    assert complexity(maps)[2].isnan()
    masks = torch.tensor([[[True, False], [False, True]]]).expand(3, -1, -1)
    assert relevance_mass(maps, masks).tolist()[:2] == [0.5, 1.0]


def test_measures_of_examples_in_closed_form():
    assert identical_class([[0.9, 0.1], [0.2, 0.3]], [4, 7], [4, 4]).tolist() == [True, False]
    assert rank_agreement([[1, 2, 3, 4]], [[10, 20, 30, 31]]).tolist() == pytest.approx([1])
    wrong = torch.tensor([True, True, False, False, False, False, False, False, False, False])
    assert mislabelled_detection(torch.arange(10.0, 0, -1), wrong) == pytest.approx(0.9)
    assert mislabelled_detection(torch.arange(10.0), wrong) == pytest.approx(0.1)
    assert mislabelled_detection(torch.zeros(10), wrong) == pytest.approx(0.5)
    with pytest.raises(LookalikeError, match="no sample is mislabelled"):
        mislabelled_detection(torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def test_prototypes_after_a_shift():
    """The first similarity sees the first column, the second the last row: one shift in four changes the winner."""
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, :, 1] = 1.0
    found = shift_stability(lambda images: torch.stack([images[:, 0, :, 0].sum(1), torch.ones(len(images))], 1), x)
    assert found.tolist() == [0.75]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, r: deletion(probabilities, x, r[:2]), "need relevance of shape"),
        (lambda x, r: deletion(probabilities, x, r * torch.nan), "not finite"),
        (lambda x, r: insertion(probabilities, x, r, n_steps=0), "n_steps must be"),
        (lambda x, r: deletion(probabilities, x, r, baseline=torch.zeros(3)), "baseline must be"),
        (lambda x, r: road(probabilities, x, r, percentages=(0,)), "percentages must be"),
        (lambda x, r: road(probabilities, x, r, percentages=()), "percentages must not be empty"),
        (lambda x, r: faithfulness_correlation(probabilities, x, r, subsets=RandomSubsets(size=65)), "size must be"),
        (lambda x, r: map_stability(lambda a, b: a[:, 0], x, radius=0.0), "radius must be greater than 0"),
        (lambda x, r: relevance_mass(r, torch.ones(4, 7, 8)), "masks must be"),
        (lambda x, r: sparseness(r * torch.inf), "not finite"),
        (lambda x, r: sparseness(r > 0), "maps must be a tensor of numbers, not a bool tensor"),
        (lambda x, r: complexity(r.to(torch.complex64)), "maps must be a tensor of numbers, not a complex64 tensor"),
    ],
)
def test_wrong_requests_are_named(call, message):
    x, relevance = images()
    with pytest.raises(LookalikeError, match=message):
        call(x, relevance)


# what Quantus 0.6.0 gave for the images above, called as in test_quantus.py
PIXEL_FLIPPING = [
    [0.5441635, 0.7335979, 0.6226416, 0.3911841, 0.2136595, 0.3304947, 0.2414614, 0.3336376],
    [0.3897212, 0.3805991, 0.2270879, 0.2127120, 0.2719504, 0.3321049, 0.2650632, 0.3342801],
    [0.5301170, 0.4477462, 0.7244847, 0.5197409, 0.2684426, 0.5870649, 0.2495049, 0.3349681],
    [0.4899607, 0.2473596, 0.3177478, 0.2335028, 0.4772308, 0.5380750, 0.3680753, 0.3351111],
]
ROAD = [0.5, 0.25, 0.5, 0.25]
FAITHFULNESS_CORRELATION = [0.0471294, 0.2705081, -0.1734032, -0.1963201]
SPARSENESS = [0.3504488, 0.2816806, 0.3365623, 0.3285763]
COMPLEXITY = [3.9313776, 4.0186100, 3.9580836, 3.9642944]


def test_figures_that_quantus_gave():
    x, relevance = images()
    lowest = x.amin((1, 2, 3)).view(-1, 1, 1, 1).expand_as(x)
    curves = deletion(probabilities, x, relevance, baseline=lowest, n_steps=8)
    np.testing.assert_allclose(curves.probabilities[:, 1:].numpy(), PIXEL_FLIPPING, atol=1e-6)
    imputed = road(probabilities, x, relevance, percentages=(20, 40, 60, 80), noise=0.0)
    np.testing.assert_allclose(imputed.mean.numpy(), ROAD, atol=1e-6)
    assert road(probabilities, x, relevance).percentages == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    rng = np.random.default_rng(0)
    drawn = np.array([rng.choice(64, 10, replace=False) for _ in range(48)])
    subsets = torch.from_numpy(drawn).view(12, 4, 10).permute(1, 0, 2)
    correlations = faithfulness_correlation(linear_model(), x, relevance, baseline=lowest, subsets=subsets)
    np.testing.assert_allclose(correlations.numpy(), FAITHFULNESS_CORRELATION, atol=1e-6)
    np.testing.assert_allclose(sparseness(relevance).numpy(), SPARSENESS, atol=1e-6)
    np.testing.assert_allclose(complexity(relevance).numpy(), COMPLEXITY, atol=1e-6)


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_each_of_four_shifts_counts_alone(pixels, rows, columns):
    """Of images of one bright pixel, a similarity sees the place that only one of the shifts brings it to."""
    x = torch.zeros(1, 1, 7, 9)
    x[0, 0, 3, 4] = 1.0
    row, column = 3 + pixels * rows, 4 + pixels * columns

    def similarities(images):
        return torch.stack([2 * images[:, 0, row, column], torch.ones(len(images))], 1)

    assert shift_stability(similarities, x, pixels=pixels).tolist() == [0.75]


def test_the_mean_stability_keeps_its_two_figures_apart():
    likeness = mean_stability(PrototypeStability((0.1, 0.3, math.nan), (0.8, 0.9, math.nan)))
    assert (likeness.moved, likeness.same_cluster) == pytest.approx((0.2, 0.85))


def test_random_weights_have_the_mean_and_deviation_of_the_trained():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    with torch.no_grad():
        network[0].weight.add_(0.3)
    copy = randomised(network, 1)
    trained, drawn = network[0].weight, copy[0].weight
    assert float((trained - drawn).abs().mean()) > 0.02
    assert float(drawn.mean()) == pytest.approx(float(trained.mean()), abs=0.01)
    assert float(drawn.std()) == pytest.approx(float(trained.std()), rel=0.1)
    assert torch.equal(copy[0].bias, network[0].bias)
    assert torch.equal(randomised(network, 1)[0].weight, drawn)
    assert not torch.equal(randomised(network, 2)[0].weight, drawn)


def test_noise_differs_between_images_draws_and_seeds_and_not_between_batches():
    x = torch.zeros(3, 2, 4, 4)
    whole = uniform_noise(x, torch.tensor([0.1, 0.2]))
    others = [uniform_noise(x, torch.tensor([0.1, 0.2]), **{name: 1})[0] for name in ("first", "draw", "seed")]
    drawn = [*whole, *others[1:]]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert torch.equal(others[0], whole[1])
    for channel, radius in enumerate((0.1, 0.2)):
        assert 0.8 * radius < float(whole[:, channel].abs().max()) <= radius


def test_wrong_labels_are_wrong_with_two_classes_too(monkeypatch):
    """Each of the samples that are to have a wrong label gets the other class."""
    torch.manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 1, 4, 4) / 4 + 2.0 * y.view(-1, 1, 1, 1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model = convert(network, (x, y), n_prototypes=2, progress=False)
    seen = []

    def remember(*arguments, **options):
        seen.append(arguments[2])
        return cluster_again(*arguments, **options)

    monkeypatch.setattr("lookalike.metrics.example_sections.cluster_again", remember)
    card = evaluate(model, (x, y), train=(x, y), only=("mislabelled_detection",), progress=False)
    assert (torch.as_tensor(seen[0]) != y).sum() == card.details["mislabelled_detection"][0]["n_mislabelled"] == 2
