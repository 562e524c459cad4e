"""PRP is about the prototype, and about the place where the evidence is."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike._core.errors import LookalikeError
from lookalike.data import load_digits
from lookalike.relevance import lrp, prp


@pytest.fixture(scope="module")
def canvas():
    return digits_and_clutter(seed=0)


def digits_and_clutter(seed):
    """Digits on one half of a wide canvas, clutter on the other, and a small network that reads them."""
    digits = load_digits()
    rng = np.random.default_rng(0)

    def draw(part, n):
        rows = rng.permutation(np.flatnonzero(part.labels < 3))[:n]
        images, sides = np.zeros((n, 28, 56), np.float32), rng.integers(0, 2, n)
        for image, row, side in zip(images, rows, sides, strict=True):
            image[:, 28 * side : 28 * side + 28] = part.images[row] / 255
            other = 28 * (1 - side)
            for _ in range(4):  # blots, as bright as ink and of no class
                top, left = rng.integers(2, 22, 2)
                image[top : top + 3, other + left : other + left + 3] = rng.uniform(0.4, 1)
        return torch.from_numpy(images)[:, None], torch.from_numpy(part.labels[rows]), torch.from_numpy(sides)

    train, test = draw(digits.train, 900), draw(digits.test, 100)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(20):
        for rows in torch.randperm(900).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(train[0][rows]), train[1][rows]).backward()
            optimiser.step()
    net.eval()
    return convert(net, train[:2], n_prototypes=3), test


@pytest.mark.slow
def test_relevance_lies_where_the_digit_is(canvas):
    """The mean over three networks: processors round differently, and so train other networks from one seed."""
    shares = {"prp": [], "lrp": []}
    for sem, (x, y, sides) in (canvas, digits_and_clutter(seed=1), digits_and_clutter(seed=2)):
        right = sem.predict(x) == y
        assert float(right.float().mean()) > 0.9
        maps = {"prp": prp(sem, x[right]).pixels[:, 0], "lrp": lrp(sem.encoder.model, x[right]).pixels}
        for name, found in maps.items():
            positive = found.clamp(min=0)
            halves = torch.stack([positive[..., :28].sum((1, 2)), positive[..., 28:].sum((1, 2))], 1)
            shares[name].append(halves.gather(1, sides[right][:, None])[:, 0] / halves.sum(1))
    for name, found in shares.items():
        assert float(torch.cat(found).mean()) >= 0.8, name


def test_maps_depend_on_the_prototype(canvas):
    sem, (x, _, _) = canvas
    found = prp(sem, x[:5], "all")
    assert found.maps.shape == (5, 9, 1, 28, 56)
    flat = found.maps.flatten(2)
    for i in range(9):
        for j in range(i):
            assert float((flat[:, i] - flat[:, j]).norm() / flat[:, i].norm()) > 1e-2


def test_the_share_rule_is_its_formula(canvas):
    """Relevance 1 is shared over channels, and each channel's share goes on by the encoder's rules."""
    sem, (x, _, _) = canvas
    z = sem.embed(x[:1]).double()
    p = sem.prototypes.vectors[4].double()
    share = 1 / ((z - p) ** 2 + 1e-12)
    share = share / share.sum()
    by_channel = lrp(sem.encoder.model[:-1], x[:1], [list(range(32))]).maps  # starts with z_c at channel c
    expected = (by_channel.double() * (share / z.clamp_min(1e-6))[:, :, None, None, None]).sum(1)
    found = prp(sem, x[:1], [4], rule="share").maps[:, 0].double()
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_choices_of_prototypes_and_layers(canvas):
    sem, (x, _, _) = canvas
    every = prp(sem, x[:4], "all").maps
    nearest = sem.similarities(x[:4]).argmax(1)
    torch.testing.assert_close(prp(sem, x[:4]).maps[:, 0], every[torch.arange(4), nearest])
    predicted = prp(sem, x[:4], "predicted").maps
    for i, k in enumerate(sem.predict(x[:4]).tolist()):
        torch.testing.assert_close(predicted[i], every[i, sem.prototypes.labels == k])
    torch.testing.assert_close(prp(sem, x[:4], [2, 7]).maps, every[:, [2, 7]])
    each = torch.tensor([[0], [1], [2], [3]])
    torch.testing.assert_close(prp(sem, x[:4], each, batch_size=3).maps[:, 0], every[torch.arange(4), torch.arange(4)])
    for rule in ("share", "gradient"):
        other = prp(sem, x[:4], rule=rule)
        assert other.maps.isfinite().all()
        assert not torch.allclose(other.maps[:, 0], every[torch.arange(4), nearest])


def test_neuralised_contributions_add_up_to_the_lead_over_the_rival(canvas):
    from lookalike.relevance.similarity_layer import channel_relevance

    sem, (x, _, _) = canvas
    z = sem.embed(x[:6]).double()
    s = sem.similarities(x[:6])
    chosen = s.argmax(1)
    owners = sem.prototypes.labels
    rival = s.masked_fill(owners[None] == owners[chosen][:, None], -torch.inf).argmax(1)
    p, q = sem.prototypes.vectors[chosen].double(), sem.prototypes.vectors[rival].double()
    lead = (z - q).square().sum(1) - (z - p).square().sum(1)
    terms = 2 * (p - q) * (z - (p + q) / 2)
    torch.testing.assert_close(terms.sum(1), lead)
    found = channel_relevance(sem, z, chosen, "neuralized")
    torch.testing.assert_close(found, terms / terms.abs().sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_the_model_stays_untouched_and_wrong_requests_are_told(canvas, untouched):
    sem, (x, _, _) = canvas
    with untouched(sem.encoder.model):
        prp(sem, x[:2], "all")
    for prototypes, message in (("closest", "'nearest', 'predicted', 'all' or numbers"), ([99], "prototypes 0 to 8")):
        with pytest.raises(LookalikeError, match=message):
            prp(sem, x[:2], prototypes)
    with pytest.raises(LookalikeError, match="rule must be 'share', 'gradient' or 'neuralized'"):
        prp(sem, x[:2], rule="magic")


@pytest.mark.parametrize("probabilities", ["max", "sum"])
def test_lrp_of_a_prototype_models_probability_is_its_gradient_at_the_embedding(net, blobs, probabilities):
    x, _ = blobs
    sem = convert(net, blobs, n_prototypes=2, probabilities=probabilities)
    found = lrp(sem, x[:5], of="probability", strict=True)
    z = sem.embed(x[:5]).requires_grad_()
    p = sem.probabilities_of(z)
    (gradient,) = torch.autograd.grad(p.max(1).values.sum(), z)
    begun = (z * gradient).sum(1)
    residual = (found.maps.flatten(1).sum(1) - begun).abs() / begun.abs()
    torch.testing.assert_close(found.residual, residual.detach(), rtol=1e-2, atol=1e-4)
    assert found.rules[-1].rule == "gradient"
