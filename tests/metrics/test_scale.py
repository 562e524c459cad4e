"""An embedding times c with a head by 1/c is the same black box: no figure may depend on c."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike.metrics import FIGURES
from lookalike.model.similarity import SIMILARITIES
from tests.small import bright_images, small_network

BY_SCALE = {"diversity_reference"}  # the authors' reading; its title says so
FACTORS = (0.05, 1.0, 20.0)
TOLERANCE = {"average_increase": 0.03}  # shares of 60 comparisons, of which rounding may turn one


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


@functools.cache
def trained():
    """A small network, trained a little, and overlapping classes."""
    x, y = bright_images(240)
    x = x + 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    network = small_network().train()
    network[0].requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(30):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[:120]), y[:120]).backward()
            optimiser.step()
    return network.eval(), x, y


def rescaled(factor):
    """The same classifier with its embedding times a factor and its head by it."""
    network, _, _ = trained()
    layers = copy.deepcopy(network)
    with torch.no_grad():
        layers[6].weight /= factor
    return nn.Sequential(*layers[:6], Times(factor), layers[6])


@functools.cache
def measured(similarity, factor, **options):
    _, x, y = trained()
    model = convert(rescaled(factor), (x[:120], y[:120]), 3, similarity, progress=False, **dict(options))
    train, test = (x[:120], y[:120]), (x[120:], y[120:])
    card = evaluate(model, test, train=train, n_images=20, n_steps=5, n_draws=2, progress=False)
    return model, card


def test_the_factor_leaves_the_black_box_as_it_is():
    _, x, _ = trained()
    for factor in FACTORS:
        torch.testing.assert_close(rescaled(factor)(x), rescaled(1.0)(x), rtol=1e-4, atol=1e-5)


def without_numbers(text):
    """What a sentence says, whatever rounding does to the last digit of its figures."""
    return re.sub(r"\d+(\.\d+)?", "#", text)


@pytest.mark.parametrize("similarity", list(SIMILARITIES))
@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_no_figure_and_no_sentence_depends_on_the_scale_of_the_embedding(similarity, factor):
    model, card = measured(similarity, factor)
    expected_model, expected = measured(similarity, 1.0)
    _, x, _ = trained()
    np.testing.assert_allclose(model.predict_proba(x[120:]), expected_model.predict_proba(x[120:]), atol=2e-3)
    assert set(card.runs) == set(expected.runs)
    for figure in set(card.runs) - BY_SCALE:
        assert card[figure] == pytest.approx(expected[figure], abs=TOLERANCE.get(figure, 2e-3)), figure
    assert [without_numbers(said) for said in card.verdict()] == [without_numbers(said) for said in expected.verdict()]
    assert card.notes == expected.notes
    assert not any("scale of the embedding" in note for note in card.notes)


def test_the_one_figure_that_depends_on_it_says_so():
    for figure in BY_SCALE:
        assert "by the embedding's scale" in FIGURES[figure][0]
    values = [measured("l2", factor)[1]["diversity_reference"] for factor in FACTORS]
    floor = measured("l2", 1.0)[1]["diversity_reference_floor"]
    assert values[0] > values[1] + 0.001 > values[2] > floor


@pytest.mark.parametrize(
    ("similarity", "options", "said"),
    [
        ("l2", {"temperature": 1.0}, "the temperature 1 was not fitted to training data"),
        ("rbf", {"similarity_options": {"sigma": 2.0}}, "the similarity's sigma = 2.0 is a length that was given"),
        ("log", {"similarity_options": {"scale": 1.0}}, "the similarity's scale = 1.0 is a length that was given"),
    ],
)
def test_what_a_user_ties_to_the_scale_is_said_beside_the_figures(similarity, options, said):
    _, x, y = trained()
    model = convert(rescaled(1.0), (x[:120], y[:120]), 2, similarity, progress=False, **options)
    card = evaluate(model, (x[120:], y[120:]), only=("calibration", "diversity"), progress=False)
    assert any(
        said in note and note.startswith("ECE, log loss, Brier score and D_dvs depend on the scale")
        for note in card.notes
    )
