"""Every field of an explanation and its sentence, against loops over the training samples."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from lookalike import convert, explain
from lookalike.model.classifier import LinearHead
from lookalike.relevance import prp
from tests.small import bright_images, small_network

NAMES = ["ant", "bee", "cat"]


class Case:
    """A model with prototypes that differ in all that is told of them, its training samples, and new inputs."""

    def __init__(self, similarity):
        x, y = bright_images(150)
        generator = torch.Generator().manual_seed(2)
        x = x + 1.0 * torch.randn(x.shape, generator=generator)
        y = torch.where(torch.rand(len(y), generator=generator) < 0.2, (y + 1) % 3, y)
        self.x, self.y, self.labels = x[:120], y[:120].numpy(), y[120:]
        self.new = x[120:]
        self.model = convert(
            small_network(),
            (self.x, y[:120]),
            {"ant": 2, "bee": 3, "cat": 1},
            similarity,
            n_nearest=4,
            progress=False,
            class_names=NAMES,
        )
        self.owners = self.model.prototypes.labels.numpy()
        self.distances, self.new_distances = (self.to_prototypes(x) for x in (self.x, self.new))
        self.similarities = self.model.similarities(self.x).numpy()
        self.found = explain(self.model, self.new, n_nearest=6, labels=self.labels)

    def to_prototypes(self, x):
        """Euclidean distances [N, P] in the space in which the similarity clusters."""
        space = self.model.similarity.project
        z, p = (space(one).double().numpy() for one in (self.model.embed(x), self.model.prototypes.vectors))
        return np.linalg.norm(z[:, None] - p, axis=2)

    def behind(self, j):
        """The distances of the training samples behind a prototype: those of its class that are most similar to it."""
        own = np.where(self.y[:, None] == self.owners, self.similarities, -np.inf)
        return self.distances[(own.argmax(1) == j) & (self.y == self.owners[j]), j]


@pytest.fixture(scope="module", params=["l2", "mahalanobis", "dot"])
def case(request):
    return Case(request.param)


def test_the_maps_that_are_drawn_are_those_of_the_input_and_of_the_prototypes_images():
    model = convert(small_network(), bright_images(60), 2, progress=False)
    (one,) = explain(model, bright_images(6)[0][:1], relevance=True)
    drawn = one._maps(raw=True)
    for likeness, on_input, on_prototype in zip(one.shown, drawn.on_input, drawn.on_prototype, strict=True):
        assert on_input is likeness.heat_map
        assert on_prototype is likeness.prototype_heat_map
    assert not np.array_equal(drawn.on_input[0], drawn.on_prototype[0])


def test_prototypes_come_by_their_similarity(case):
    s = case.model.similarities(case.new)
    for row, one in enumerate(case.found):
        order = sorted(range(6), key=lambda j: -float(s[row, j]))
        assert [near.prototype for near in one.likenesses] == order
        assert [near.similarity for near in one.likenesses] == pytest.approx(s[row, order].tolist(), rel=1e-4)
        assert [near.label for near in one.likenesses] == case.owners[order].tolist()
        assert [near.class_name for near in one.likenesses] == [NAMES[case.owners[j]] for j in order]


def test_predictions_and_probabilities(case):
    predicted, probabilities = case.model.predict(case.new), case.model.predict_proba(case.new)
    assert len(predicted.unique()) == 3
    for row, one in enumerate(case.found):
        assert one.prediction == int(predicted[row])
        assert one.class_name == NAMES[one.prediction]
        np.testing.assert_allclose(one.probabilities, probabilities[row], atol=1e-6)
        assert one.probability == pytest.approx(float(probabilities[row, one.prediction]), abs=1e-6)
        assert one.label == int(case.labels[row])
        assert one.true_name == NAMES[case.labels[row]]
        assert one.correct == (one.label == one.prediction)


def test_what_is_told_of_a_prototype_is_of_that_prototype(case):
    p, winners = case.model.prototypes, case.similarities.argmax(1)
    told = []
    for row, one in enumerate(case.found):
        for near in one.likenesses:
            j = near.prototype
            behind, won = case.behind(j), case.y[winners == j]
            assert near.distance == pytest.approx(case.new_distances[row, j], rel=1e-4)
            assert near.count == len(behind)
            assert near.farthest == pytest.approx(behind.max() if len(behind) else np.nan, rel=1e-4, nan_ok=True)
            pooled = behind
            if len(behind) < 10:  # the samples of its class, each at its distance to its own prototype
                pooled = np.concatenate([case.behind(i) for i in np.flatnonzero(case.owners == case.owners[j])])
            assert (near.scope, near.scope_count) == ("prototype" if len(behind) >= 10 else "class", len(pooled))
            assert near.familiar_up_to == pytest.approx(pooled.max(), rel=1e-4)
            if len(won):
                assert near.purity == pytest.approx(np.mean(won == case.owners[j]))
            else:
                assert np.isnan(near.purity)
            own = np.flatnonzero(case.y == case.owners[j])
            assert near.nearest == own[case.distances[own, j].argsort()[:4]].tolist()
            np.testing.assert_array_equal(near.image, case.model.images[j, 0])
            told.append((j, near.count, near.farthest, near.purity, near.nearest[0]))
    for column in range(1, 5):  # or another prototype's would do as well
        assert len({row[column] for row in told}) > 2
    assert len({row[0] for row in told}) == len(p) == 6


def test_percentiles_are_those_of_the_training_samples_behind_the_prototype(case):
    seen = set()
    for row, one in enumerate(case.found):
        for near in one.likenesses:
            behind, distance = case.behind(near.prototype), case.new_distances[row, near.prototype]
            if not len(behind):
                assert np.isnan(near.percentile)
                continue
            percent = int(near.percentile)
            assert near.percentile == percent
            assert percent == 0 or np.quantile(behind, percent / 100) <= distance * (1 + 1e-5)
            assert percent == 100 or distance * (1 - 1e-5) <= np.quantile(behind, (percent + 1) / 100)
            seen.add(percent)
    assert len(seen) > 4


def test_the_sentence_counts_the_training_samples_that_are_farther(case):
    counted = []
    for row, one in enumerate(case.found):
        near, sentence = one.likenesses[0], one.sentence()
        behind, distance = case.behind(near.prototype), case.new_distances[row, near.prototype]
        assert f"prototype {near.prototype} of class '{NAMES[case.owners[near.prototype]]}'" in sentence
        assert f"'{NAMES[one.prediction]}' ({one.probability:.0%})" in sentence
        if one.unfamiliar and near.scope == "prototype":
            assert distance > behind.max()
            assert f"all {len(behind)} training images" in sentence
            continue
        if one.unfamiliar:
            assert f"any of {near.scope_count} training images of its class" in sentence
            continue
        if not len(behind) or distance >= behind.max() * (1 - 1e-4):
            assert "no training image" in sentence or f"all {len(behind)} training images" in sentence
            continue
        farther, count = map(int, re.search(r"about (\d+) of the (\d+) training images", sentence).groups())
        assert count == len(behind)
        assert abs(farther - (behind > distance).sum()) <= 1 + 0.01 * count
        assert farther > 0  # it is nearer than the farthest
        counted.append(farther / count)
    assert min(counted) < 0.3 < 0.6 < max(counted) or case.model.similarity.name == "dot"


def test_plain_values_are_those_of_the_fields(case):
    for i, one in enumerate(explain(case.model, case.new, n_nearest=2, names=[f"file {i}" for i in range(30)])):
        values = one.to_dict()
        assert values["name"] == f"file {i}"
        assert values["prediction"] == one.class_name
        assert values["probability"] == one.probability
        assert values["probabilities"] == one.probabilities.tolist()
        assert (values["true"], values["correct"]) == (None, None)
        assert values["unfamiliar"] == one.unfamiliar
        for near, row in zip(one.likenesses, values["nearest"], strict=True):
            assert row["class"] == near.class_name
            for name in ("prototype", "similarity", "distance", "count", "nearest"):
                assert row[name] == getattr(near, name)
            assert row["percentile"] == (near.percentile if near.count else None)
            assert row["purity"] == (None if np.isnan(near.purity) else near.purity)
    for one in case.found:
        assert one.to_dict()["true"] == NAMES[one.label]
        assert one.to_dict()["correct"] == (one.label == one.prediction)
    assert {one.correct for one in case.found} == {True, False}


def test_the_sentence_says_whether_the_nearest_prototype_decides(case):
    model, orders = copy.copy(case.model), set()
    for shift in range(3):  # each prototype votes for its own class, the next, or the one after
        model.classifier = LinearHead.from_labels((case.model.prototypes.labels + shift) % 3, 3, other=0.0)
        for one in explain(model, case.new, n_nearest=1):
            label, near = one.prediction, one.likenesses[0]
            orders.add((label > near.label) - (label < near.label))
            how = "so the prediction is" if label == near.label else "but all prototypes together vote for"
            assert f"), {how} '{NAMES[label]}' ({one.probability:.0%})." in one.sentence()
    assert orders == {-1, 0, 1}


def test_the_original_network_is_asked_too(case):
    network = copy.deepcopy(case.model.encoder.model).eval()  # it is left in train mode, with dropout
    with torch.no_grad():
        expected = network(case.new).softmax(1)
    for row, one in enumerate(case.found):
        k = int(expected[row].argmax())
        assert one.original.class_name == NAMES[k]
        assert one.original.probability == pytest.approx(float(expected[row, k]), rel=1e-4)
        assert one.original.agrees == (k == one.prediction)
        told = "agrees" if one.original.agrees else f"says '{NAMES[k]}'"
        assert f"The original network {told} ({one.original.probability:.0%})." in one.sentence()
        assert one.to_dict()["original"]["prediction"] == NAMES[k]
    assert {one.original.agrees for one in case.found} == {True, False}


def test_maps_are_of_the_input_and_the_prototype_that_they_stand_by(case):
    found = explain(case.model, case.new[:4], n_nearest=2, relevance=True)
    numbers = torch.tensor([[near.prototype for near in one.likenesses] for one in found])
    maps = prp(case.model, case.new[:4], numbers).pixels
    every = prp(case.model, case.model.prototype_inputs(), torch.arange(6)[:, None]).pixels[:, 0]
    for row, one in enumerate(found):
        for rank, near in enumerate(one.likenesses):
            np.testing.assert_allclose(near.heat_map, maps[row, rank], atol=1e-6)
            np.testing.assert_allclose(near.prototype_heat_map, every[near.prototype], rtol=1e-3, atol=1e-5)


def test_captions_compare_with_the_training_samples_in_place_of_a_bare_similarity(case):
    for near in (near for one in case.found for near in one.likenesses):
        words = near.caption().rpartition(" · ")[2]
        behind = case.behind(near.prototype)
        if not len(behind):
            assert words == f"distance {near.distance:.3g}"
        elif len(behind) == 1:
            assert words == "of one image"
        elif near.percentile >= 100:
            assert words == "farther than all"
        else:
            assert words == f"closer than {near.n_farther / len(behind):.0%}"


def test_a_likeness_is_never_measured_by_a_bare_negative_number(case):
    """A picture had "similarity −12.3" below it."""
    near = replace(case.found[0].likenesses[0], similarity=-12.3)
    assert near.measured("l2", falls_with_distance=True) == f"distance {near.distance:.3g}"
    assert near.measured("dot", falls_with_distance=False) == f"distance {near.distance:.3g}"
    assert replace(near, similarity=0.834).measured("cosine", falls_with_distance=False) == "cosine similarity 0.834"


@pytest.mark.parametrize(
    ("percentile", "count", "distance", "text", "caption"),
    [
        (99.7, 200, 2.9, "closer to it than about 1 of the 200 training images behind it", "closer than 1%"),
        (0.0, 5, 1.1, "closer to it than about 4 of the 5 training images behind it", "closer than 80%"),
        (64.0, 120, 2.0, "closer to it than about 43 of the 120 training images behind it", "closer than 36%"),
        (100.0, 120, 3.0, "as far from it as the farthest of 120 training images behind it", "as far as any"),
        (100.0, 120, 3.5, "farther from it than all 120 training images behind it", "farther than all"),
        (100.0, 2, 3.5, "farther from it than both training images behind it", "farther than all"),
        (100.0, 1, 3.5, "a single training image stands behind it", "of one image"),
    ],
)
def test_a_sentence_and_a_caption_say_the_same_of_a_distance(case, percentile, count, distance, text, caption):
    near = replace(
        case.found[0].likenesses[0], percentile=percentile, count=count, distance=distance, farthest=3.0, name=None
    )
    assert near.nearness() == text
    assert near.caption().endswith(f" · {caption}")
