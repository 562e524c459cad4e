"""Findings of a verdict: their order, their levels, and the one sentence over all of them."""

import re
from dataclasses import replace

import pytest
import torch

from lookalike import convert, evaluate
from lookalike._core.intervals import Range
from lookalike._core.intervals import share as interval
from lookalike.metrics import Scorecard, Thresholds
from lookalike.metrics.class_findings import joined
from lookalike.metrics.findings import Finding, by_weight, on_sample, overall
from lookalike.metrics.verdict import _control, verdict

AGREES = Finding("agreement", "good", "It agrees.", headline="It mostly answers as the original does: 92% are the same")
PIXELS = Finding("pixels", "good", "The pixels count.")
ATTENTION, SANITY = Finding("attention", "good", "There."), Finding("sanity", "good", "They change.")


def test_the_gravest_come_first_and_what_decides_all_comes_before_details():
    found = [
        Finding("weakest", "info", "w"),
        PIXELS,
        Finding("unused", "caution", "u"),
        Finding("sanity", "bad", "s"),
        AGREES,
        Finding("leak", "bad", "l"),
    ]
    assert [finding.topic for finding in by_weight(found)] == [
        "leak", "sanity", "unused", "agreement", "pixels", "weakest",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (
            [AGREES, PIXELS],
            "good",
            "92% are the same, and it errs in 10 of 100. Its heat-maps show pixels that it needs.$",
        ),
        ([AGREES, PIXELS, ATTENTION, SANITY], "good", "^It mostly answers .* Its heat-maps can be relied on: "),
        (
            [AGREES, PIXELS, ATTENTION, SANITY, Finding("objects", "bad", "Off.")],
            "bad",
            "that it needs. Off. It mostly",
        ),
        ([Finding("agreement", "bad", "x", headline="It cannot"), PIXELS], "bad", "^It cannot, and it errs in 10 of"),
        (
            [AGREES, Finding("accuracy", "bad", "x")],
            "bad",
            "^x It mostly .*; it is less accurate than the original, beyond",
        ),
        (
            [AGREES, Finding("accuracy", "caution", "x")],
            "caution",
            "^x .*; how much accuracy it lost, if any, so few images cannot tell.$",
        ),
        ([AGREES, Finding("classes", "bad", "Lost.")], "bad", "^Lost. It mostly answers"),
        ([AGREES, PIXELS, Finding("unused", "caution", "Unused.")], "caution", "^Unused. It mostly"),
        ([AGREES, Finding("pixels", "bad", "x")], "bad", "^Do not rely on its heat-maps"),
        ([AGREES, PIXELS, Finding("sanity", "bad", "x")], "bad", "^Do not rely on its heat-maps"),
        (
            [AGREES, Finding("pixels", "caution", "x")],
            "caution",
            "^There are too few images to say whether its heat-maps",
        ),
        (
            [AGREES, PIXELS, Finding("attention", "caution", "x")],
            "caution",
            "are not shown to be what the original",
        ),
        (
            [AGREES, PIXELS, Finding("attention", "bad", "x")],
            "bad",
            "^Its heat-maps .* but not what the original looks at",
        ),
        ([AGREES, Finding("leak", "bad", "Leaked.")], "bad", "^Leaked.$"),
        ([AGREES, Finding("leak", "bad", "Leaked. So.", "1 to 2", headline="Leaked.")], "bad", "^Leaked.$"),
    ],
)
def test_the_sentence_over_all(found, level, says):
    whole = overall(found, 0.9, 100)
    assert whole.level == level
    assert re.search(says, whole.text)


def accuracy_finding(difference, low, high):
    """Returns the finding on accuracy for a paired difference to the original's, in points."""
    paired = {"value": difference / 100, "low": low / 100, "high": high / 100}
    details = {"faithfulness": [{"difference": paired, "per_class": []}]}
    card = Scorecard({"accuracy": [0.9], "accuracy_difference": [difference / 100]}, details, ["a", "b"])
    return next(finding for finding in card.findings() if finding.topic == "accuracy")


@pytest.mark.parametrize(
    ("points", "level", "says"),
    [
        ((0, -0.8, 0.8), "good", "It lost no accuracy: 90.0% .95% interval −0.8 to .0.8 points"),
        ((0, -11, 11), "caution", "^Its accuracy of 90.0% is the same as the original's .*: −11.0 to .11.0 points"),
        (
            (7.1, -4.4, 17.7),
            "caution",
            "^Its accuracy of 90.0% is 7.1 points above the original's .95% interval of the difference: −4.4 to .17.7 "
            "points.. These are too few images to tell whether it is better or worse than the original.$",
        ),
        (
            (-0.9, -1.5, -0.1),
            "caution",
            "is 0.9 points below .* So it lost accuracy; whether more than 1 point, these images cannot tell.$",
        ),
        ((-0.5, -0.9, -0.1), "good", "0.5 points below"),
        ((-3, -8, 2), "caution", "is 3.0 points below the original's .* better or worse than the original.$"),
        ((-3, -5, -1), "bad", "It lost 3.0 points of accuracy"),
    ],
)
def test_accuracy_is_good_only_if_its_interval_excludes_a_loss(points, level, says):
    found = accuracy_finding(*points)
    assert found.level == level
    assert re.search(says, found.text)


@pytest.mark.parametrize(
    ("accuracy", "level", "says"),
    [
        (0.4, "bad", "40.0% of the test images correctly .95% interval 30.* it errs more often than not"),
        (0.7, "caution", "30% of its answers are wrong"),
        (0.95, "info", "95.0% of the test images correctly .95% interval"),
    ],
)
def test_without_an_original_the_accuracy_speaks_for_itself(accuracy, level, says):
    runs = {"accuracy": [accuracy]}
    card = Scorecard(runs, {"faithfulness": [{"accuracy": share_of(accuracy, 80), "per_class": []}]}, ["a", "b"])
    (finding,) = card.findings()
    assert (finding.level, card.overall().level) == (level, level)
    assert re.search(says, finding.text)


def agreeing(share, n=108, *, error=0.46, thresholds=None):
    """Returns the finding on agreement and the sentence over all for 10 classes and a black box with this error."""
    of = {"agreement": share_of(share, n), "black_box_accuracy": share_of(1 - error, n), "accuracy": share_of(0.5, n)}
    runs = {"agreement": [share], "accuracy": [0.5]}
    card = Scorecard(runs, {"faithfulness": [of | {"per_class": []}]}, list("abcdefghij"))
    finding = next(finding for finding in card.findings(thresholds) if finding.topic == "agreement")
    return finding, card.overall(thresholds)


def share_of(value, n):
    return interval(round(value * n), n).to_dict()


@pytest.mark.parametrize(
    ("share", "level", "says"),
    [
        (0.3, "bad", "^This model cannot stand for the original: only 30.0% of their answers are the same"),
        (0.556, "caution", "^44.4% of the answers differ from the original's, and it errs in 54 of 108"),
        (0.769, "caution", "^23.1% of the answers differ"),
        (0.95, "good", "^This model mostly answers as the original does: 95.0% of their answers are the same"),
        (0.98, "good", "^This model can stand for the original: 98.0%"),
    ],
)
def test_only_a_model_that_mostly_agrees_is_good_however_often_the_original_errs(share, level, says):
    """The agreement of two trainings that err independently is 31.5% here, which reassured where half had changed."""
    finding, whole = agreeing(share)
    assert (finding.level, whole.level) == (level, level)
    assert re.search(says, whole.text)


@pytest.mark.parametrize(("good", "most"), [(0.9, "10%"), (0.97, "3%"), (0.8, "20%")])
def test_a_caution_says_how_many_answers_may_differ(good, most):
    finding, _ = agreeing(0.77, 10_000, thresholds=Thresholds(good_agreement=good))
    assert finding.text.endswith(f": 23.0% of the answers differ; a model is called good if at most {most} do.")


def test_an_agreement_that_is_asked_for_decides_alone():
    finding, whole = agreeing(0.7, 10_000, thresholds=Thresholds(agreement=0.6))
    assert finding.level == "good"
    assert whole.text.startswith("This model agrees with the original as often as was asked for: 70.0%")
    assert agreeing(0.7, 10_000, thresholds=Thresholds(good_agreement=0.6))[0].level == "good"
    assert agreeing(0.7, 10_000, thresholds=Thresholds(least_agreement=0.8))[0].level == "bad"


def test_the_figures_stand_behind_the_claim():
    assert Finding("pixels", "good", "The pixels count.", "0.5; by chance 0.1").text == (
        "The pixels count (0.5; by chance 0.1)."
    )


def test_without_a_black_box_accuracy_alone_is_said():
    assert overall([], 0.875).text == "The model classifies 87.5% of the test images correctly."
    assert (
        overall([], 0.875, 80).text == "The model classifies 87.5% of the test images correctly: it errs in 10 of 80."
    )
    assert overall([], None) is None


def test_no_abbreviation_of_a_measure_is_in_a_sentence(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, (x, (y + (torch.arange(len(y)) % 7 == 0)) % 3), train=blobs, n_images=4, n_steps=3, n_draws=1,
                    progress=False)  # fmt: skip
    sentences = [*card.verdict(), card.overall().text]
    assert len(sentences) > 4
    assert not [sentence for sentence in sentences if re.search(r"AUROC|D_[a-z]", sentence)]


def test_the_weakest_class_is_named_with_what_it_is_taken_for(net, blobs):
    x, _ = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    predicted = sem.predict(x)
    labels = predicted.clone()
    rows = torch.nonzero(predicted == 2)[:5, 0]
    labels[rows] = 1  # so class 1 has five mistakes, all taken for class 2
    card = evaluate(sem, (x, labels), only=("faithfulness",), progress=False)
    weakest = next(finding for finding in card.findings() if finding.topic == "weakest")
    n = int((labels == 1).sum())
    said = f"'{sem.class_names[1]}': {1 - 5 / n:.1%} of its {n} test images"
    assert said in weakest.text
    assert f"taken for '{sem.class_names[2]}'" in weakest.text


def weakest_of(*classes, overlaps=()):
    """Returns the finding on the weakest classes: (label, correct of 12, the original's, what it is taken for)."""
    per_class = [
        {"label": label, "n": 12, "accuracy": share_of(right / 12, 12), "black_box_accuracy": share_of(box / 12, 12),
         "mistaken_for": first, "also_mistaken_for": more, "difference": None}
        for label, right, box, first, *more in classes
    ]  # fmt: skip
    details = {"faithfulness": [{"per_class": per_class}], "embedding": [{"classes": list(overlaps)}]}
    names = ["ant", "bee", "cat", "dog", "eel"]
    return next(finding.text for finding in Scorecard({}, details, names).findings() if finding.topic == "weakest")


def test_all_weakest_classes_are_named_and_all_that_they_are_taken_for():
    assert "weakest class is 'bee'" in weakest_of((0, 9, 9, 1), (1, 4, 6, 0))
    both = weakest_of((0, 4, 6, 1), (1, 4, 8, 2, 3), (2, 12, 12, None))
    assert both.startswith("Its weakest classes are 'ant' and 'bee': 33.3% of the test images of each are correct.")
    assert "The others of the 12 images of 'ant' are taken for 'bee' most often (the original: 50.0% correct)" in both
    assert (
        "The others of the 12 images of 'bee' are taken for 'cat' and 'dog', equally often (the original: 66.7%" in both
    )
    none = weakest_of((0, 9, 9, 1), (1, 0, 6, 0))
    taken = "all 12 of its test images are wrong, and taken for 'ant' most often (the original: 50.0% correct)"
    assert none == f"Its weakest class is 'bee': {taken}."
    assert "The 12 images of 'ant' are taken for 'bee' most often" in weakest_of((0, 0, 6, 1), (1, 0, 6, 0))
    of_five = weakest_of(*((label, 4, 6, 0) for label in range(5)))
    assert "are 'ant', 'bee', 'cat', 'dog' and 'eel': 33.3%" in of_five
    assert "are 0, 1, 2, 3, 4, 5, 6, 7 and 2 other classes" in f"are {joined([str(k) for k in range(10)], 8)}"


def test_the_network_is_the_reason_only_where_the_original_is_as_bad():
    near = {"label": 1, "overlap": 0.688, "rival": 0, "also_rival": [2]}
    measured = (
        "With these prototypes, 68.8% of the training images of 'bee' are nearer to a prototype of another class, "
        "most often 'ant' and 'cat'"
    )
    better, as_bad = (weakest_of((0, 9, 9, 1), (1, 4, box, 0), overlaps=[near]) for box in (6, 4))
    assert better.endswith(f"{measured}.")
    assert as_bad.endswith(f"{measured}. The original is no better at this class, so the reason is in the network.")


def heat_maps(gains, **limits):
    """Returns the finding on heat-maps whose areas exceed those in random order by these gains, in each of the runs."""
    areas = [{"model": [0.3 + gain for gain in run], "random": [0.3] * len(run)} for run in gains]
    means = [0.3 + sum(run) / len(run) for run in gains]
    runs = {"auroc": means, "auroc_random": [0.3] * len(gains)}
    card = Scorecard(runs, {"robustness": [{"areas": of_run} for of_run in areas]}, ["a", "b"])
    return next(finding for finding in card.findings(Thresholds(**limits)) if finding.topic == "pixels")


@pytest.mark.parametrize(
    ("gains", "level", "says"),
    [
        ([[0.04, 0.05] * 50], "good", "^On 100 images, its heat-maps point to pixels that it needs: .*chance \\("),
        (
            [[0.04, 0.05] * 10],
            "hint",
            "^On 20 images, .* So few images give a hint, no proof .*difference \\+0.043 to \\+0.047, 20 images",
        ),
        ([[0.0, 0.01] * 10], "bad", "^On 20 images, .* do not rely on its heat-maps"),
        ([[0.3, -0.25] * 10], "caution", "cannot be said: 20 images are too few .*−"),
        ([[0.3, -0.29] * 10], "caution", "cannot be said: 20 images are too few"),
        ([[0.04, 0.041, 0.039, 0.04, 0.042]], "caution", "5 of at least 10 images"),
        ([[0.0, 0.001, 0.002, 0.0, 0.001]], "caution", "5 of at least 10 images"),
        ([[0.04]], "caution", "1 of at least 10 images"),
    ],
)
def test_heat_maps_are_judged_beyond_the_spread_of_images(gains, level, says):
    """Of five images, those of one model said "do not rely" and "can be relied on", by the images drawn."""
    found = heat_maps(gains)
    assert found.level == level
    assert re.search(says, found.text)


def test_runs_on_the_same_images_do_not_narrow_the_interval():
    once = [0.1, -0.02] * 6
    assert heat_maps([once] * 5).figures == heat_maps([once]).figures
    assert heat_maps([[0.04] * 4 + [0.05]], least_images=5, enough_images=5).level == "good"


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (on_sample(PIXELS, 30, 100), "hint", "^On 30 images, the pixels count. So few images give a hint, no proof.$"),
        (on_sample(PIXELS, 100, 100), "good", "^On 100 images, the pixels count.$"),
        (on_sample(Finding("pixels", "bad", "Not."), 1, 100), "bad", "^On 1 image, not.$"),
        (on_sample(PIXELS, None, 100), "good", "^The pixels count.$"),
    ],
)
def test_a_finding_on_a_sample_says_how_many_images_and_few_are_a_hint(found, level, says):
    assert found.level == level
    assert re.search(says, found.claim)


@pytest.mark.parametrize("n_images", [30, 100])
def test_the_sentence_over_all_is_no_surer_than_the_images_that_it_rests_on(n_images):
    few = n_images < 100
    tests = [on_sample(PIXELS, n_images, 100), on_sample(ATTENTION, n_images, 100), on_sample(SANITY, 20, 20)]
    whole = overall([AGREES, *tests], 0.9, 100)
    assert whole.level == ("hint" if few else "good")
    assert f"on {n_images} images" in whole.claim
    assert ("can be relied on" in whole.claim) != few
    assert ("So few images give a hint, no proof." in whole.claim) == few
    assert f"needs on {n_images} images." in overall([AGREES, tests[0]], 0.9, 100).claim


@pytest.mark.parametrize(("n_images", "level"), [(4, "hint"), (20, "good"), (None, "good")])
def test_the_sanity_check_says_on_how_many_images_it_rests(n_images, level):
    likenesses = [{"rank": {"likeness": value}} for value in (1.0, 0.2)]
    check = {"depths": ["as trained", "head"], "likenesses": likenesses, "options": {"n_images": n_images}}
    (found,) = Scorecard({}, {"sanity": [check]}, ["a"]).findings()
    assert found.level == level
    assert found.claim.startswith(
        "Its heat-maps" if n_images is None else f"On {n_images} images, its heat-maps change"
    )


def test_too_few_images_are_told_by_the_bar_that_they_cannot_tell():
    """Of a poor original, the whole interval was above the 50% that were said to be asked for."""
    share = {"value": 22 / 25, "low": 0.70, "high": 0.958, "n": 25}
    box = {"value": 0.52, "low": 0.34, "high": 0.7, "n": 25}
    details = {"faithfulness": [{"agreement": share, "black_box_accuracy": box, "per_class": []}]}
    names = [str(k) for k in range(6)]
    (found,) = Scorecard({"agreement": [22 / 25]}, details, names).findings()
    assert found.level == "caution"
    assert "too few images to tell whether it stands for it; a model is called good if at least 90% are" in found.text
    assert "asked for" not in found.text


def test_maps_that_change_only_far_from_the_head_are_a_warning():
    depths = ["as trained", "prototypes", "head", "conv 2", "conv 1"]

    def found_at(*values):
        likenesses = [{"rank": {"likeness": value}} for value in values]
        check = {"depths": depths, "likenesses": likenesses, "options": {"n_images": 20}}
        return Scorecard({}, {"sanity": [check]}, ["a"]).findings()[0]

    assert found_at(1.0, 0.8, 0.3, 0.2, 0.1).level == "good"
    late = found_at(1.0, 0.85, 0.8, 0.4, 0.1)
    assert late.level == "caution"
    assert "with mixed-up prototypes they stay alike (rank correlation 0.85)" in late.claim
    assert "down to 'conv 2' (rank correlation 0.40)" in late.claim
    assert found_at(1.0, 0.8, 0.8, 0.7, 0.6).level == "bad"


def test_the_sentence_over_all_repeats_what_the_heat_maps_do_not_depend_on():
    late = replace(SANITY, level="caution", n_images=20)
    whole = overall([AGREES, on_sample(PIXELS, 100, 100), on_sample(ATTENTION, 100, 100), late], 0.9, 100)
    assert whole.level == "caution"
    assert "but depend little on its prototypes" in whole.claim
    few = overall([AGREES, on_sample(PIXELS, 30, 100), replace(ATTENTION, level="caution")], 0.9, 100)
    assert "seem to show what it needs itself on 30 images" in few.claim


def test_the_sentence_over_all_ends_with_what_makes_all_of_it_less_sure():
    bad = Finding("accuracy", "bad", "It lost 9 points.")
    groups = Finding("groups", "caution", "76 of 78 test images have another one near.", headline="Fewer than counted.")
    whole = overall([AGREES, bad, groups], 0.9, 100)
    assert whole.claim.startswith("It lost 9 points.")
    assert whole.claim.endswith(" Fewer than counted.")
    alone = overall([AGREES, groups], 0.9, 100)
    assert alone.claim.startswith("76 of 78")
    assert "Fewer than counted" not in alone.claim


def test_the_embedding_gets_the_advice_that_the_conversion_gave():
    advice = {"sentence": "No other similarity or number of prototypes does clearly better than l2 with 1 per class."}
    cards = [
        Scorecard({"overlap": [0.5]}, {}, ["a"], info=info) for info in ({}, {"model_provenance": {"advice": advice}})
    ]
    free, tried = (card.verdict()[0] for card in cards)
    assert free.endswith("of their own. A learned similarity or more prototypes may help.")
    assert tried.endswith(f"of their own. When it was converted: {advice['sentence']}")
    assert "more prototypes may help" not in tried


def test_a_control_is_named_with_its_figure_and_the_range_of_another_draw():
    margin = Range(0.2, 0.05, 0.35)
    assert _control("random_head", lambda _: 0.3, 0.1, margin).endswith("random head 0.30, 95% 0.15 to 0.45")
    assert _control("random_head", lambda _: None, 0.1, margin).endswith("random head 0.30, 95% 0.15 to 0.45")
    below = Range(0.01, -0.2, 0.25)
    assert _control("random_head", lambda _: 0.11, 0.1, below).endswith(", 95% 0.00 to 0.35")


@pytest.mark.parametrize(("value", "said"), [(None, False), (0.2, False), (0.95, True), (0.99, True)])
def test_prototypes_are_nearly_alike_above_a_threshold(value, said):
    figures = {"diversity": value}
    findings = verdict(figures.get, {}, ["a", "b"], Thresholds(alike=0.9))
    assert [one.topic for one in findings].count("variety") == said
