"""Figures of what they say, in every spelling of their arguments; else they are refused in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

from lookalike import Encoder, LookalikeError, convert, embed, evaluate
from lookalike.baselines.hyperparameters import hyperparameters
from lookalike.doubt.calibration import calibration_figures
from lookalike.metrics import (
    BlackBox,
    activation_counts,
    diversity,
    increase_and_drop,
    reference_diversity,
    relevance_ordering,
    store_ghosting,
)
from lookalike.metrics.budget import Budget
from lookalike.metrics.calibration import CalibrationBins
from lookalike.metrics.divergence import explanation_divergence
from lookalike.metrics.faithfulness_correlation import faithfulness_correlation
from lookalike.metrics.localisation import relevance_rank
from lookalike.metrics.prototype_stability import prototype_likeness
from lookalike.metrics.robustness import Noise
from lookalike.metrics.same_embedding import plain_predictions
from lookalike.metrics.sanity import sanity_check, with_prototypes_of_permuted_labels
from tests.small import bright_images

QUICK = {"n_images": 4, "n_steps": 3, "n_draws": 1, "progress": False}


def network(scale=1.0):
    """The embedding times a factor, and the head by it: the same black box."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)]
    net = nn.Sequential(*layers).eval()
    with torch.no_grad():
        net[0].weight.mul_(scale)
        net[0].bias.mul_(scale)
        net[4].weight.div_(scale)
    return net


@pytest.fixture(scope="module")
def data():
    x, y = bright_images(90)
    return x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), y


@pytest.fixture(scope="module")
def model(data):
    return convert(network(), tuple(values[:60] for values in data), n_prototypes=2, progress=False)


def test_a_resumed_evaluation_is_of_the_same_masks(model, data, tmp_path):
    test = tuple(values[60:] for values in data)
    masks = [torch.zeros(30, 8, 8, dtype=torch.bool) for _ in range(2)]
    masks[0][:, :4], masks[1][:, :2, :2] = True, True
    options = {"only": ("localisation",), "resume": tmp_path / "r.json", **QUICK}
    evaluate(model, test, masks=masks[0], **options)
    evaluate(model, test, masks=masks[0], **options)
    with pytest.raises(LookalikeError, match="masks"):
        evaluate(model, test, masks=masks[1], **options)


def test_a_shared_original_is_measured_for_each_preprocessing(monkeypatch):
    monkeypatch.setattr("lookalike.metrics.evaluation.check_given_store", lambda *_: None)  # the stores claim more
    net, (x, y) = network(), bright_images(60)
    box = BlackBox(Encoder(net, x[:1]))
    found = []
    for factor in (1.0, 9.0):
        sem = convert(net, (factor * x, y), n_prototypes=1, progress=False)
        store = embed(sem, (factor * x, y), progress=False)
        store.info |= {"data": "the same files", "transform": f"times {factor}"}
        card = evaluate(
            sem, (factor * x, y), black_box=box, test_embeddings=store, only=("calibration",), progress=False
        )
        alone = evaluate(
            sem, (factor * x, y), black_box=BlackBox(Encoder(net, x[:1])), only=("calibration",), progress=False
        )
        found.append((card["calibration_error_black_box"], alone["calibration_error_black_box"]))
    assert found[0][0] == pytest.approx(found[0][1])
    assert found[1][0] == pytest.approx(found[1][1])


def test_attributes_of_other_training_data_are_refused(model, data):
    train = tuple(values[:60] for values in data)
    test = tuple(values[60:] for values in data)
    right = (torch.arange(60)[:, None] % torch.tensor([2, 3]) == 0).float()
    options = {"train": train, "only": ("attributes",), "progress": False}
    evaluate(model, test, attributes=right, **options)
    for n in (85, 59):
        with pytest.raises(LookalikeError, match=f"60 training images and attributes of {n}"):
            evaluate(model, test, attributes=torch.ones(n, 2), **options)
    with pytest.raises(LookalikeError, match="NaN or infinite"):
        evaluate(model, test, attributes=torch.full((60, 2), torch.nan), **options)


def test_ghosting_of_a_store_matches_classes_by_name(model, data):
    store = embed(model, tuple(values[:60] for values in data), progress=False)
    order = [2, 0, 1]
    labels = np.array([order.index(int(k)) for k in store.labels])
    renamed = replace(store, labels=labels, class_names=[str(k) for k in order])
    assert renamed.class_names == ["2", "0", "1"]
    assert store_ghosting(model, renamed) == store_ghosting(model, store)


def test_the_sanity_check_is_of_the_maps_that_were_asked_for(model, data):
    found = {rule: sanity_check(model, data[0][:4], rule=rule, n_depths=2) for rule in ("share", "gradient")}
    assert found["share"].likenesses[-1] != found["gradient"].likenesses[-1]
    cards = [
        evaluate(model, data, rule=rule, only=("sanity",), sanity=True, **QUICK)["sanity_structure"]
        for rule in ("share", "gradient")
    ]
    assert cards[0] != cards[1]


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_permuted_labels_do_not_depend_on_the_scale_of_the_embedding(data, scale):
    train = tuple(values[:60] for values in data)
    sems = [convert(network(c), train, n_prototypes=2, progress=False) for c in (1.0, scale)]
    probabilities = []
    for sem in sems:
        store = embed(sem, train, progress=False)
        other = with_prototypes_of_permuted_labels(sem, store.embeddings, store.labels)
        probabilities.append(other.predict_proba(data[0]))
    torch.testing.assert_close(*probabilities, atol=1e-3, rtol=1e-3)


def test_an_encoder_without_weights_is_refused_in_a_line(data):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    sem = convert(net, data, n_prototypes=2, head="output", progress=False)
    with pytest.raises(LookalikeError, match="no weights that could be randomised"):
        sanity_check(sem, data[0][:4])


def test_a_network_that_cannot_be_copied_leaves_the_other_measures(data):
    net = network()
    nn.utils.weight_norm(net[0])
    net(data[0][:1]).sum()  # whose weight is computed now, with a graph
    sem = convert(net, data, n_prototypes=2, progress=False)
    card = evaluate(sem, data, train=data, measures=("model_randomisation", "identical_class"), **QUICK)
    assert card.runs or card.notes


NAN = float("nan")


@pytest.mark.parametrize(
    "measure",
    [
        lambda: diversity(torch.full((4, 4), NAN)),
        lambda: diversity(torch.eye(4).index_fill(0, torch.tensor([1]), NAN)),
        lambda: reference_diversity(torch.tensor([[0.0], [NAN], [1.0]])),
        lambda: activation_counts(torch.full((4, 2), NAN), torch.zeros(4, dtype=torch.long), torch.tensor([0, 1])),
        lambda: CalibrationBins.of(torch.tensor([0.5, NAN]), torch.tensor([True, False])),
        lambda: CalibrationBins.of(torch.tensor([3.0, 4.0]), torch.tensor([True, False])),
        lambda: CalibrationBins.of(torch.tensor([99.0, 80.0]), torch.tensor([True, False])),
        lambda: CalibrationBins.of(torch.tensor([-0.3]), torch.tensor([True])),
        lambda: calibration_figures(torch.full((2, 2), NAN), [0, 1]),
        lambda: calibration_figures(torch.tensor([[3.0, -1.0]]), [0]),
        lambda: calibration_figures(torch.tensor([[0.5, 0.5]]), [-1]),
        lambda: calibration_figures(torch.tensor([[0.5, 0.5]]), [2]),
        lambda: explanation_divergence(torch.rand(1, 2, 2), torch.rand(1, 2, 2), floor=0),
    ],
)
def test_no_good_figure_comes_of_what_is_no_number_or_no_probability(measure):
    with pytest.raises(LookalikeError):
        measure()


def test_targets_and_relevance_are_checked(model, data):
    x = data[0][:3]
    noise = Noise(torch.tensor([0.0]), torch.tensor([1.0]), draws=1, seed=0)
    relevance = torch.rand(3, 8, 8)
    for bad in (torch.full((3, 8, 8), NAN), relevance.index_fill(0, torch.tensor([1]), NAN)):
        with pytest.raises(LookalikeError, match="relevance must not have NaN"):
            relevance_ordering(model.predict_proba, x, bad, noise)
        with pytest.raises(LookalikeError, match="relevance must not have NaN"):
            increase_and_drop(model.predict_proba, x, bad, noise, torch.zeros(3, dtype=torch.long))
    for targets in ([-1, 0, 0], [3, 0, 0]):
        with pytest.raises(LookalikeError, match="is no class"):
            increase_and_drop(model.predict_proba, x, relevance, noise, torch.tensor(targets))
        with pytest.raises(LookalikeError, match="is no class"):
            faithfulness_correlation(model.predict_proba, x, relevance, targets=torch.tensor(targets))


def test_equal_relevance_counts_by_its_share_inside():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 2:] = True, True
    assert relevance_rank(torch.ones(2, 4, 4), masks).tolist() == [0.5, 0.5]
    some = torch.zeros(2, 4, 4)
    some[:, 0, 0] = 1
    assert relevance_rank(some, masks).tolist() == pytest.approx([(1 + 7 * 7 / 15) / 8, 7 * 8 / 15 / 8])


def test_a_class_without_samples_agrees_with_nothing(data):
    sems = [convert(network(), data, n_prototypes=3, seed=seed, progress=False).prototypes for seed in (0, 1)]
    z = torch.from_numpy(
        np.array(embed(convert(network(), data, n_prototypes=1, progress=False), data, progress=False).embeddings)
    )
    rows = data[1] < 2
    with_two = prototype_likeness(*sems, z[rows], data[1][rows])
    alone = [prototype_likeness(*sems, z[data[1] == k], data[1][data[1] == k]).same_cluster for k in (0, 1)]
    assert with_two.same_cluster == pytest.approx(np.mean(alone))


def test_the_nearest_mean_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(500, 6)).astype(np.float32), rng.integers(0, 4, 500) * 2
    test = rng.normal(size=(90, 6)).astype(np.float32)
    found = plain_predictions(z, y, test)["nearest_mean"]
    assert found.tolist() == NearestCentroid().fit(z, y).predict(test).tolist()


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("flint", {"conciseness_from": 0}), ("protopnet", {"push_every": 0}), ("protopnet", {"push_every": -5}),
        ("protopnet", {"warm_epochs": -1}), ("protopnet", {"last_layer_epochs": -1}), ("blackbox", {"momentum": -1.0}),
        ("blackbox", {"weight_decay": -1.0}), ("blackbox", {"warm_up": -3}),
        ("blackbox", {"final_learning_rate": -1.0}),
    ],
)  # fmt: skip
def test_hyperparameters_that_mean_nothing_are_refused(method, given):
    with pytest.raises(LookalikeError, match=next(iter(given))):
        hyperparameters(method, "mnist", given=given)


def test_a_budget_learns_from_the_images_that_were_read():
    clock = iter(range(100))
    budget = Budget(60, clock=lambda: next(clock))
    with Budget.embedding_within(budget) as took:
        took(10)
    assert budget.seconds_per_image == pytest.approx(0.1)
    assert budget.allows_reading(10)
    assert not budget.allows_reading(None)
    with Budget.embedding_within(None) as took:
        took(10)
