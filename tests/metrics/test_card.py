"""Every figure of a scorecard, against loops and the public functions on the card's own samples."""

import math
from statistics import mean

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from lookalike import Scorecard, convert, evaluate
from lookalike.encoder import Encoder
from lookalike.metrics import Noise, increase_and_drop, relevance_ordering
from lookalike.metrics.controls import mismatched_images
from lookalike.relevance import lrp, prp
from tests.small import bright_images, small_network

N_TRAIN, N_TEST, N_STEPS, N_DRAWS, COMPOSITE = 60, 40, 4, 2, "epsilon"  # none of them the default
FIGURES = (
    "accuracy", "black_box_accuracy", "accuracy_difference", "agreement", "ghosting",
    "explanation_divergence", "explanation_divergence_mismatched", "auroc", "auroc_random", "auroc_black_box",
    "auroc_black_box_random", "average_increase", "average_drop", "diversity", "diversity_within_class",
    "overlap", "silhouette", "attributes_captured", "attribute_correlation_error",
)  # fmt: skip


class Case:
    """A model, a network of other weights as its black box, and data on which both make mistakes."""

    def __init__(self):
        x, y = bright_images(N_TRAIN + N_TEST)
        generator = torch.Generator().manual_seed(1)
        x = x + 2 * torch.randn(x.shape, generator=generator)
        y = torch.where(torch.rand(len(y), generator=generator) < 0.25, (y + 1) % 3, y)
        self.x, self.y = x[N_TRAIN:], y[N_TRAIN:]
        self.train = (x[:N_TRAIN], y[:N_TRAIN])
        self.model = convert(small_network(), self.train, 4, "cosine", n_nearest=2, progress=False)
        self.box = small_network().eval()
        torch.manual_seed(5)
        for parameter in self.box.parameters():
            parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape)
        self.attributes = torch.rand(N_TRAIN, 6, generator=generator) < torch.tensor([0.5, 0.4, 0.3, 0.2, 0.03, 0.02])


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def card(case):
    return evaluate(
        case.model,
        (case.x, case.y),
        black_box=Encoder(case.box, case.x[:2]),
        train=case.train,
        attributes=case.attributes,
        n_images=10,
        n_runs=3,
        n_steps=N_STEPS,
        n_draws=N_DRAWS,
        composite=COMPOSITE,
        seed=5,
        progress=False,
    )


@pytest.fixture(scope="module")
def expected(case, card):
    """Each figure, and what is behind it, by run."""
    return [per_run(case, card, run) for run in range(3)]


def shares(maps):
    """|R| / Σ|R| over pixels, no share below the floor."""
    values = np.abs(maps.double().numpy()).reshape(len(maps), -1)
    floored = np.maximum(values / values.sum(1, keepdims=True), 1e-12)
    return floored / floored.sum(1, keepdims=True)


def divergence(p, q):
    return (p * np.log(p / q)).sum(1)


def per_run(case, card, run):
    model, samples = case.model, card.info["samples"][run]
    x = case.x[samples]
    own = shares(lrp(model, x, None, COMPOSITE, of="probability").pixels)
    box_maps = lrp(case.box, x, None, COMPOSITE, of="probability").pixels
    theirs = shares(box_maps)
    low, high = model.value_range
    noise = Noise(low, high, N_DRAWS, card.info["seeds"][run])
    nearest = model.similarities(x).argmax(1)
    assert len(nearest.unique()) > 2  # or the map of another prototype would do as well
    likeness = prp(model, x, nearest[:, None], COMPOSITE).pixels[:, 0]
    box_probability = lambda inputs: case.box(inputs).softmax(1)  # noqa: E731
    asked = {
        "model": (model.predict_proba, likeness),
        "random": (model.predict_proba, None),
        "black_box": (box_probability, box_maps),
        "black_box_random": (box_probability, None),
    }
    curves = {
        name: relevance_ordering(score, x, maps, noise, samples=samples, n_steps=N_STEPS)
        for name, (score, maps) in asked.items()
    }
    activations = lambda inputs: model.similarities(inputs) / model.classifier.temperature  # noqa: E731
    change = increase_and_drop(activations, x, likeness, noise, nearest, samples=samples)
    partners = mismatched_images(model.predict(x), [5, run])
    assert bool((partners >= 0).all())
    return {
        "per_image": divergence(own, theirs),
        "curves": curves,
        "explanation_divergence": divergence(own, theirs).mean(),
        "explanation_divergence_mismatched": divergence(own, theirs[partners]).mean(),
        "auroc": curves["model"].auroc,
        "auroc_random": curves["random"].auroc,
        "auroc_black_box": curves["black_box"].auroc,
        "auroc_black_box_random": curves["black_box_random"].auroc,
        "average_increase": change.increase,
        "average_drop": change.drop,
    }


@pytest.mark.parametrize(
    "figure",
    [
        "explanation_divergence", "explanation_divergence_mismatched", "auroc", "auroc_random", "auroc_black_box",
        "auroc_black_box_random", "average_increase", "average_drop",
    ],
)  # fmt: skip
def test_figures_of_explanations_are_means_over_the_runs_own_images(card, expected, figure):
    values = [float(run[figure]) for run in expected]
    assert card.runs[figure] == pytest.approx(values, rel=1e-5)
    assert card.to_dict()[figure] == pytest.approx(mean(values), rel=1e-5)
    assert max(values) > 0


def test_figures_of_explanations_are_told_from_each_other(expected):
    """Mistakes in the wiring show only where the figures differ."""
    names = [name for name in expected[0] if name in FIGURES]
    values = [float(expected[0][name]) for name in names]
    assert len({round(value, 4) for value in values}) == len(values)


def test_details_of_explanations(card, expected):
    for run, found in enumerate(expected):
        assert card.details["explanations"][run]["per_image"] == pytest.approx(found["per_image"].tolist(), rel=1e-3)
        details = card.details["robustness"][run]
        assert details["fractions"] == [0, 0.25, 0.5, 0.75, 1]
        for name, curves in found["curves"].items():
            assert details["curves"][name] == pytest.approx(curves.mean.tolist(), rel=1e-4)
            assert details["areas"][name] == pytest.approx(curves.areas.tolist(), rel=1e-4)


def test_figures_of_predictions(case, card):
    predicted, theirs = case.model.predict(case.x).numpy(), case.box(case.x).argmax(1).numpy()
    y, found = case.y.numpy(), card.to_dict()
    right, box_right = np.mean(predicted == y), np.mean(theirs == y)
    assert found["accuracy"] == pytest.approx(right)
    assert found["black_box_accuracy"] == pytest.approx(box_right)
    assert found["accuracy_difference"] == pytest.approx(right - box_right)
    assert found["agreement"] == pytest.approx(np.mean(predicted == theirs))
    assert len({right, box_right, found["agreement"]}) == 3
    details = card.details["faithfulness"][0]
    confusion = [[int(np.sum((theirs == i) & (predicted == j))) for j in range(3)] for i in range(3)]
    assert details["confusion"] == confusion
    for k, row in enumerate(details["per_class"]):
        mine = y == k
        assert row["n"] == mine.sum()
        assert row["accuracy"]["value"] == pytest.approx(np.mean(predicted[mine] == k))
        assert row["black_box_accuracy"]["value"] == pytest.approx(np.mean(theirs[mine] == k))
        assert row["agreement"]["value"] == pytest.approx(np.mean(predicted[mine] == theirs[mine]))
        wrong = [int(np.sum(predicted[mine] == j)) if j != k else -1 for j in range(3)]
        assert row["mistaken_for"] == int(np.argmax(wrong))


@pytest.mark.parametrize("scope", ["class", "all"])
def test_ghosting_follows_its_scope(case, scope):
    wrong = case.model.predict(case.train[0]) != case.train[1]
    x, y = case.train[0][wrong], case.train[1][wrong]  # whom prototypes of other classes win
    x, y = torch.cat([x, case.train[0][:3]]), torch.cat([y, case.train[1][:3]])
    found = evaluate(case.model, (case.x, case.y), train=(x, y), only=("transparency",), scope=scope, progress=False)
    similarities, owners = case.model.similarities(x), case.model.prototypes.labels.tolist()
    counts = {"class": [0] * len(owners), "all": [0] * len(owners)}
    for s, k in zip(similarities.tolist(), y.tolist(), strict=True):
        counts["class"][max((j for j, owner in enumerate(owners) if owner == k), key=lambda j: s[j])] += 1
        winner = max(range(len(owners)), key=lambda j: s[j])
        counts["all"][winner] += owners[winner] == k
    ghosts = {name: mean(count == 0 for count in each) for name, each in counts.items()}
    assert ghosts["class"] != ghosts["all"]
    assert found.to_dict()["ghosting"] == pytest.approx(ghosts[scope])
    assert found.details["transparency"][0]["activations"] == counts["class"]
    assert found.details["transparency"][0]["activations_among_all"] == counts["all"]


def normalised_entropy(values):
    powers = [math.exp(value - max(values)) for value in values]
    p = [power / sum(powers) for power in powers]
    return -sum(one * math.log(one) for one in p if one) / math.log(len(p))


@pytest.mark.parametrize("similarity", ["log", "cosine", "l2"])
def test_diversity_is_by_the_models_own_similarity(case, similarity):
    model = convert(small_network(), case.train, 4, similarity, progress=False)
    found = evaluate(model, (case.x, case.y), only=("diversity",), progress=False).to_dict()
    p = model.prototypes
    s = (model.similarities_of(p.vectors) / model.classifier.temperature).double().tolist()
    owners = p.labels.tolist()
    assert found["diversity"] == pytest.approx(mean(normalised_entropy(row) for row in s), abs=1e-6)
    within = [[one for one, owner in zip(row, owners, strict=True) if owner == owners[j]] for j, row in enumerate(s)]
    assert found["diversity_within_class"] == pytest.approx(mean(normalised_entropy(row) for row in within), abs=1e-6)


def test_figures_of_the_embedding(case, card):
    x, y = case.train
    z, p = case.model.embed(x).double().numpy(), case.model.prototypes.vectors.double().numpy()
    y, owners = y.numpy(), case.model.prototypes.labels.numpy()
    distances = np.linalg.norm(z[:, None] - p, axis=2)
    own = np.where(y[:, None] == owners, distances, np.inf).min(1)
    others = np.where(y[:, None] == owners, np.inf, distances)
    silhouettes = silhouette_samples(z, y)
    classes = card.details["embedding"][0]["classes"]
    for k, row in enumerate(classes):
        mine = y == k
        rivals = owners[others[mine].argmin(1)]
        assert row["n"] == mine.sum()
        assert row["overlap"] == pytest.approx(np.mean(others.min(1)[mine] < own[mine]))
        assert row["margin"] == pytest.approx(np.mean(((others.min(1) - own) / (others.min(1) + own))[mine]), rel=1e-4)
        assert row["silhouette"] == pytest.approx(silhouettes[mine].mean(), rel=1e-4)
        assert row["rival"] == np.bincount(rivals).argmax()
    found = card.to_dict()
    assert found["overlap"] == pytest.approx(np.mean(others.min(1) < own))
    assert found["silhouette"] == pytest.approx(np.mean([silhouettes[y == k].mean() for k in range(3)]), rel=1e-4)


def test_figures_of_attributes(case, card):
    nearest = case.model.prototypes.nearest[:, 0].tolist()
    every, shown = case.attributes.numpy(), case.attributes.numpy()[nearest]
    has = [bool(shown[:, a].any()) for a in range(6)]
    assert 0 < sum(has) < 6
    assert card.to_dict()["attributes_captured"] == sum(has)
    assert card.details["attributes"][0]["missed"] == [a for a in range(6) if not has[a]]
    with np.errstate(invalid="ignore"):
        a, b = (np.nan_to_num(np.corrcoef(one, rowvar=False)) for one in (every.astype(float), shown.astype(float)))
    assert card.to_dict()["attribute_correlation_error"] == pytest.approx(np.abs(a - b).mean())


def test_axes_of_the_radar_point_outward():
    figures = {
        "ghosting": 0.25,
        "accuracy_difference": -0.02,
        "explanation_divergence": 0.5,
        "auroc": 0.6,
        "diversity": 0.7,
    }
    axes = Scorecard({name: [value] for name, value in figures.items()}, {}, []).axes()
    expected = {
        "transparency": 0.75,
        "accuracy": 0.6,
        "explanations": math.exp(-0.5),
        "robustness": 0.6,
        "diversity": 0.3,
    }
    assert axes == pytest.approx(expected)


def test_figures_are_written_as_shares_points_and_numbers():
    runs = {"accuracy": [0.9, 0.92], "accuracy_difference": [-0.02], "auroc": [0.5, 0.6], "attributes_captured": [3.0]}
    card = Scorecard(runs, {}, [])
    assert card.format("accuracy") == "91.0 ± 1.4%"
    assert card.format("accuracy_difference") == "−2.0 points"
    assert card.format("auroc") == "0.550 ± 0.071"
    assert card.format("attributes_captured") == "3"
    assert card.format("ghosting") == "–"
    assert ("AUROC of heat-maps", "0.550 ± 0.071", "higher") in card.rows()
    assert card.deviation("auroc") == pytest.approx(0.1 / 2**0.5)
    assert card.deviation("attributes_captured") is None


def test_every_figure_is_tested_here(card):
    assert set(FIGURES) <= set(card.runs)
    assert {name for name, value in card.to_dict().items() if name in FIGURES and value is not None} == set(FIGURES)
