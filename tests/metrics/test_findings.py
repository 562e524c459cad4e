"""Findings of a verdict: their order, their levels, and the one sentence over all of them."""

import re

import pytest
import torch

from lookalike import convert, evaluate
from lookalike.metrics.findings import Finding, by_weight, overall

AGREES = Finding("agreement", "good", "It agrees.")
PIXELS = Finding("pixels", "good", "The pixels count.")


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
        ([AGREES, PIXELS], "good", "no more than a second training of it might: 90.0% of their.*can be relied on"),
        ([Finding("agreement", "bad", "x"), PIXELS], "bad", "cannot stand for the original: only 90.0%"),
        ([Finding("agreement", "caution", "x")], "caution", "too few test images to tell"),
        ([AGREES, Finding("pixels", "bad", "x")], "bad", "Do not rely on its heat-maps"),
        ([AGREES, PIXELS, Finding("sanity", "bad", "x")], "bad", "Do not rely on its heat-maps"),
        ([AGREES, PIXELS, Finding("attention", "caution", "x")], "caution", "but not what the original looks at"),
        ([AGREES, Finding("leak", "bad", "Leaked.")], "bad", "^Leaked.$"),
    ],
)
def test_the_sentence_over_all(found, level, says):
    whole = overall(found, 0.9, None)
    assert whole.level == level
    assert re.search(says, whole.text)


def test_a_model_that_agrees_nearly_always_can_stand_for_the_original():
    assert overall([AGREES], 0.975, 0.5).text == (
        "This model can stand for the original: 97.5% of their answers are the same, "
        "and 50.0% of its answers are correct."
    )


def test_the_figures_stand_behind_the_claim():
    assert Finding("pixels", "good", "The pixels count.", "0.5; by chance 0.1").text == (
        "The pixels count (0.5; by chance 0.1)."
    )


def test_without_a_black_box_accuracy_alone_is_said():
    assert overall([], None, 0.875).text == "The model classifies 87.5% of the test images correctly."
    assert overall([], None, None) is None


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
