"""Shortcuts: a planted mark is found, and taken out of the prototypes that have it."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import EmbeddingStore, LookalikeError, convert
from lookalike.audit import audit, find_shortcuts
from lookalike.audit.shortcuts import n_steps_of_search
from lookalike.editing import Erase, resolve
from lookalike.editing.regions import region_mask
from tests.small import small_network

CORNER = (2 / 3, 2 / 3, 1, 1)


@pytest.fixture(scope="module")
def marked():
    y = torch.arange(90) % 3
    x = 0.3 * torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None].float()
    x[:, :, 5:, 5:] = 0  # where the mark will be, all are alike
    x[y == 1, :, 5:, 5:] = 12  # a mark on all images of one class
    return convert(small_network(), (x, y), n_prototypes=2), (x, y)


def test_a_planted_mark_is_found_first_and_taken_out(marked):
    model, data = marked
    session = model.edit(data)
    found = find_shortcuts(model, session.source)
    first = found[0]
    assert (int(model.prototypes.labels[first.prototype]), first.part, first.share) == (1, "bottom right", 1.0)
    assert first.region == pytest.approx(CORNER)
    with_mark = data[0][:1].clone()
    with_mark[:, :, 5:, 5:] = 12
    assert model.predict(with_mark).tolist() == [1]
    session.erase(2, 3, region=first.region, note="a mark")
    again = find_shortcuts(session.model, session.source)
    assert not any((int(session.state.labels[s.prototype]), s.part) == (1, "bottom right") for s in again)
    suspects = audit(model, data, progress=False).with_shortcuts(model, progress=False).of_kind("shortcut")
    assert (suspects[0].rank, suspects[0].sample) == (1, first.prototype)
    assert suspects[0].reason == (
        "prototype 2 (1): the bottom right is alike on 100% of the 24 images of '1' that were compared, more than any "
        "is like one of another class; put there, it turns 100% of 8 images of other classes into '1'"
    )


def test_the_search_goes_on_from_its_first_phase_to_the_end(marked):
    model, data = marked
    source, steps = model.edit(data).source, []
    find_shortcuts(model, source, advance=lambda steps_done=1: steps.append(steps_done))
    assert sum(steps) == n_steps_of_search(model, source) > 2 * len(model.prototypes)


class Unmoved(nn.Module):
    """A network that hardly looks at the bottom right, and by whose embedding the classes are told apart elsewhere."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.head = nn.Linear(9, 3)
        self.weights = torch.tensor([1.0] * 8 + [0.05])

    def forward(self, x):
        return self.head(self.cut(x) * self.weights)


@pytest.mark.parametrize(("share", "is_found"), [(0.9, True), (0.5, False)])
def test_a_mark_is_found_that_decides_nothing(share, is_found):
    """Each image has values of its own everywhere; the mark is on most images of one class, or on half of them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 1, 9, 9, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    own = torch.nonzero(y == 1)[:, 0]
    marked = own[: round(share * len(own))]
    x[marked, :, 12:, 12:] = 2 + torch.randn(6, 6, generator=generator)
    model = convert(Unmoved(), (x, y), n_prototypes=1)
    session = model.edit((x, y))
    assert float((model.predict(x[y != 1]) == 1).float().mean()) < 0.5
    found = [s for s in find_shortcuts(model, session.source) if s.alike]
    assert [(s.prototype, s.part) for s in found] == ([(1, "bottom right")] if is_found else [])
    if is_found:
        assert found[0].alike == pytest.approx(share, abs=0.1)
        assert set(found[0].samples) <= set(marked.tolist())
        session.erase(1, region=found[0].region)
        assert not any(s.alike for s in find_shortcuts(session.model, session.source))


def test_without_the_part_a_prototype_moves_as_its_images_with_that_of_other_classes(marked):
    model, data = marked
    session = model.edit(data)
    rows = session.material.members(session.state, [2])
    blank = data[0][rows].clone()
    blank[:, :, 5:, 5:] = 0  # in all other classes there is nothing else
    moved = (model.embed(blank) - model.embed(data[0][rows])).mean(0)
    entry = session.erase(2, region=CORNER)
    assert torch.allclose(session.state.vectors[2], model.prototypes.vectors[2] + moved, atol=1e-5)
    assert not set(rows) & set(np.flatnonzero(session.material.held_out))
    assert entry.sentence.endswith("(left, top, right, bottom: 67%, 67%, 100%, 100%) out of prototype 2 (1)")
    again = session.undo()
    assert torch.equal(again.vectors, model.prototypes.vectors)
    session.redo()
    other = model.edit(data)
    other.do(entry.to_edit())
    assert torch.equal(other.state.vectors, session.state.vectors)


def test_a_prototype_without_images_to_learn_from_moves_as_the_most_similar_one_of_its_class(marked):
    model, (x, y) = marked
    session = model.edit((x, y))
    session.add("1", image=x[1:2] + 40)
    assert int(session.snapshot.prototypes.counts[6]) == 0
    session.erase(6, region=CORNER)
    usable = np.flatnonzero((y.numpy() == 1) & ~session.material.held_out)
    image = x[usable[int((model.embed(x[usable]) - model.embed(x[1:2] + 40)).norm(dim=1).argmin())]]
    blank = image.clone()
    blank[:, 5:, 5:] = 0  # in all other classes there is nothing else
    added, with_mark, without = model.embed(torch.stack([x[1] + 40, image, blank]))
    assert torch.allclose(session.state.vectors[6], added + without - with_mark, atol=1e-5)


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis"])
def test_a_part_is_taken_out_once_and_two_parts_one_after_the_other(similarity):
    """The network is linear and no part is on all images, so what is left of each is known."""
    y = torch.arange(90) % 3
    x = torch.randn(90, 1, 9, 9, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 2)
    x = x.repeat_interleave(2, 3) + 3 * y[:, None, None, None]
    top, bottom = (slice(0, 6), slice(0, 6)), (slice(12, 18), slice(12, 18))
    own = torch.nonzero(y == 1)[:, 0]
    for rows, columns in (top, bottom):
        x[own[3:], 0, rows, columns] = 9
    network = Unmoved()
    nn.init.ones_(network.cut[0].weight)
    model = convert(network, (x, y), n_prototypes=1, similarity=similarity)
    session = model.edit((x, y))
    regions = (0, 0, 1 / 3, 1 / 3), CORNER
    session.erase(1, region=regions[0])
    once = session.state.vectors.clone()
    session.erase(1, region=regions[0])
    assert torch.allclose(session.state.vectors, once, atol=1e-3)
    session.erase(1, region=regions[1])
    left = (session.state.vectors[1] - model.prototypes.vectors[1]) / network.weights
    assert left[[0, 8]].max() < -4  # from about 9, or 8 on the mean of all images, to about 3
    assert left[1:8].abs().max() < 1e-3


def test_inside_and_outside_make_the_whole_image():
    inside, outside = (region_mask((0.2, 0.2, 0.8, 0.8), side, 10, 5) for side in ("inside", "outside"))
    assert torch.equal(inside, ~outside)
    assert int(inside.sum()) == 6 * 3
    assert int(region_mask((0.5, 0.5, 0.51, 0.51), "inside", 8, 8).sum()) == 1


def test_what_cannot_be_taken_out_is_refused(marked):
    model, (x, y) = marked
    session = model.edit((x, y))
    store = session.source.store
    with pytest.raises(LookalikeError, match="images themselves are needed"):
        model.edit(store).erase(0, region=CORNER)
    with pytest.raises(LookalikeError, match="needs the embeddings of the training data"):
        model.edit().erase(0, region=CORNER)
    with pytest.raises(LookalikeError, match="takes the embedding of each without it"):
        session.do(Erase((0,), CORNER))
    with pytest.raises(LookalikeError, match="side must be"):
        resolve(session, "erase", {"prototypes": [0], "region": list(CORNER), "side": "left"})
    session.pin(0)
    with pytest.raises(LookalikeError, match="is pinned"):
        session.erase(0, region=CORNER)


class Masked(torch.utils.data.Dataset):
    """Objects in the middle, on a background that one class has alone; those of other classes have a soft edge."""

    classes = ("0", "1", "2")

    def __init__(self):
        y = torch.arange(60) % 3
        object_values = (
            0.2 * torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None]
        )
        self.objects = torch.zeros(8, 8, dtype=torch.bool)
        self.objects[2:6, 2:6] = True
        background = torch.where(y == 2, 8.0, 0.0)[:, None, None, None]
        self.x, self.y = torch.where(self.objects, object_values, background.expand_as(object_values)), y
        edge = ~self.objects
        edge[[0, -1]], edge[:, [0, -1]] = False, False
        self.x[y != 2] = torch.where(edge, 0.5, self.x[y != 2])

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])

    def mask(self, index):
        return self.objects


def test_a_background_is_found_and_taken_out_where_the_data_know_the_object():
    data = Masked()
    model = convert(small_network(), data, n_prototypes=1)
    session = model.edit(data)
    first = find_shortcuts(model, session.source)[0]
    assert (int(model.prototypes.labels[first.prototype]), first.part, first.share) == (2, "background", 1.0)
    rows = session.material.members(session.state, [2])
    session.erase(2, region=first.region, side="background")
    moved = model.embed(torch.where(data.objects, data.x[rows], 0.0)) - model.embed(data.x[rows])
    assert torch.allclose(session.state.vectors[2], model.prototypes.vectors[2] + moved.mean(0), atol=1e-5)
    assert session.log()[-1]["sentence"] == "take the background out of prototype 2 (2)"
    plain = model.edit(EmbeddingStore(session.source.store.embeddings, data.y.numpy(), np.arange(60)))
    with pytest.raises(LookalikeError, match="images themselves are needed"):
        plain.erase(2, region=first.region, side="background")
