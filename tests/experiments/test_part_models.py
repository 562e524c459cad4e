"""Measures of the experiments on parts."""

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.data import Preprocessing
from lookalike.data.closeups import load_closeups
from lookalike.experiments.part_maps import grad_cam
from lookalike.experiments.part_stability import concept_figures, far_figures, matched_overlap, places_of_concepts
from lookalike.experiments.part_subjects import lacks_objects


def test_overlap_does_not_depend_on_the_numbers_of_concepts():
    concepts = torch.randint(0, 4, (5, 3, 3), generator=torch.Generator().manual_seed(0))
    renamed = torch.tensor([7, 1, 9, 3])[concepts]
    assert matched_overlap(concepts, renamed) == 1
    assert matched_overlap(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]])) == (2 / 3 + 1 / 2) / 2


def test_concepts_lie_on_the_side_of_most_of_their_positions():
    concepts = torch.tensor([[[0, 0], [1, 1]]])
    objects = torch.zeros(1, 4, 4, dtype=torch.bool)
    objects[:, :2] = True  # concept 0
    figures = places_of_concepts(concepts, objects, 3)
    assert figures == {"on_object": 1, "separated": 1, "by_chance": 0.5, "n_of_objects": 0.5}
    objects[:, :, 2:] = False  # half of concept 0 is beside the object: it is not mostly on it
    figures = places_of_concepts(concepts, objects, 3)
    assert figures == {"on_object": 0, "separated": 0.75, "by_chance": 0.75, "n_of_objects": 0}


@pytest.fixture
def pixelwise(blobs):
    """A model whose positions see 2×2 pixels and no further."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(6, 3))
    return net, convert(net, blobs, n_prototypes=2, level="patch", temperature=1.0)


def test_a_part_keeps_its_activation_where_nothing_that_it_sees_has_changed(pixelwise, blobs):
    _, model = pixelwise
    figures = far_figures(model, blobs[0][:6], torch.Generator().manual_seed(0))
    assert figures["noise_activation"] == figures["step_activation"] == 0
    assert figures["step_place"] == 1  # the gradient far away is 0
    more = concept_figures(model, blobs[0][:6], blobs[0][:6, 0] > 0, 0)
    assert all(0 <= more[name] <= 1 for name in more if not name.endswith("activation"))


def test_a_step_lowers_what_reaches_beyond_the_part(blobs):
    net = nn.Sequential(nn.Conv2d(1, 6, 7, padding=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(6, 3))
    model = convert(net, blobs, n_prototypes=2, level="patch", temperature=1.0)
    figures = far_figures(model, blobs[0][:6], torch.Generator().manual_seed(0))
    assert figures["step_activation"] > figures["noise_activation"] > 0


def test_grad_cam_of_a_linear_head_is_its_class_activation_map(pixelwise, blobs):
    net, _ = pixelwise
    x = blobs[0][:4]
    encoder = convert(net, blobs, n_prototypes=1).encoder
    maps = net[:3](x).detach()
    weights = net[5].weight.detach()[net(x).argmax(1)]
    expected = (maps * weights[:, :, None, None]).sum(1).relu() / maps[0, 0].numel()
    expected = nn.functional.interpolate(expected[:, None], x.shape[2:], mode="bilinear")[:, 0]
    torch.testing.assert_close(grad_cam(encoder, x, encoder.head), expected, rtol=1e-4, atol=1e-6)


def test_photographs_without_masks_are_not_measured():
    pytest.importorskip("skimage")
    assert "has no masks of objects" in lacks_objects(load_closeups(Preprocessing.square(8)))
