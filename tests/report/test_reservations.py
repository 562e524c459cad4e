"""What is not shown of the heat-maps is said beside each of them."""

from types import SimpleNamespace

import pytest

from lookalike.metrics.findings import Finding
from lookalike.report.examples import Examples
from lookalike.report.reservations import reservations


def material(*findings, has_maps=True, has_original=True):
    entries = [{"near": [{"map": "data:," if has_maps else None}]}]
    card = SimpleNamespace(findings=lambda: list(findings))
    decisions = SimpleNamespace(decided_by=lambda n: [0] * n, wrongly_decided_by=lambda n: [0] * n)
    model = SimpleNamespace(prototypes=[], has_patches=False)
    return SimpleNamespace(
        examples=Examples(entries), card=card, duplicates=None, decisions=decisions, model=model,
        has_original=has_original
    )  # fmt: skip


GOOD = [Finding(topic, "good", "Good.") for topic in ("pixels", "attention", "sanity", "objects")]


def test_nothing_is_said_where_all_tests_are_passed_or_there_are_no_maps():
    assert reservations(material(*GOOD)) is None
    assert reservations(material(has_maps=False)) is None


def test_maps_that_were_not_tested_are_called_so():
    found = reservations(material())
    assert found["text"].endswith(
        ": whether they point to pixels that the model needs and whether they look where the original looks was not "
        "tested."
    )
    assert "original" not in reservations(material(has_original=False))["text"]
    assert found["anchor"] == "summary"


@pytest.mark.parametrize(
    ("topic", "level", "said"),
    [
        ("attention", "caution", "it is not shown that they look where the original looks"),
        ("attention", "bad", "they do not look where the original looks"),
        ("pixels", "bad", "they hardly point to pixels"),
        ("pixels", "hint", "on few images only"),
        ("sanity", "bad", "hardly change"),
        ("objects", "caution", "not shown that they look at the objects"),
    ],
)
def test_what_is_not_good_is_said_with_the_finding_that_says_more(topic, level, said):
    others = [finding for finding in GOOD if finding.topic != topic]
    found = reservations(material(*others, Finding(topic, level, "x")))
    assert said in found["text"]
    assert found["anchor"] == f"finding-{topic}"
