import pytest
import torch

from lookalike.experiments.how_many import stability
from lookalike.prototypes import Prototypes


def test_stability_matches_prototypes_within_their_class():
    z = torch.tensor([[0.0], [1.0], [10.0], [11.0], [100.0], [102.0]])
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    first = Prototypes(torch.tensor([[0.5], [10.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    swapped = Prototypes(torch.tensor([[10.5], [0.5], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert stability(first, swapped, z, y) == (0.0, 1.0)
    moved = Prototypes(torch.tensor([[0.5], [10.5], [104.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    distance, _ = stability(first, moved, z, y)
    assert distance == pytest.approx((0 + 0 + 3) / 3 / ((4 * 0.5 + 2 * 1) / 6))
    other = Prototypes(torch.tensor([[-20.0], [5.0], [101.0]]), torch.tensor([0, 0, 1]), ["a", "b"])
    assert stability(first, other, z, y)[1] < 1
