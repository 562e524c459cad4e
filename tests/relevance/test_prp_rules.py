"""How PRP starts at the similarity layer: by name, with the right sign, and with its stability where it is unstable."""

import numpy as np
import pytest
import torch

from lookalike import convert, explain
from lookalike._core.errors import LookalikeError
from lookalike.metrics import map_stability
from lookalike.model.similarity import SIMILARITIES
from lookalike.relevance import DEFAULT_RULE, PRP_RULES, prp
from lookalike.relevance.explained import maps_of_contrasts
from lookalike.relevance.similarity_layer import channel_relevance


@pytest.fixture
def model(net, blobs):
    return convert(net, blobs, n_prototypes=2, progress=False)


@pytest.mark.parametrize("similarity", list(SIMILARITIES))
def test_neuralised_relevance_has_the_sign_of_the_lead_over_the_rival(net, blobs, similarity):
    """For the nearest prototype, whose lead is positive, and for all others, where it is negative or not."""
    model = convert(net, blobs, n_prototypes=2, similarity=similarity, progress=False)
    z, owners = model.embed(blobs[0][::7]), model.prototypes.labels
    s = model.similarities_of(z)
    signs = set()
    for chosen in range(len(owners)):
        prototypes = torch.full((len(z),), chosen)
        rival = s.masked_fill(owners[None] == owners[chosen], -torch.inf).amax(1)
        lead = s[:, chosen] - rival
        found = channel_relevance(model, z, prototypes, "neuralized")
        torch.testing.assert_close(found.abs().sum(1), torch.ones(len(z)))
        clear = lead.abs() > 1e-3 * s.abs().amax(1)
        assert torch.equal(found.sum(1)[clear] > 0, lead[clear] > 0)
        signs |= set((lead[clear] > 0).tolist())
    assert signs == {True, False}


def test_a_learned_metric_counts_in_its_own_space(net, blobs):
    """‖T(z − q)‖² − ‖T(z − p)‖², channel by channel of z."""
    model = convert(net, blobs, n_prototypes=1, similarity="mahalanobis", progress=False)
    z, p = model.embed(blobs[0][:6]).double(), model.prototypes.vectors.double()
    transform = model.similarity.transform.double()
    chosen = model.similarities_of(z.float()).argmax(1)
    s = model.similarities_of(z.float()).scatter(1, chosen[:, None], -torch.inf)
    rival = s.argmax(1)
    direction = (p[chosen] - p[rival]) @ transform.T @ transform
    expected = direction * (z - (p[chosen] + p[rival]) / 2)
    found = channel_relevance(model, z.float(), chosen, "neuralized").double()
    torch.testing.assert_close(found, expected / expected.abs().sum(1, keepdim=True), rtol=1e-3, atol=1e-5)


def test_the_rule_is_recorded_and_the_default_is_the_winner(model, blobs):
    x = blobs[0][:3]
    assert DEFAULT_RULE == "neuralized"
    for rule in PRP_RULES:
        assert (prp(model, x, rule=rule).rules[-1].rule) == rule
    assert torch.equal(prp(model, x).maps, prp(model, x, rule=DEFAULT_RULE).maps)


def test_a_model_of_one_class_has_no_rival(net, blobs):
    x = blobs[0]
    model = convert(net, (x, torch.zeros(len(x), dtype=torch.long)), n_prototypes=2, head=None, progress=False)
    assert prp(model, x[:2]).rules[-1].rule == "gradient"
    assert explain(model, x[:2], relevance=True)[0].rule == "gradient"
    with pytest.raises(LookalikeError, match="all prototypes are of one class; take rule='gradient' or 'share'"):
        prp(model, x[:2], rule="neuralized")


def test_the_stability_of_share_stands_beside_it(model, blobs):
    x = blobs[0][:4]
    for one in explain(model, x, relevance=True, rule="share"):
        assert -1 <= one.map_stability <= 1
        assert one.to_dict()["rule"] == "share"
        assert one.to_dict()["map_stability"] == one.map_stability
        assert f"noise of 1% leaves a correlation of {one.map_stability:.2f}" in one.map_sentence()
        assert f"maps: share, stability {one.map_stability:.2f}" in text_of(one.plot())
    for one in explain(model, x, relevance=True):
        assert one.map_stability is None
        assert one.map_sentence() is None
        assert one.to_dict()["rule"] == "neuralized"
        assert "stability" not in text_of(one.plot())
    assert explain(model, x)[0].rule is None


def text_of(ax):
    return "\n".join(text.get_text() for text in ax.findobj(lambda artist: hasattr(artist, "get_text")))


def test_share_is_the_unstable_rule(model, blobs):
    """Where a channel comes near to the prototype, it takes nearly all relevance, and loses it by a little noise."""
    x = blobs[0][:12]
    nearest = model.similarities(x).argmax(1)
    found = {
        rule: map_stability(
            lambda images, rows, rule=rule: prp(model, images, nearest[rows, None], rule=rule).pixels[:, 0],
            x,
            radius=0.05,
        ).correlation
        for rule in ("share", "neuralized")
    }
    assert found["neuralized"] > 0.99
    assert found["share"] < found["neuralized"]
    assert np.isfinite(found["share"])


def test_maps_of_contrasts_are_those_of_their_prototypes_by_the_rule(net, blobs):
    model, x = convert(net, blobs, n_prototypes=2, progress=False), blobs[0][:4]
    maps = {}
    for rule in ("share", "gradient", "neuralized"):
        maps[rule] = maps_of_contrasts(model, x, {3: 0, 1: 4}, "epsilon-plus-flat", rule)
        expected = prp(model, x[[3, 1]], torch.tensor([[0], [4]]), rule=rule).pixels[:, 0]
        assert list(maps[rule]) == [3, 1]
        np.testing.assert_allclose(np.stack(list(maps[rule].values())), expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(maps["share"][3], maps["gradient"][3])
