import json

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from tools.fuzz_saved import write_config
from torch import nn

from lookalike import PrototypeClassifier, convert, explain, load
from lookalike._core.errors import LookalikeError
from lookalike.conversion.temperature import HeldOut, fit_temperature, hold_out
from lookalike.metrics import expected_calibration_error
from lookalike.model.classifier import NearestPrototype
from lookalike.model.similarity import make_similarity


def clouds(n, spread=1.0, dim=8, k=4, seed=0):
    """n points of k overlapping Gaussian clouds, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return (np.eye(k, dim)[y] * 2 + spread * rng.normal(size=(n, dim))).astype(np.float32), y


def one_fold(z, y, centres):
    """Held-out samples whose prototypes are known: one per class."""
    return [
        HeldOut(
            torch.from_numpy(centres[k]).expand(5, 1, -1),
            torch.ones(5, 1, dtype=torch.bool),
            torch.from_numpy(z[y == k]),
            torch.arange((y == k).sum()) % 5,
            int((y == k).sum()),
        )
        for k in range(len(centres))
    ]


def test_it_is_where_the_log_loss_has_no_slope():
    z, y = clouds(400)
    centres = np.stack([z[y == k].mean(0, keepdims=True) for k in range(4)])
    found = fit_temperature(one_fold(z, y, centres), make_similarity("sqeuclidean"))
    scores = -((z[:, None].astype(float) - centres[None, :, 0]) ** 2).sum(2)
    smoothing = 1 / (len(z) + 2)
    targets = np.where(np.eye(4)[y] > 0, 1 - smoothing, smoothing / 3)

    def slope(inverse):  # d/dβ of −Σ t log softmax(β s)
        p = np.exp(inverse * scores - np.logaddexp.reduce(inverse * scores, axis=1, keepdims=True))
        return float((scores * (p - targets)).sum())

    assert found.source == "fitted"
    assert found.value == pytest.approx(1 / brentq(slope, 1e-3, 10), rel=5e-3)
    assert found.log_loss < found.log_loss_at_1


@pytest.mark.parametrize("similarity", ["l2", "log", "cosine", "dot"])
def test_it_makes_probabilities_of_new_samples_mean_what_they_say(similarity):
    z, y = clouds(1200, spread=0.8)
    new, new_y = torch.from_numpy(clouds(4000, spread=0.8, seed=1)[0]), torch.arange(4000) % 4
    errors = {}
    for temperature in (1.0, "auto"):
        model = PrototypeClassifier(3, similarity=similarity, temperature=temperature).fit(z, y)
        errors[temperature] = expected_calibration_error(torch.from_numpy(model.predict_proba(new.numpy())), new_y)
    assert errors["auto"] < 0.04 < errors[1.0]


def test_no_sample_is_compared_with_a_prototype_that_it_made():
    z, _ = clouds(50)
    held_out = hold_out(
        lambda rows: z[rows], 50, 0, torch.from_numpy(z[:1]), make_similarity("l2"), n_classes=2, seed=0
    )
    assert len(held_out.samples) == 50
    for fold in range(5):
        outside = held_out.samples[held_out.folds != fold]
        torch.testing.assert_close(held_out.prototypes[fold, 0], outside.mean(0), rtol=1e-5, atol=1e-5)


def test_patches_of_an_image_are_held_out_together():
    z, _ = clouds(60)
    images = np.arange(60) // 6
    held_out = hold_out(
        lambda rows: z[rows],
        60,
        0,
        torch.from_numpy(z[:2]),
        make_similarity("l2"),
        n_classes=2,
        seed=0,
        groups=images,
    )
    for image in range(10):
        assert len(held_out.folds[images == image].unique()) == 1
    assert len(held_out.folds.unique()) == 5


@pytest.mark.parametrize("factor", [2.0**-5, 2.0**7])
@pytest.mark.parametrize("similarity", ["l2", "log-l2", "rbf", "ned"])
def test_an_embedding_times_a_constant_has_the_same_probabilities(similarity, factor):
    z, y = clouds(200)
    expected = PrototypeClassifier(2, similarity=similarity).fit(z, y).predict_proba(z)
    found = PrototypeClassifier(2, similarity=similarity).fit(z * factor, y).predict_proba(z * factor)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_sum_of_shares_is_fitted_in_its_own_way():
    z, y = clouds(400, spread=0.8)
    model = PrototypeClassifier(5, probabilities="sum").fit(z, y)
    other = PrototypeClassifier(5, probabilities="max").fit(z, y)
    assert model.temperature_.value != other.temperature_.value
    new, new_y = clouds(4000, spread=0.8, seed=1)
    assert expected_calibration_error(torch.from_numpy(model.predict_proba(new)), torch.from_numpy(new_y)) < 0.04


def test_predictions_stay_and_seeds_repeat():
    z, y = clouds(300)
    plain, fitted, again = (PrototypeClassifier(3, temperature=t).fit(z, y) for t in (1.0, "auto", "auto"))
    assert np.array_equal(plain.predict(z), fitted.predict(z))
    assert fitted.temperature_ == again.temperature_
    assert plain.temperature_.value == 1.0


@pytest.mark.parametrize(
    ("numbers", "fitted"),
    [([1, 40, 40], True), ([2, 2, 2], True), ([1, 1, 40], False), ([1, 1, 1], False), ([30], False)],
)
def test_small_classes_are_held_out_as_far_as_they_can_be(numbers, fitted):
    y = np.repeat(np.arange(len(numbers)), numbers)
    z = (np.eye(8)[y] * 2 + np.random.default_rng(0).normal(size=(len(y), 8))).astype(np.float32)
    model = PrototypeClassifier(2).fit(z, y)
    assert (model.temperature_.source == "fitted") is fitted
    if not fitted:
        assert model.temperature_.value == 1.0
        assert "was not fitted and is 1" in model.temperature_.note
        assert "\n" not in model.temperature_.note


def test_identical_embeddings_and_no_errors_leave_it_finite():
    y = np.arange(40) % 2
    same = PrototypeClassifier(1).fit(np.ones((40, 3)), y)
    assert same.temperature_.value == 1.0
    assert "do not tell prototypes apart" in same.temperature_.note
    apart = PrototypeClassifier(1).fit(np.eye(2)[y] * 100 + np.random.default_rng(0).normal(size=(40, 2)), y)
    assert apart.predict_proba(np.eye(2) * 100).max() < 0.999  # 40 samples without an error prove no more


def test_classes_count_as_often_as_they_occur():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [3000, 50])
    z = rng.normal(size=(3050, 2)) * np.where(y[:, None] == 0, 1, 3) + np.where(
        y[:, None] == 0, [1.0, 0.0], [-1.0, 0.0]
    )
    model = PrototypeClassifier(1).fit(z, y)
    found = model.temperature_
    assert found.n_samples == 1050  # of the first class a sample, which stands for all
    losses = -np.log(model.predict_proba(z)[np.arange(3050), y])
    assert found.log_loss == pytest.approx(losses.mean(), rel=0.1)
    balanced = np.mean([losses[y == k].mean() for k in (0, 1)])
    assert abs(balanced - losses.mean()) > 0.2 * losses.mean()  # so that the two can be told apart


@pytest.mark.parametrize("value", ["warm", 0, -1.0, float("nan"), float("inf"), None, True])
def test_wrong_temperatures_are_refused(net, blobs, value):
    with pytest.raises(LookalikeError, match="temperature must be"):
        convert(net, blobs, temperature=value)


def test_it_is_saved_with_the_model_and_shown_in_its_card(net, blobs, tmp_path):
    spec_less = convert(net, blobs, n_prototypes=2, progress=False)
    spec_less.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    again = load(tmp_path / "model", model=net)
    assert config["classifier"]["options"]["temperature"] == spec_less.classifier.temperature != 1
    assert again.classifier.temperature == spec_less.classifier.temperature
    assert again.provenance["calibration"]["source"] == "fitted"
    x, _ = blobs
    assert torch.equal(again.predict_proba(x), spec_less.predict_proba(x))
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"a temperature of {spec_less.classifier.temperature:.4g}, fitted to 90 training samples held out" in card


def test_a_saved_model_without_one_has_a_temperature_of_1(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, temperature=1, progress=False)
    sem.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["classifier"]["options"]["temperature"]
    del config["provenance"]["calibration"]
    write_config(tmp_path / "model", config)
    again = load(tmp_path / "model", model=net)
    assert again.classifier.temperature == 1
    assert torch.equal(again.predict_proba(blobs[0]), sem.predict_proba(blobs[0]))
    again.save(tmp_path / "again")
    assert "not fitted: read them as likeness, not as chances" in (tmp_path / "again" / "README.md").read_text()


def test_scores_probabilities_and_sentences_agree(net, blobs):
    x, _ = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    torch.testing.assert_close(sem(x).softmax(1), sem.predict_proba(x))
    plain = NearestPrototype()(sem.similarities(x), sem.prototypes.labels, 3)
    torch.testing.assert_close(sem(x), plain / sem.classifier.temperature)
    (explanation,) = explain(sem, x[:1])
    p = sem.predict_proba(x[:1]).max()
    assert f"({p:.0%})." in explanation.sentence()


def test_more_data_keep_it_unless_a_number_is_given(net, blobs):
    x, y = blobs
    sem = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    joined = sem.update((x[60:], y[60:]), n_prototypes=2, progress=False)
    assert joined.classifier.temperature == sem.classifier.temperature
    assert joined.provenance["calibration"]["source"] == "kept"
    given = sem.update((x[60:], y[60:]), n_prototypes=2, temperature=2, progress=False)
    assert given.classifier.temperature == 2
    assert given.provenance["calibration"]["source"] == "given"


def test_patches_have_probabilities_too():
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(20, 1, 6, 6, generator=rng), torch.arange(20) % 2
    x[y == 1] *= 3
    model = convert(net, (x, y), n_prototypes=2, progress=False, level="patch")
    found = model.segment(x).probabilities
    assert found.shape == (20, 4, 4, 2)
    assert torch.equal(found.argmax(3), model.segment(x).classes)
    assert model.provenance["calibration"]["source"] == "fitted"
    assert model.provenance["calibration"]["value"] == model.classifier.temperature
    plain = convert(net, (x, y), n_prototypes=2, temperature=1, progress=False, level="patch")
    assert not torch.allclose(plain.segment(x).probabilities, found)
