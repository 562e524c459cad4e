"""An opened prototype shows its own training images, each once, and those of other classes that it takes."""

import re

import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike.embedding import embed
from lookalike.report import write_report
from lookalike.report.members import members_of_prototypes
from tests.report.page import Named
from tests.small import bright_images

QUICK = {"only": ("transparency", "faithfulness"), "n_maps": 0, "progress": False}


@pytest.fixture(scope="module")
def data():
    x, y = bright_images(60)
    return x + 1.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), y


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return convert(net, Named(*data), n_prototypes=4, progress=False)


def templates_of(path):
    """Returns what each prototype's dialog holds, in order of their numbers."""
    page = path.read_text(encoding="utf-8")
    found = re.findall(r'<template data-number="(\d+)".*?</template>', page, re.DOTALL)
    texts = re.findall(r'<template data-number="\d+".*?</template>', page, re.DOTALL)
    return [text for _, text in sorted(zip(map(int, found), texts, strict=True))]


def images_in(template, kind):
    group = re.search(rf'<div class="tiles {kind}">(.*?)</div>', template, re.DOTALL)
    return [] if group is None else re.findall(r'<figcaption class="caption">(.*?)</figcaption>', group[1])


def test_counts_and_purity_are_those_of_the_members(model, data):
    members = members_of_prototypes(model, embed(model, data, progress=False), 5)
    p = model.prototypes
    assert [each.n_own for each in members] == p.counts.tolist()
    assert sum(each.n_taken for each in members) > 0
    nearest = model.similarities(data[0]).argmax(1)
    for j, each in enumerate(members):
        n_won = int((nearest == j).sum())
        assert n_won == 0 or 1 - each.n_taken / n_won == pytest.approx(float(p.purity[j]))
        assert all(member.label == int(p.labels[j]) for member in each.own)
        assert all(member.label != int(p.labels[j]) for member in each.taken)
        for listed in (each.own, each.taken):
            distances = [member.distance for member in listed]
            assert distances == sorted(distances)
            assert len({member.number for member in listed}) == len(listed) <= 5


def test_a_dialog_shows_the_images_that_make_the_purity_less_than_one(model, data, tmp_path):
    write_report(model, Named(*data), tmp_path / "r.html", train=Named(*data), **QUICK)
    members = members_of_prototypes(model, embed(model, data, progress=False), 8)
    for template, each in zip(templates_of(tmp_path / "r.html"), members, strict=True):
        own, taken = images_in(template, "own"), images_in(template, "taken-images")
        assert len(own) == max(1, min(8, each.n_own))
        assert len(taken) == min(8, each.n_taken)
        assert len(set(own)) == len(own)
        assert all(" · it is " in caption for caption in taken)
        assert ("Images of other classes that look most like it" in template) == bool(each.n_taken)


@pytest.mark.parametrize("train", [None, "images"])
def test_no_more_pictures_are_shown_than_there_are_training_images(model, data, train, tmp_path):
    """The model stores equally many for each prototype, and repeats one; the report showed it again and again."""
    of_train = None if train is None else Named(*data)
    card = evaluate(model, Named(*data), only=("faithfulness",), progress=False)
    write_report(model, Named(*data), tmp_path / "r.html", train=of_train, card=card, n_maps=0, progress=False)
    templates = templates_of(tmp_path / "r.html")
    counts = model.prototypes.counts.tolist()
    assert min(counts) < 8
    for template, count, purity in zip(templates, counts, model.prototypes.purity.tolist(), strict=True):
        own = images_in(template, "own")
        assert len(own) <= max(1, count)
        assert len(set(own)) == len(own)
        assert ("that look most like it are not shown" in template) == (purity < 1)
