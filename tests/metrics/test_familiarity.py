"""Unfamiliar images: one rule and the same words in the answer, the scorecard, the pages and the exported examples."""

import numpy as np
import pytest
import torch

from lookalike import convert, evaluate, explain
from lookalike._core.wording import UNFAMILIAR_BY_DISTANCE, UNFAMILIAR_BY_NOVELTY
from lookalike.metrics.familiarity import Familiarity, familiarity_finding
from lookalike.model.familiarity import are_unfamiliar
from tests.pages import ROOT
from tests.small import bright_images

STRANGE = 40 * torch.ones(30, 1, 8, 8)


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


@pytest.fixture
def calibrated(sem):
    x, y = bright_images(400)
    return sem.calibrate((x[90:] + 0.01, y[90:]), false_alarm=0.05)


@pytest.mark.parametrize("n_prototypes", [2, 25])
def test_the_rule_for_all_rows_is_that_of_each_explanation(net, blobs, n_prototypes):
    sem = convert(net, blobs, n_prototypes=n_prototypes, progress=False)
    x = torch.cat([blobs[0], blobs[0] * 3, STRANGE])
    expected = [one.unfamiliar for one in explain(sem, x)]
    assert are_unfamiliar(sem, sem.embed(x)).tolist() == expected
    assert 30 <= sum(expected) < len(x)


def test_a_calibrated_model_tests_its_novelty_score(calibrated, blobs):
    x = torch.cat([blobs[0], STRANGE])
    assert are_unfamiliar(calibrated, calibrated.embed(x)).tolist() == [
        one.unfamiliar for one in explain(calibrated, x)
    ]


def test_what_is_not_tested_is_not_counted(sem):
    x, y = bright_images(120)
    few = sem.calibrate((x[90:] + 0.01, y[90:]), false_alarm=0.01)
    assert explain(few, x[:1])[0].unfamiliar is None
    assert are_unfamiliar(few, few.embed(x)) is None
    card = evaluate(few, (x, y), only=("faithfulness",), progress=False)
    assert card.details["faithfulness"][0]["unfamiliar"] is None
    assert not [finding for finding in card.findings() if finding.topic == "unfamiliar"]


@pytest.mark.parametrize(("n_unfamiliar", "is_told"), [(2, False), (3, True), (20, True)])
def test_many_unfamiliar_images_are_a_finding(n_unfamiliar, is_told):
    rows = np.arange(20)
    found = familiarity_finding(
        Familiarity.of(rows < n_unfamiliar, rows % 2 == 1, is_calibrated=False, of_patches=False).to_dict()
    )
    assert (found is not None) == is_told
    if found is not None:
        said = {
            3: "Of these 3 answers, 1 is wrong (33.3%), and 9 of the other 17 (52.9%).",
            20: "Of these 20 answers, 10 are wrong (50.0%).",
        }
        assert found.text == (
            f"{n_unfamiliar} of the 20 test images are unfamiliar. {said[n_unfamiliar]} Unfamiliar means of an image: "
            f"{UNFAMILIAR_BY_DISTANCE}."
        )


def test_the_verdict_says_how_many_test_images_are_unfamiliar(sem, blobs):
    x, y = torch.cat([blobs[0], STRANGE]), torch.cat([blobs[1], torch.zeros(30, dtype=torch.int64)])
    card = evaluate(sem, (x, y), only=("faithfulness",), progress=False)
    (finding,) = [finding for finding in card.findings() if finding.topic == "unfamiliar"]
    assert finding.text.startswith("30 of the 120 test images are unfamiliar. ")
    assert "Unfamiliar means of an image: it is farther from its nearest" in finding.text
    assert finding.text in card.verdict()


def test_an_explanation_says_that_and_why_it_is_unfamiliar(sem, calibrated):
    for model, why in ((sem, UNFAMILIAR_BY_DISTANCE), (calibrated, UNFAMILIAR_BY_NOVELTY)):
        assert f"It is unfamiliar: {why}." in explain(model, STRANGE[:1])[0].sentence()
    assert "unfamiliar" not in explain(sem, bright_images(3)[0])[0].sentence()


@pytest.mark.parametrize(
    "page",
    ["docs/glossary.md", "docs/how-to/export.md", "examples/run_exported.py", "docs/method.md", "docs/tutorial.md"],
)
def test_pages_and_examples_say_it_in_the_same_words(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split()).replace('" "', "")
    assert UNFAMILIAR_BY_DISTANCE.removeprefix("it is ") in text
    if page not in ("docs/method.md", "docs/tutorial.md"):  # these say it of models that are not calibrated
        assert UNFAMILIAR_BY_NOVELTY.removeprefix("its ") in text.replace(
            "its [novelty](#novelty) score", "novelty score"
        )


def test_a_scorecard_counts_unfamiliar_images_and_the_wrong_answers_among_them(sem, blobs):
    x, y = torch.cat([blobs[0], STRANGE]), torch.cat([blobs[1], torch.arange(30) % 3])
    y[:5] = (y[:5] + 1) % 3  # wrong, and familiar
    unfamiliar = np.array([one.unfamiliar for one in explain(sem, x)])
    wrong = (sem.predict(x) != y).numpy()
    assert 0 < (unfamiliar & wrong).sum() < wrong.sum() != unfamiliar.sum()
    card = evaluate(sem, (x, y), only=["faithfulness"], progress=False)
    expected = Familiarity.of(unfamiliar, wrong, is_calibrated=False, of_patches=False)
    assert card.details["faithfulness"][0]["unfamiliar"] == expected.to_dict()
    assert (expected.n, expected.n_wrong) == (unfamiliar.sum(), (unfamiliar & wrong).sum())
