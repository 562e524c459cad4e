"""Measures of the experiments on parts."""

import torch
from torch import nn

from lookalike import convert
from lookalike.experiments.part_models import concept_figures, matched_overlap, same_place


def test_overlap_does_not_depend_on_the_numbers_of_concepts():
    concepts = torch.randint(0, 4, (5, 3, 3), generator=torch.Generator().manual_seed(0))
    renamed = torch.tensor([7, 1, 9, 3])[concepts]
    assert matched_overlap(concepts, renamed) == 1
    assert matched_overlap(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]])) == (2 / 3 + 1 / 2) / 2


def test_a_part_stays_where_nothing_that_it_sees_has_changed(blobs):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(6, 3))
    model = convert(net, blobs, n_prototypes=2, level="patch")
    span = torch.zeros(1, 1, 1)
    assert same_place(model, blobs[0][:6], span, torch.Generator().manual_seed(0)) == 1
    figures = concept_figures(model, blobs[0][:6], 0)
    assert set(figures) == {"on_object", "shifted", "noisy", "far"}
    assert all(0 <= value <= 1 for value in figures.values())
