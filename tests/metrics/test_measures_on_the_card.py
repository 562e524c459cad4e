"""Standard measures as optional sections of the scorecard."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lookalike import Encoder, Scorecard, convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics import FIGURES, MEASURES, SECTIONS, measures_table
from lookalike.metrics.noise import Noise

QUICK = {"only": ("faithfulness",), "n_images": 8, "n_steps": 4, "n_draws": 2, "progress": False}


@pytest.fixture
def model(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


def test_all_measures_are_on_the_card_and_survive_the_file(model, net, blobs, untouched, tmp_path):
    with untouched(net):
        card = evaluate(model, blobs, train=blobs, measures="all", **QUICK)
    assert set(MEASURES) <= set(card.runs)
    for name in MEASURES:
        assert FIGURES[name][0] in card.to_markdown()
    for section in (name for name in SECTIONS if SECTIONS[name].optional and name != "sanity"):
        assert card.details[section][0]["properties"]
    card.save(tmp_path / "card.json")
    assert Scorecard.read(tmp_path / "card.json").runs == card.runs
    assert json.loads((tmp_path / "card.json").read_text())["road"] == card["road"]
    again = evaluate(model, blobs, train=blobs, measures="all", **QUICK)
    assert again.runs == card.runs


def test_they_are_measured_only_where_asked_for(model, blobs):
    plain = evaluate(model, blobs, train=blobs, **QUICK)
    assert not set(MEASURES) & set(plain.runs)
    one = evaluate(model, blobs, train=blobs, measures=["sparseness"], **QUICK)
    assert set(MEASURES) & set(one.runs) == {"sparseness"}
    by_only = evaluate(model, blobs, **{**QUICK, "only": ("sparseness",)})
    assert by_only.runs == {"sparseness": one.runs["sparseness"]}


def test_what_cannot_be_measured_is_told(model, blobs):
    with pytest.raises(LookalikeError, match="no standard measure is called 'deltion'; did you mean 'deletion'"):
        evaluate(model, blobs, measures=["deltion"], **QUICK)
    with pytest.raises(LookalikeError, match="no standard measure is called 'faithfulness'"):
        evaluate(model, blobs, measures=["faithfulness"], **QUICK)
    with pytest.raises(LookalikeError, match="measures takes 'all', or names"):
        evaluate(model, blobs, measures="deletion", **QUICK)
    with pytest.raises(LookalikeError, match="'identical_class' cannot be measured: no training data"):
        evaluate(model, blobs, measures=["identical_class"], **QUICK)
    card = evaluate(model, blobs, measures="all", **QUICK)
    assert "section 'identical_class' was not measured: no training data were given" in card.notes
    model.provenance.pop("clusterer")
    with pytest.raises(LookalikeError, match="'prototype_stability' cannot be measured: it clusters again, and this"):
        evaluate(model, blobs, train=blobs, measures=["prototype_stability"], **QUICK)
    lenient = evaluate(model, blobs, train=blobs, measures="all", **QUICK)
    assert any(
        note.startswith("section 'prototype_stability' was not measured: it clusters again, and this model's")
        for note in lenient.notes
    )


def test_a_section_that_fails_leaves_the_others_and_is_told(model, blobs, monkeypatch):
    def fail(_context, _run):
        raise LookalikeError("it cannot be")

    for name in ("diversity", "transparency"):
        monkeypatch.setitem(SECTIONS._members, name, replace(SECTIONS[name], measure=fail))
    card = evaluate(model, blobs, train=blobs, **(QUICK | {"only": None}))
    assert "section 'diversity' was not measured: it cannot be" in card.notes
    assert "accuracy" in card.runs
    for only in (["diversity"], ["diversity", "faithfulness"]):  # asked for by name
        with pytest.raises(LookalikeError, match="it cannot be"):
            evaluate(model, blobs, **{**QUICK, "only": only})


def test_the_reference_page_has_the_table_of_all_measures():
    page = Path(__file__).parents[2] / "docs" / "reference" / "measures.md"
    assert measures_table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["only", "measures"])
@pytest.mark.parametrize("value", ["faithfulness", {"sparseness"}, 3, ()])
def test_names_that_are_no_list_or_none_at_all_are_refused(option, value, model, blobs):
    with pytest.raises(LookalikeError, match=f"^{option} takes .*names of .*: .*sparseness"):
        evaluate(model, blobs, **{**QUICK, option: value})


@pytest.mark.parametrize("measure", ["deletion", "insertion"])
def test_curves_have_the_steps_that_were_asked_for_whatever_the_batch(measure, model, blobs):
    cards = [
        evaluate(model, blobs, only=(measure,), n_images=6, n_steps=4, batch_size=size, progress=False)
        for size in (2, 64)
    ]
    details = [card.details[measure][0] for card in cards]
    assert details[0]["fractions"] == [0, 0.25, 0.5, 0.75, 1]
    assert details[0]["curves"][measure] == pytest.approx(details[1]["curves"][measure], abs=1e-5)


def test_noise_is_drawn_five_times_unless_told_otherwise():
    assert Noise(torch.zeros(1), torch.ones(1)).draws == 5


class Nearest(nn.Module):
    """A classifier whose head is no layer."""

    def __init__(self):
        super().__init__()
        self.features, self.means = nn.Conv2d(1, 6, 3), nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return -torch.cdist(self.features(x).relu().mean((2, 3)), self.means)


def test_a_black_box_without_a_head_that_is_found_is_told_the_way_out(model, blobs):
    with pytest.raises(LookalikeError, match=r"of a black box, say so by black_box=Encoder\(network, x, head=…\)"):
        evaluate(model, blobs, black_box=Nearest(), **QUICK)
    box = Encoder(Nearest(), blobs[0][:2], head="features")  # the way out that is named
    assert "black_box_accuracy" in evaluate(model, blobs, black_box=box, **QUICK).runs
