"""D_fth beside its controls, the verdict on them, and the signed correlation."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from lookalike import Scorecard, convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics import (
    ExplanationCorrelation,
    explanation_correlation,
    holm,
    independent_agreement,
    range_of_another,
    sign_test,
    with_permuted_labels,
    with_random_head,
)
from lookalike.metrics.verdict import _two_digits
from lookalike.relevance import lrp, lrp_of_heads

ONLY = {"only": ("explanations",), "n_images": 40, "progress": False}


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


def test_the_correlation_is_pearsons_and_sees_the_sign():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 4, 6))
    found = explanation_correlation(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, [pearsonr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)])
    maps = torch.from_numpy(a)
    assert explanation_correlation(maps, -1e-30 * maps).tolist() == pytest.approx([-1] * 5)
    metric = ExplanationCorrelation()
    metric.update(maps, torch.from_numpy(b))
    assert float(metric.compute()) == pytest.approx(float(found.mean()))


def test_a_map_that_is_the_same_everywhere_has_no_correlation():
    maps = torch.rand(3, 4, 4)
    even = torch.stack([maps[0], torch.zeros(4, 4), torch.full((4, 4), 0.1)])
    assert explanation_correlation(maps, even).isnan().tolist() == [False, True, True]
    metric = ExplanationCorrelation()
    metric.update(maps, even)
    assert float(metric.compute()) == pytest.approx(1)


def test_heads_share_one_pass_and_give_the_same_maps(sem, blobs):
    x, _ = blobs
    passes = []
    handle = sem.encoder.model[0].register_forward_hook(lambda *_: passes.append(1))
    heads = [lambda z, rows: sem.log_probabilities_of(z), lambda z, rows: z[:, :3]]
    found = lrp_of_heads(sem.encoder, x[:20], heads, batch_size=20)
    with_several = len(passes)
    passes.clear()
    own = lrp(sem, x[:20], of="probability", batch_size=20)
    handle.remove()
    assert with_several == len(passes)
    assert torch.equal(found.maps[:, 0], own.maps)
    assert not torch.equal(found.maps[:, 1], own.maps)
    with pytest.raises(LookalikeError, match="no head"):
        lrp_of_heads(sem.encoder, x, [])


def test_other_images_are_of_another_predicted_class(sem, blobs):
    """Sorted data gave neighbours of the same class; equal maps of one class must not count as different images."""
    x, y = blobs
    order = y.argsort(stable=True)
    from lookalike.metrics.controls import mismatched_images

    partners = mismatched_images(y[order], [0, 0])
    assert bool((y[order][partners] != y[order]).all())
    assert not torch.equal(partners, mismatched_images(y[order], [1, 0]))
    card = evaluate(sem, (x[order], y[order]), **ONLY)
    assert {f"explanation_divergence_{name}" for name in ("random_head", "permuted_labels", "mismatched")} <= set(
        card.runs
    )


def test_one_image_has_no_other_and_no_range(sem, blobs):
    card = evaluate(sem, blobs, **ONLY | {"n_images": 1})
    assert "explanation_divergence_mismatched" not in card.runs
    assert any("cannot be said without controls" in sentence for sentence in card.verdict())


def test_noise_does_not_depend_on_which_images_are_measured(sem, blobs):
    """The range of one image alone is not that of the data."""
    from lookalike import embed
    from lookalike.data import Batches
    from lookalike.metrics import Options
    from lookalike.metrics.context import Context

    sem.value_range = None
    batches = Batches(blobs)
    store = embed(sem, batches, progress=False)
    ranges = [Context(sem, Options(n_images=n), batches, store, blobs[1]).noise(0) for n in (1, 90)]
    assert torch.equal(ranges[0].low, ranges[1].low)
    assert float(ranges[0].high) == float(blobs[0].max())


def test_with_one_prototype_per_class_labels_are_not_permuted(net, blobs):
    single = convert(net, blobs, n_prototypes=1, progress=False)
    card = evaluate(single, blobs, **ONLY)
    assert "explanation_divergence_permuted_labels" not in card.runs
    assert "explanation_divergence_random_head" in card.runs
    with pytest.raises(LookalikeError, match="only rename"):
        with_permuted_labels(single)


def test_controls_are_wrong_models_on_the_same_encoder(sem, blobs):
    x, y = blobs
    shuffled, chance = with_permuted_labels(sem, 1), with_random_head(sem, sem.embed(x), 1)
    assert torch.equal(shuffled.embed(x), sem.embed(x))
    assert torch.equal(chance.embed(x), sem.embed(x))
    assert sorted(shuffled.prototypes.labels.tolist()) == sorted(sem.prototypes.labels.tolist())
    assert float((shuffled.predict(x) == y).double().mean()) < float((sem.predict(x) == y).double().mean())
    assert with_random_head(sem, 7 * sem.embed(x), 1).prototypes.vectors.mul(7).allclose(chance.prototypes.vectors)


def explained(gaps, mismatched=0.5):
    others = mismatched if isinstance(mismatched, list) else [mismatched] * 10
    gaps = {"random_head": gaps, "permuted_labels": [0.1] * 10, "mismatched": others}
    controls = {name: {"divergence_gaps": [[gap] for gap in one], "correlation_gaps": []} for name, one in gaps.items()}
    runs = {"explanation_divergence": [0.1], "explanation_correlation": [0.8]}
    return " ".join(Scorecard(runs, {"explanations": [{"controls": controls}]}, ["a", "b"]).verdict())


def test_the_verdict_asks_for_more_than_any_control_gets():
    assert "It looks where the original looks (the maps differ by 0.10;" in explained([0.1, 0.11] * 5)
    close = explained([0.1, -0.08] * 5)
    assert "not clearly closer to the original's than heat-maps of a network whose last layer is random" in close
    assert "permuted labels, beyond" not in close
    assert "It does not look where the original looks" in explained([0.1, 0.11] * 5, mismatched=0.0)
    spread = explained([0.1, 0.11] * 5, mismatched=[0.1, -0.11] * 5)  # not nearer, and not farther beyond chance
    assert "not shown that it looks where the original looks" in spread
    assert "than heat-maps of other images" in spread


def test_a_range_counts_the_spread_of_draws_not_of_samples():
    rng = np.random.default_rng(0)
    draws, spread = rng.normal(0, 0.1, 400), 2.0
    noisy = [(mean + rng.normal(0, spread, 400)).tolist() for mean in draws]
    found = range_of_another(noisy)
    assert found.high - found.low == pytest.approx(2 * 1.97 * 0.1, rel=0.25)
    assert range_of_another([[1.0, 2.0], []]) is None


def agreed(share, n, box_error, n_classes=100, **limits):
    from lookalike._core.intervals import share as interval
    from lookalike.metrics import Thresholds

    details = {
        "agreement": interval(round(share * n), n).to_dict(),
        "black_box_accuracy": interval(round((1 - box_error) * n), n).to_dict(),
        "per_class": [],
    }
    card = Scorecard({"agreement": [share]}, {"faithfulness": [details]}, ["c"] * n_classes)
    return card.verdict(Thresholds(**limits))[0]


def test_agreement_is_judged_by_its_interval_and_the_black_boxs_error():
    assert agreed(0.96, 10_000, 0.04).endswith("(95% interval 95.6% to 96.4%).")
    assert "too few to stand for it; two trainings" in agreed(0.90, 10_000, 0.04)
    assert "too few images to tell" in agreed(0.96, 100, 0.001)
    assert "too few images to tell" in agreed(0.87, 31, 0.3, n_classes=5)  # 71% to 95%, and 90% are good
    assert "48.0% of the answers differ" in agreed(0.52, 31, 0.6, n_classes=5)  # 35% to 68%: not good, whatever it is
    assert "too few to stand for it; 97% are asked for" in agreed(0.96, 10_000, 0.001)
    assert "too few to stand for it; 99.0% are asked for" in agreed(0.96, 10_000, 0.04, agreement=0.99)


def test_small_figures_are_told_by_two_digits():
    assert [_two_digits(value) for value in (0, 0.5, 0.104, 0.0312, 0.00123)] == [
        "0.00",
        "0.50",
        "0.10",
        "0.031",
        "0.0012",
    ]


def test_independent_errors_agree_as_often_as_simulated():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200_000)

    def erring():
        return np.where(rng.random(len(labels)) < 0.3, (labels + rng.integers(1, 5, len(labels))) % 5, labels)

    assert independent_agreement(0.3, 5) == pytest.approx((erring() == erring()).mean(), abs=0.005)


def test_many_classes_do_not_make_a_loss():
    from scipy.stats import binomtest

    assert sign_test(8, 1) == pytest.approx(binomtest(8, 9, alternative="greater").pvalue)
    assert holm([sign_test(6, 0), *[0.5] * 99]) == [False] * 100
    assert holm([sign_test(12, 0), *[0.5] * 99]) == [True, *[False] * 99]
    assert holm([0.02, 0.03, 0.01]) == [True, True, True]


def test_controls_have_the_models_range_of_values(sem, blobs):
    """Noise is drawn between black and white, which the range tells."""
    for control in (with_permuted_labels(sem, 1), with_random_head(sem, sem.embed(blobs[0]), 1)):
        assert torch.equal(control.value_range, sem.value_range)


@pytest.mark.parametrize("error", [-0.1, 1.1, float("nan")])
def test_an_error_rate_is_a_share(error):
    with pytest.raises(LookalikeError, match="error"):
        independent_agreement(error, 5)
