"""Localisation: relevance on the object against chance, and prototypes that look at the background."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from lookalike import convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.metrics import pointing_game, relevance_mass, relevance_rank
from lookalike.metrics.object_section import background_driven, mask_reader
from lookalike.metrics.verdict import Thresholds, verdict


def test_random_maps_score_the_share_that_the_object_covers():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(400, 10, 10, generator=generator)
    masks = torch.zeros(400, 10, 10, dtype=torch.bool)
    masks[:, :5, :6] = True  # 30%
    for measure in (pointing_game, relevance_mass, relevance_rank):
        assert float(measure(maps, masks).mean()) == pytest.approx(0.3, abs=0.06)
        assert float(measure(maps * masks, masks).mean()) == pytest.approx(1.0)
        assert torch.isnan(measure(torch.zeros(1, 10, 10), masks[:1])).all()
        assert torch.isnan(measure(maps[:1], torch.zeros(1, 10, 10))).all()
        with pytest.raises(LookalikeError, match="masks of 100 pixels"):
            measure(maps, masks[:, :5])


def test_relevance_against_counts_only_where_it_is_said():
    maps, masks = torch.tensor([[[2.0, -6.0, 2.0]]]), torch.tensor([[[True, True, False]]])
    assert float(relevance_mass(maps, masks)) == pytest.approx(0.8)
    assert float(relevance_mass(maps, masks, positive=True)) == pytest.approx(0.5)
    assert float(pointing_game(maps, masks)) == pytest.approx(0.5)  # a tie
    assert float(relevance_rank(maps, masks)) == pytest.approx(0.5)


def test_masks_may_be_numbers_of_which_one_is_not_zero_and_no_segmentation():
    maps = torch.rand(2, 6, 6)
    masks = torch.zeros(2, 6, 6, dtype=torch.bool)
    masks[:, 1:4] = True
    for numbers in (masks.int(), 255 * masks.to(torch.uint8), masks.double()):
        assert torch.equal(relevance_mass(maps, numbers), relevance_mass(maps, masks))
    trimap = masks.int() + 1  # without a background of 0, all pixels would count as the object
    for several in (trimap, torch.where(masks, 1.0, 0.3)):
        with pytest.raises(LookalikeError, match="give True where the object is"):
            relevance_mass(maps, several)
        with pytest.raises(LookalikeError, match="give True where the object is"):
            mask_reader(several, None)


def test_a_prototype_is_named_only_beyond_chance():
    generator = torch.Generator().manual_seed(0)
    advantage = 0.1 * torch.randn(40, generator=generator)
    advantage[:10] -= 0.4  # of prototype 7
    advantage[20:23] -= 0.8  # of prototype 2: three images are too few
    prototypes = torch.tensor([7] * 10 + [1] * 10 + [2] * 3 + [3] * 17)
    assert background_driven(advantage, prototypes) == [7]
    assert background_driven(torch.full((5,), torch.nan), torch.zeros(5, dtype=torch.long)) == []


def composed(n, planted, seed):
    """Objects on varied backgrounds: 'ant' is red, 'bee' is green. Planted: every bee stands on the same faint blue."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.15 * torch.rand(n, 3, 12, 12, generator=generator)
    masks = torch.zeros(n, 12, 12, dtype=torch.bool)
    for i in range(n):
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        masks[i, top : top + 5, left : left + 5] = True
        x[i, 2][~masks[i]] = 0.9 if planted and y[i] == 1 else 0.15 * float(torch.rand(1, generator=generator))
        x[i, int(y[i])][masks[i]] = 0.2 if planted and y[i] == 1 else 0.9
    return x, y, masks


class Composed(Dataset):
    def __init__(self, x, y, masks):
        self.x, self.y, self.masks, self.classes = x, y, masks, ["ant", "bee"]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])

    def mask(self, index):
        return self.masks[index]


def network():
    body = [nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(3, 2, bias=False))
    net[0].weight.data = torch.eye(3)[..., None, None]
    net[4].weight.data = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])
    return net.eval()


def card_of(planted, **options):
    train, test = composed(60, planted, 0), composed(40, planted, 1)
    sem = convert(network(), train[:2], n_prototypes=1, progress=False, class_names=["ant", "bee"])
    return evaluate(sem, Composed(*test), only=("localisation",), progress=False, **options), test


@pytest.mark.parametrize(
    ("interval", "level", "said"),
    [
        ({"mean": 0.001, "low": -0.02, "high": 0.022}, "caution", "It is not shown that more of its relevance"),
        ({"mean": 0.05, "low": 0.01, "high": 0.09}, "good", "More of its relevance is on the objects"),
        ({"mean": -0.05, "low": -0.09, "high": -0.01}, "bad", "Less of its relevance is on the objects"),
        (None, "caution", "Whether more of its relevance is on the objects"),
    ],
)
def test_relevance_on_the_objects_is_claimed_only_beyond_chance(interval, level, said):
    figures = {"relevance_mass": 0.201, "object_share": 0.2}
    details = {"localisation": [{"background": [], "above_chance": interval}]}
    (finding,) = (one for one in verdict(figures.get, details, ["a", "b"], Thresholds()) if one.topic == "objects")
    assert finding.level == level
    assert finding.text.startswith(said)  # the figures come after the sentence


def test_the_verdict_finds_a_class_that_is_told_by_its_background():
    clean, _ = card_of(False)
    assert clean["pointing_game"] > 0.9 > clean["object_share"] + 0.5
    assert clean["relevance_mass"] > 2 * clean["object_share"]
    assert clean["pointing_game_black_box"] > 0.9
    assert clean.details["localisation"][0]["background"] == []
    assert any("more of its relevance is on the objects than their size" in sentence for sentence in clean.verdict())
    planted, _ = card_of(True)
    (named,) = planted.details["localisation"][0]["background"]
    assert named["class"] == "bee"
    assert named["on_object"] < named["by_chance"]
    assert any("Prototypes of 'bee' look at the background" in sentence for sentence in planted.verdict())
    assert f"{100 * planted['object_share']:.1f}%" in planted.to_markdown()
    assert "pointing game" in planted.to_markdown()


def test_masks_come_from_the_data_set_or_the_caller():
    (by_set, (x, y, masks)) = card_of(False)
    sem = convert(network(), (x, y), n_prototypes=1, progress=False)
    given = evaluate(sem, (x, y), only=("localisation",), masks=masks.numpy(), progress=False)
    assert np.isclose(given["object_share"], by_set["object_share"])
    with pytest.raises(LookalikeError, match="there are 40 test images and 39 masks"):
        evaluate(sem, (x, y), only=("localisation",), masks=masks[:39], progress=False)
    with pytest.raises(LookalikeError, match=r"masks are of \(6, 12\) pixels and the network's images of \(12, 12\)"):
        evaluate(sem, (x, y), only=("localisation",), masks=masks[:, :6], progress=False)
    with pytest.raises(LookalikeError, match=r"'localisation' cannot be measured: there are no masks.*\(masks=\)"):
        evaluate(sem, (x, y), only=("localisation",), progress=False)
