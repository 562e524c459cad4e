"""Contributions, differences and pairs of regions: sums that must add up, and known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lookalike import Encoder, LookalikeError, convert, explain
from lookalike.parts import contributions, difference, explain_parts, pair_regions
from lookalike.parts.regions import connected, place_of


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """Images of two classes: a bright square at the upper left, or at the lower right."""
    x = 0.1 * torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    x[y == 0, :, :4, :4] += 0.9
    x[y == 1, :, 4:, 4:] -= 0.9
    return x, y


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis", "head", "dot", "cosine", "rbf"])
def test_positions_add_up_to_the_lead_in_a_model_of_whole_images(similarity, data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, similarity=similarity)
    explained = contributions(model, x[:6])
    torch.testing.assert_close(explained.maps.sum((1, 2)) + explained.residuals, explained.values)
    assert float(explained.residuals.abs().max()) < 1e-4 * float(explained.values.abs().max())
    z, p = model.embed(x[:6]), model.prototypes
    target, rival = p.vectors[explained.targets], p.vectors[explained.rivals]
    assert torch.equal(p.labels[explained.targets], model.predict(x[:6]))
    if similarity in ("l2", "rbf"):
        lead = (z - rival).square().sum(1) - (z - target).square().sum(1)
    elif similarity == "dot":
        lead = (z * (target - rival)).sum(1)
    else:
        return
    torch.testing.assert_close(explained.values, lead, atol=1e-5, rtol=1e-4)
    # a cell's value is shared out over its pixels
    torch.testing.assert_close(explained.upsampled().sum((1, 2)), explained.maps.sum((1, 2)))


@pytest.mark.parametrize("decision", ["vote", "mean", "linear"])
def test_positions_add_up_to_the_score_in_a_model_of_patches(decision, data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=3, level="patch", decision=decision)
    explained = contributions(model, x[:6], 1, batch_size=4)
    torch.testing.assert_close(explained.maps.sum((1, 2)), model(x[:6])[:, 1].detach(), rtol=0, atol=2e-5)
    lead = contributions(model, x[:6], 1, 0)
    scores = model(x[:6]).detach()
    torch.testing.assert_close(lead.maps.sum((1, 2)), scores[:, 1] - scores[:, 0], rtol=0, atol=4e-5)


def test_the_bias_of_a_head_is_the_residual(data):
    x, _ = data
    net = make_net()
    net[5] = nn.Linear(6, 2)
    model = convert(net, data, level="head")
    explained = contributions(model, x[:6])
    scores, bias = model(x[:6]).detach(), net[5].bias.detach()
    top = scores.topk(2).values
    torch.testing.assert_close(explained.values, top[:, 0] - top[:, 1], atol=1e-5, rtol=1e-4)
    expected = bias[explained.targets] - bias[explained.rivals]
    torch.testing.assert_close(explained.residuals, expected, atol=1e-5, rtol=1e-4)


def test_it_takes_one_forward_pass_a_map(data):
    net, (x, _) = make_net(), data
    model = convert(net, data, n_prototypes=2)
    contributions(model, x[:2])
    calls = []
    net[0].register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    contributions(model, x, batch_size=40)
    assert sum(calls) <= 1.1 * 40 + 4  # the first two images show where the map is


def test_a_difference_takes_one_forward_pass_too(data):
    net, (x, _) = make_net(), data
    for level in ("image", "patch"):
        model = convert(net, data, n_prototypes=2, level=level)
        difference(model, x[:2])
        calls = []
        handle = net[0].register_forward_hook(lambda _, inputs, __, calls=calls: calls.append(len(inputs[0])))
        difference(model, x, batch_size=16)
        handle.remove()
        assert sum(calls) == 40


def test_the_rival_of_a_head_is_the_class_with_the_next_score(data):
    """Its bias counts: the class with the next inner product can be another."""
    net = make_net()
    net[5] = nn.Linear(6, 3)
    net[5].bias.data = torch.tensor([0.0, 0.0, 9.0])
    x, _ = data
    model = convert(net, (x, torch.arange(40) % 3), level="head")
    explained = contributions(model, x[:6])
    order = model(x[:6]).detach().argsort(1, descending=True)
    assert torch.equal(explained.targets, order[:, 0])
    assert torch.equal(explained.rivals, order[:, 1])
    assert [one.other_name for one in difference(model, x[:6])] == [model.class_names[k] for k in order[:, 1]]


def test_what_the_biases_of_a_head_add_is_told(data):
    x, _ = data
    net = make_net()
    net[5] = nn.Linear(6, 3)
    net[5].weight.data[:] = net[5].weight.data[:1] + torch.tensor([[0.0], [0.01], [0.02]])
    for bias, told in ((9.0, "The biases of the head make "), (-0.01, "The biases of the head speak for ")):
        net[5].bias.data = torch.tensor([0.0, 0.0, bias])
        model = convert(net, (x, torch.arange(40) % 3), level="head", progress=False)
        for one in difference(model, x[:4], 2, 1):
            assert one.lead == pytest.approx(float(one.map.sum()) + bias, rel=1e-4)
            if one.lead > 0:
                assert told in one.sentence()
                assert f"{abs(bias) / one.lead:.0%} of the lead" in one.sentence()
    net[5].bias.data = torch.tensor([9.0, 0.0, 0.0])
    (one,) = explain(convert(net, (x, torch.arange(40) % 3), level="head", progress=False), x[:1], n_nearest=1)
    assert one.likenesses[0].label != one.prediction == 0
    assert ", but with the biases of the head the prediction is '0' (" in one.sentence()


def test_the_rival_of_a_vote_is_the_more_probable_class_of_equally_many_votes(data):
    x, _ = data
    model = convert(make_net(), (x, torch.arange(40) % 4), n_prototypes=2, level="patch", progress=False)
    z = model.embed(x)
    scores, probabilities = model.scores_of(z), model.probabilities_of(z)
    n_ties = 0
    for row, one in enumerate(difference(model, x)):
        others = [k for k in range(4) if k != int(scores[row].argmax())]
        most = max(float(scores[row, k]) for k in others)
        tied = [k for k in others if float(scores[row, k]) > most - 1e-6]
        n_ties += len(tied) > 1
        assert one.other_name == str(max(tied, key=lambda k, row=row: float(probabilities[row, k])))
    assert n_ties


def test_without_the_deciding_positions_the_other_class_would_be_ahead(data):
    x, y = data
    model = convert(make_net(), data, n_prototypes=2)
    for row, explained in enumerate(difference(model, x[:8])):
        assert explained.class_name == str(int(y[row]))
        assert explained.lead > 0
        n_deciding = int(explained.deciding.sum())
        without = explained.lead - explained.map[explained.deciding].sum()
        assert without <= 1e-5 * explained.lead
        one_less = np.sort(explained.map, axis=None)[::-1][: n_deciding - 1]
        assert explained.lead - one_less.sum() > 0  # no fewer positions would do
        assert sum(share for _, share, _ in explained.parts) == pytest.approx(1 - without / explained.lead)
        told = explained.sentence()
        if n_deciding == 16:
            assert told.endswith("no part decides alone; it takes all 16 positions.")
        else:
            assert ": but for what the part " in told
            end = f"({n_deciding} of 16 positions) adds, '{explained.other_name}' would be at least as likely."
            assert told.endswith(end)
    with pytest.raises(LookalikeError, match="is compared with itself"):
        difference(model, x[:1], 0, 0)
    (behind,) = difference(model, x[:1], 1, 0)
    assert "has no lead to explain" in behind.sentence()
    assert behind.to_dict()["deciding"] == 0


@pytest.mark.parametrize("similarity", ["l2", "dot", "head"])
def test_without_the_deciding_positions_no_prototype_of_the_class_is_ahead(similarity):
    """Not only the one that is most similar to the whole image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(120, 1, 8, 8, generator=generator)
    y = torch.arange(120) % 3
    x = x + 2 * torch.rand(15, 1, 8, 8, generator=generator)[torch.arange(120) % 15].round()
    net = make_net()
    model = convert(net, (x, y), n_prototypes=5, similarity=similarity)
    maps, labels = net[:3](x).detach().flatten(2), model.prototypes.labels
    n_fewer_would_do = 0
    for row, explained in enumerate(difference(model, x)):
        a, b = (model.class_names.index(name) for name in (explained.class_name, explained.other_name))
        deciding = torch.from_numpy(explained.deciding).flatten()
        if not deciding.any() or deciding.all():
            continue
        similarities = model.similarities_of(maps[row][:, ~deciding].mean(1)[None])[0]
        assert similarities[labels == a].max() <= similarities[labels == b].max() + 1e-4 * similarities.abs().max()
        ahead = explained.lead - np.sort(explained.map, axis=None)[::-1].cumsum()
        n_fewer_would_do += int((ahead > 0).sum()) + 1 < int(deciding.sum())
    assert n_fewer_would_do > 0 or similarity == "dot"  # for the two prototypes alone


def test_shares_of_pairs_are_those_of_the_inner_product(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1)
    (paired,) = pair_regions(model, x[:1], n_kinds=3)
    reference = model.prototype_inputs()[[paired.prototype]]
    centre = model.prototypes.vectors.mean(0)
    likeness = ((model.embed(x[:1]) - centre) * (model.embed(reference) - centre)).sum()
    assert paired.likeness == pytest.approx(float(likeness), rel=1e-4)
    maps = [Encoder(make_net(), x[:2]).model[:3](images).detach()[0] for images in (x[:1], reference)]
    for pair in paired.pairs:
        here, there = (
            (layer_map.permute(1, 2, 0)[torch.from_numpy(mask)] - centre).sum(0)
            for layer_map, mask in zip(maps, (pair.here, pair.there), strict=True)
        )
        assert pair.share == pytest.approx(float((here * there).sum() / 256 / likeness), rel=1e-3)
    assert paired.explained == pytest.approx(sum(pair.share for pair in paired.pairs))
    assert paired.to_dict()["sentence"] == paired.sentence()
    assert "make the images less alike" not in replace(paired, explained=0.9).sentence()
    assert replace(paired, explained=1.3).sentence().endswith("other parts make the images less alike.")
    assert replace(paired, explained=0.497).sentence().endswith("no part explains this: the best carry 49%.")
    assert len(paired.plot().lines) > len(paired.pairs)


@pytest.mark.parametrize("decision", ["vote", "linear"])
def test_an_image_is_paired_with_the_concept_that_speaks_most_for_its_class(decision, data):
    x, _ = data
    model = convert(make_net(), data, 3, level="patch", decision=decision, n_images=1, temperature=1.0)
    evidence, labels = model.evidence_of(model.embed(x[:8])), model.prototypes.labels
    for row, paired in enumerate(pair_regions(model, x[:8])):
        k = int(model.predict(x[row : row + 1]))
        weights = model.classifier.weight[k] if decision == "linear" else (labels == k).float()
        allowed = evidence[row] if decision == "linear" else evidence[row][:, labels == k]
        numbers = torch.arange(len(labels)) if decision == "linear" else torch.nonzero(labels == k)[:, 0]
        counts = {int(j): int((allowed.argmax(1) == i).sum()) for i, j in enumerate(numbers)}
        best = max(counts, key=lambda j, counts=counts, weights=weights: counts[j] * float(weights[j]))
        assert counts[paired.prototype] * weights[paired.prototype] == counts[best] * weights[best]


def test_no_part_is_claimed_where_there_is_no_likeness(data):
    x, y = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1)
    of_other = [int(torch.nonzero(model.prototypes.labels != y[0])[0])]
    (paired,) = pair_regions(model, x[:1], of_other)
    assert paired.pairs == []
    assert paired.sentence().startswith("No part explains a likeness to prototype ")
    assert paired.sentence().endswith(": as a whole, the two images are not alike.")
    assert any(text.get_text() == "no part explains this" for text in paired.plot().texts)


def test_what_positions_do_not_add_up_to_is_refused(data):
    x, y = data
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(LookalikeError, match="no feature map larger than 1×1"):
        contributions(convert(flat, data, n_prototypes=1), x[:2])
    with pytest.raises(LookalikeError, match="'l1' of an average is not the average of similarities"):
        contributions(convert(make_net(), data, n_prototypes=1, similarity="l1"), x[:2])
    model = convert(make_net(), data, n_prototypes=1, n_images=0)
    with pytest.raises(LookalikeError, match="holds no prototype images"):
        pair_regions(model, x[:2])
    with pytest.raises(LookalikeError, match="there are 2 images and targets for 3"):
        contributions(model, x[:2], [0, 1, 0])
    assert len(y) == 40


def clamped_net(most):
    net = make_net()
    return nn.Sequential(net[0], net[1], net[3], nn.Hardtanh(0, most), net[4], net[5])


def test_a_clamp_after_the_average_is_seen(data):
    x, _ = data
    with pytest.raises(LookalikeError, match="is not the average over the positions"):
        contributions(convert(clamped_net(1), data, n_prototypes=1), x[:2])


def test_the_residual_holds_what_the_network_does_after_the_average(data):
    x, _ = data
    model = convert(clamped_net(100), data, n_prototypes=1)
    explained = contributions(model, 1e4 * x[:4])  # so bright that the average is clamped
    z, vectors = model.embed(1e4 * x[:4]), model.prototypes.vectors
    lead = (z - vectors[explained.rivals]).square().sum(1) - (z - vectors[explained.targets]).square().sum(1)
    torch.testing.assert_close(explained.values, lead, rtol=1e-4, atol=1e-3)
    assert bool((explained.residuals.abs() > lead.abs()).all())


@pytest.mark.parametrize("explain", [contributions, difference])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (99, "target 99 is no class; there are 0 to 1"),
        (-1, "target -1 is no class"),
        ("cat", "target must be"),
        ([0.5, 0.5], "target must be"),
        (np.array([0]), "2 images and targets for 1"),
        (np.array([0, 1, 0]), "2 images and targets for 3"),
    ],
)
def test_targets_are_a_class_or_one_for_each_image(explain, target, message, data):
    x, y = data
    model = convert(make_net(), data, n_prototypes=1)
    with pytest.raises(LookalikeError, match=message):
        explain(model, x[:2], target)
    for of_all in (np.int64(y[0]), torch.tensor(int(y[0])), y[:1].numpy()):
        assert len(explain(model, x[:1], of_all) if explain is difference else explain(model, x[:1], of_all).maps) == 1
    with pytest.raises(LookalikeError, match="there are no images to explain"):
        explain(model, x[:0])


@pytest.mark.parametrize(
    ("prototypes", "message"),
    [
        ([0, 1, 0], "2 images and prototypes for 3"),
        ([0], "2 images and prototypes for 1"),
        ([0.5, 0.5], "prototype must be"),
        ([0, 9], "prototype 9 is no prototype; there are 0 to 1"),
    ],
)
def test_prototypes_of_pairs_are_one_for_each_image(prototypes, message, data):
    model = convert(make_net(), data, n_prototypes=1, n_images=1)
    with pytest.raises(LookalikeError, match=message):
        pair_regions(model, data[0][:2], prototypes)
    assert [pair.prototype for pair in pair_regions(model, data[0][:2], 1)] == [1, 1]


def test_a_class_without_prototypes_is_not_explained_by_those_of_another(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=1)
    model.prototypes.labels.fill_(0)
    with pytest.raises(LookalikeError, match="class '1' has no prototype"):
        contributions(model, x[:2], 1)
    with pytest.raises(LookalikeError, match="class '1' has no prototype"):
        contributions(model, x[:2], 0, 1)
    with pytest.raises(LookalikeError, match="no other class has a prototype"):
        contributions(model, x[:2])


def test_regions_are_not_paired_where_they_add_up_to_no_likeness(data):
    x, _ = data
    net = make_net()
    clamped = nn.Sequential(net[0], net[1], net[3], nn.Hardtanh(0, 0.1), net[4], net[5])
    model = convert(clamped, data, n_prototypes=1, n_images=1)
    with pytest.raises(LookalikeError, match="is not the average over the positions"):
        pair_regions(model, x[:2])


def test_images_of_several_sizes_are_explained_apart(data):
    model = convert(make_net(), data, n_prototypes=2, n_images=1)
    large = torch.rand(2, 1, 12, 8)
    assert contributions(model, large).maps.shape == (2, 6, 4)
    assert contributions(model, data[0][:2]).maps.shape == (2, 4, 4)


def test_a_model_of_patches_says_the_size_of_the_images_that_it_is_given(data):
    """Positions of 2×2 pixels: images of 9×9 have as many as those of 8×8, which the model was made from."""
    model = convert(make_net(), data, n_prototypes=2, level="patch", temperature=1.0)
    images = torch.rand(2, 1, 9, 9)
    segments, added = model.segment(images), contributions(model, images)
    assert segments.image_size == added.image_size == segments.images.shape[1:3] == (9, 9)
    assert segments.upsampled().shape == added.upsampled().shape == (2, 9, 9)
    with pytest.raises(LookalikeError, match=r"of several sizes \(8×8, 9×9\)"):
        model.segment(DataLoader([(x, 0) for x in (torch.rand(1, 8, 8), torch.rand(1, 9, 9))]), batch_size=1)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_an_explanation_has_parts_in_words_and_values_if_asked(level, data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1, level=level)
    explanations = explain(model, x[:3], parts=True, batch_size=2)
    for explanation, lead, pair in zip(explanations, difference(model, x[:3]), pair_regions(model, x[:3]), strict=True):
        assert explanation.parts.sentences() == [lead.sentence(), pair.sentence()]
        assert explanation.sentence().endswith(f"{lead.sentence()} {pair.sentence()}")
        assert explanation.parts.difference.class_name == explanation.class_name
        assert (explanation.parts.segments is None) == (level == "image")
        assert explanation.to_dict()["parts"]["pairs"]["sentence"] == pair.sentence()
    (plain,) = explain(model, x[:1])
    assert plain.parts is None
    assert plain.to_dict()["parts"] is None
    with pytest.raises(TypeError, match="'part'; did you mean 'parts'"):
        explain(model, x[:1], part=True)


def test_regions_are_connected_by_sides_and_corners():
    mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], bool)
    assert sorted(int(part.sum()) for part in connected(mask)) == [1, 2]
    assert place_of(np.eye(3, dtype=bool) & (np.arange(3) == 2)) == "at the bottom right"


def test_pictures_have_a_legend_and_outlines(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1, level="patch")
    segments = model.segment(x[:1])
    texts = [text.get_text() for text in segments.plot().texts]
    assert len(texts) == len(segments.concepts.unique())
    assert sum(int(text.rpartition(" ")[2].removesuffix("%")) for text in texts) == pytest.approx(100, abs=2)
    explained = difference(convert(make_net(), data, n_prototypes=2), x[:1])[0]
    assert len(explained.plot().lines) >= 4  # a cell has four sides


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("##..... ##..... ....... ....... ....... ....... .......", "at the top left"),
        ("##...## ##...## ....... ....... ....... ....... .......", "at the top left and at the top right"),
        ("##...## ##...## ....... ....... ....... ##...## ##...##", "around the middle"),
        ("#...... ....... ....... ....... ....... ....... ......#", "at the top left and at the bottom right"),
        ("####### #.....# #.....# #.....# #.....# #.....# #######", "around the middle"),
        ("....... ....... ....... ####### ....... ....... .......", "across the middle"),
        ("....... ....... ..###.. ..###.. ..###.. ....... .......", "in the middle"),
        ("####... ####... .###.#. ....... .#..... ....... ...#...", "at the top left"),
    ],
)
def test_a_place_is_where_the_outlines_are(rows, words):
    """The mean of two corners is the middle, where nothing is drawn."""
    assert place_of(np.array([[cell == "#" for cell in row] for row in rows.split()])) == words


def test_shares_above_all_of_the_likeness_have_a_word_in_sentence_and_picture(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1)
    found = replace(pair_regions(model, x[:1])[0], explained=1.3, likeness=1.0)
    assert "130% of their likeness, more than all of it: other parts make the images less alike." in found.sentence()
    assert "130% in all: other parts make them less alike" in [text.get_text() for text in found.plot().texts]
    cancelled = replace(found, explained=6.63)
    assert "parts that are alike and parts that are not nearly cancel out." in cancelled.sentence()
    assert "alike and unlike parts nearly cancel out" in [text.get_text() for text in cancelled.plot().texts]
    within = replace(found, explained=0.9)
    assert "more than all" not in within.sentence()
    assert not any("in all" in text.get_text() for text in within.plot().texts)


def test_no_region_is_paired_with_an_image_that_a_prototype_does_not_have(data):
    x, _ = data
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = convert(net, data, level="head", class_names=["0", "1", "never seen"], progress=False)
    assert model.prototypes.have_image.tolist() == [True, True, False]
    with pytest.raises(LookalikeError, match="prototype 2 of class 'never seen', which has no training image"):
        pair_regions(model, x[:3], 2)
    explained = explain_parts(model, x[:3], nearest=[0, 2, 1])
    assert [one.pairs is None for one in explained] == [False, True, False]
    for function in (pair_regions, explain_parts):
        with pytest.raises(LookalikeError, match="there are no images to explain"):
            function(model, x[:0])


def test_prototypes_that_are_not_the_nearest_are_compared_with_and_not_looked_like(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1, progress=False)
    order = model.similarities_of(model.embed(x[:6])).argsort(1, descending=True)
    for row in range(6):
        (near,), (far,) = (pair_regions(model, x[row : row + 1], int(order[row, rank])) for rank in (0, -1))
        assert (near.is_nearest, far.is_nearest) == (True, False)
        far = replace(far, likeness=1.0, explained=0.2)
        which = f"prototype {far.prototype} of class '{far.class_name}'"
        assert far.sentence() == f"Compared with {which}, no part explains a likeness: the best carry 20%."
        assert "This looks like prototype " in replace(near, likeness=1.0).sentence()


def test_images_of_another_size_are_paired_with_those_of_the_prototypes(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, n_images=1, progress=False)
    large = nn.functional.interpolate(x[:3], scale_factor=2)
    for paired, same in zip(pair_regions(model, large), pair_regions(model, x[:3]), strict=True):
        assert paired.prototype_image.shape == same.prototype_image.shape
        for pair in paired.pairs:
            assert (pair.here.shape, pair.there.shape) == ((8, 8), (4, 4))
        paired.plot()
    with pytest.raises(LookalikeError, match=r"2 inputs have embeddings with NaN or infinite values"):
        pair_regions(model, torch.full((2, 1, 8, 8), torch.nan), 0)


def test_an_explanation_by_patches_frames_the_part_here_and_the_part_there(data):
    x, _ = data
    model = convert(make_net(), data, n_prototypes=2, level="patch", n_images=1, progress=False)
    evidence = model.evidence_of(model.embed(x[:3]))
    for row, explanation in enumerate(explain(model, x[:3], n_nearest=2)):
        for near in explanation.likenesses:
            position = evidence[row, :, near.prototype].argmax()
            assert near.part == pytest.approx(model.encoder.boxes(position).tolist())
            assert near.prototype_part == pytest.approx(model.patch_boxes()[near.prototype, 0].tolist())
            assert near.to_dict()["part"] == list(near.part)
        assert len(explanation.plot().patches) == 1 + 2 * len(explanation.shown)  # and the frame of the input
    whole = explain(convert(make_net(), data, n_prototypes=1, progress=False), x[:1])[0]
    assert whole.likenesses[0].part is whole.likenesses[0].prototype_part is None
    assert len(whole.plot().patches) == 1
