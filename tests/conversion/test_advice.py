"""Advice is right about what it tries, and chooses by training samples alone."""

import shlex

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lookalike import LookalikeError, convert
from lookalike.cli import app
from lookalike.conversion.advice import advice_before_edits, advise, choose_similarity
from lookalike.conversion.per_class import Clustering
from lookalike.embedding import EmbeddingStore
from lookalike.model.similarity import make_similarity


def stretched(n=600, seed=0):
    """Two classes that one direction tells apart, beside a direction of far larger spread that tells nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    z = np.stack([labels + 0.2 * rng.standard_normal(n), 40 * rng.standard_normal(n)], 1).astype(np.float32)
    return EmbeddingStore(z, labels, np.arange(n))


def rings(n=600):
    """Two classes of four clusters each, in turn around a circle: one prototype per class cannot tell them apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    angle = 2 * np.pi * (2 * rng.integers(0, 4, n) + labels) / 8
    z = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.standard_normal((n, 2))
    return EmbeddingStore(z.astype(np.float32), labels, np.arange(n))


def test_a_similarity_that_does_better_is_named():
    advice = advise(stretched(), ["a", "b"], None, "l2", Clustering(1))
    assert advice.best.similarity == "mahalanobis"
    assert advice.taken.accuracy < 0.75
    assert advice.best.accuracy > 0.85
    assert advice.sentence().startswith("--similarity mahalanobis did better: ")
    assert choose_similarity(stretched(), ["a", "b"], None, Clustering(1)) == "mahalanobis"


def test_no_more_prototypes_are_said_than_a_class_has_images():
    advice = advise(stretched(24), ["a", "b"], None, "l2", Clustering(40))
    assert advice.taken.n_prototypes == 12
    assert "--n-prototypes 40" not in advice.sentence()


def test_embeddings_of_many_dimensions_are_tried_by_all_similarities():
    """Those of pretrained encoders have 1,280 and more, and there it matters most: digits lost nine points by l2."""
    narrow = stretched(1_200)
    noise = 0.01 * np.random.default_rng(1).standard_normal((1_200, 1_278))
    wide = EmbeddingStore(np.hstack([narrow.embeddings, noise]).astype(np.float32), narrow.labels, narrow.indices)
    assert choose_similarity(wide, ["a", "b"], None, Clustering(1)) == "mahalanobis"


def test_of_few_samples_the_better_is_chosen_though_it_is_not_certain():
    """On 40 samples a gain of nine points is within chance: no sentence claims it, but ``auto`` takes it."""
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    z = np.stack([labels + 0.3 * rng.standard_normal(40), 2 * rng.standard_normal(40)], 1).astype(np.float32)
    few = EmbeddingStore(z, labels, np.arange(40))
    advice = advise(few, ["a", "b"], None, "l2", Clustering(1))
    better = next(choice for choice in advice.others if choice.similarity == "mahalanobis")
    assert better.accuracy > advice.taken.accuracy + 0.05
    assert advice.best is None
    assert choose_similarity(few, ["a", "b"], None, Clustering(1)) == "mahalanobis"
    assert choose_similarity(few, ["a", "b"], None, Clustering("auto")) == "mahalanobis"


def test_few_samples_are_divided_three_times_into_fifths():
    from lookalike.conversion.advice import _sample

    labels = np.array([0] * 11 + [1] * 4 + [2])
    rows, parts = _sample(labels, 0)
    assert rows.tolist() == list(range(16))
    assert parts.shape == (3, 16)
    for division in parts:
        assert sorted(np.bincount(division[:11]).tolist()) == [2, 2, 2, 2, 3]
        assert sorted(division[11:15].tolist()) == [0, 1, 2, 3]
        assert division[15] == -1  # the only sample of its class is never held out
    assert len(np.unique(parts, axis=0)) == 3


def test_a_number_of_prototypes_that_does_better_is_named():
    advice = advise(rings(), ["a", "b"], None, "l2", Clustering(1))
    assert (advice.best.similarity, advice.best.n_prototypes) == ("l2", 5)
    assert "--n-prototypes 5 did better" in advice.sentence()
    assert choose_similarity(rings(), ["a", "b"], None, Clustering(5)) == "l2"


def test_without_a_clear_gain_nothing_else_is_advised():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    z = (labels[:, None] + 0.1 * rng.standard_normal((400, 3))).astype(np.float32)
    advice = advise(EmbeddingStore(z, labels, np.arange(400)), ["a", "b"], None, "l2", Clustering(2))
    assert advice.best is None
    assert advice.sentence().startswith("No other similarity or number of prototypes does clearly better than l2")
    assert advice.n_samples == 400


def test_the_accuracy_is_that_of_prototypes_of_the_other_half():
    """An independent computation for one prototype per class: the means of the other half."""
    store = stretched(1_001)
    advice = advise(store, ["a", "b"], None, "l2", Clustering(1, seed=5))
    from lookalike.conversion.advice import _sample

    rows, (halves,) = _sample(store.labels, 5)
    z, y, correct = store.embeddings[rows], store.labels[rows], []
    for half in (0, 1):
        means = np.stack([z[(halves != half) & (y == k)].mean(0) for k in (0, 1)])
        distances = ((z[halves == half][:, None] - means) ** 2).sum(-1)
        correct.append(distances.argmin(1) == y[halves == half])
    assert advice.taken.accuracy == pytest.approx(np.concatenate(correct).mean())


def test_the_log_loss_is_that_of_the_same_predictions_at_the_best_temperature():
    """An independent computation for one prototype per class, and torch's loss over a fine grid of temperatures."""
    store = stretched(1_001)
    advice = advise(store, ["a", "b"], None, "l2", Clustering(1, seed=5))
    from lookalike.conversion.advice import _sample

    rows, (halves,) = _sample(store.labels, 5)
    z, y = store.embeddings[rows], store.labels[rows]
    scores = np.zeros((len(y), 2))
    for half in (0, 1):
        means = np.stack([z[(halves != half) & (y == k)].mean(0) for k in (0, 1)])
        scores[halves == half] = -np.sqrt(((z[halves == half][:, None] - means) ** 2).sum(-1))
    scores, y = torch.from_numpy(scores), torch.from_numpy(y)
    expected = min(float(nn.functional.cross_entropy(scores * factor, y)) for factor in np.geomspace(1e-3, 1e3, 500))
    assert advice.taken.log_loss == pytest.approx(expected, rel=0.01)
    assert advice.to_dict()["choices"][0]["log_loss"] == advice.taken.log_loss


@pytest.mark.parametrize("seed", [5, 11])
def test_of_few_samples_the_choice_is_by_the_loss_and_not_by_the_number_of_errors(seed):
    """All directions vary alike, so ``l2`` is right; an image of forty decided for ``mahalanobis`` before."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    z = (rng.standard_normal((40, 20)) + 0.6 * labels[:, None] + 2).astype(np.float32)
    few = EmbeddingStore(z, labels, np.arange(40))
    advice = advise(few, ["a", "b"], None, "l2", Clustering(1))
    other = next(choice for choice in advice.others if choice.similarity == "mahalanobis")
    assert other.accuracy > advice.taken.accuracy + 0.02
    assert other.log_loss > advice.taken.log_loss
    assert choose_similarity(few, ["a", "b"], None, Clustering(1)) == "l2"


def test_few_samples_and_many_classes():
    single = EmbeddingStore(np.eye(3, dtype=np.float32), np.arange(3), np.arange(3))
    assert advise(single, list("abc"), None, "l2", Clustering(1)) is None
    many = EmbeddingStore(np.zeros((402, 2), np.float32), np.arange(402) % 201, np.arange(402))
    assert advise(many, [str(k) for k in range(201)], None, "l2", Clustering(1)) is None
    with pytest.raises(LookalikeError, match="at most 200 classes"):
        choose_similarity(many, [str(k) for k in range(201)], None, Clustering(1))


def test_auto_converts_with_what_it_chose_and_records_the_advice():
    store = stretched()
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    data = (torch.from_numpy(store.embeddings), torch.from_numpy(store.labels))
    sem = convert(net, data, 1, "auto", advice=True, progress=False)
    assert sem.similarity.name == "mahalanobis"
    assert sem.provenance["advice"]["choices"][0]["similarity"] == "mahalanobis"
    with pytest.raises(LookalikeError, match="options are of one similarity"):
        convert(net, data, 1, "auto", similarity_options={"sigma": 1.0})
    with pytest.raises(LookalikeError, match="not there for patches"):
        convert(net, data, 1, "auto", level="patch")


def test_the_command_ends_with_advice_and_the_next_command(network_file, image_folder, tmp_path, monkeypatch):
    arguments = ["convert", f"{network_file}:make", str(image_folder), "-o", str(tmp_path / "my model")]
    result = CliRunner().invoke(app, [*arguments, "--n-prototypes", "1"])
    assert result.exit_code == 0, result.output
    flat = " ".join(result.output.split())
    assert "held out in turn" in flat
    words = shlex.split(flat.partition("Next: lookalike ")[2])
    assert words[:2] == ["report", str(tmp_path / "my model")]
    monkeypatch.chdir(tmp_path)
    typed = CliRunner().invoke(app, [*words, "--only", "transparency"])
    assert typed.exit_code == 0, typed.output
    assert (tmp_path / "report.html").exists()


def test_a_similarity_that_was_made_by_hand_is_not_judged_by_its_name():
    store = stretched()
    data = (torch.from_numpy(store.embeddings), torch.from_numpy(store.labels))
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    made = make_similarity("mahalanobis", {"shrinkage": 1.0})
    with pytest.raises(LookalikeError, match="advice compares similarities by name"):
        convert(net, data, 1, made, advice=True, progress=False)
    with pytest.raises(LookalikeError, match="class names"):
        convert(net, data, 1, "auto", class_names=["a"], progress=False)


def test_the_advice_says_that_its_figures_may_flatter_and_that_edits_came_later():
    advice = advise(stretched(), ["a", "b"], None, "l2", Clustering(1))
    assert advice.sentence().endswith("If the network was trained on these images, such figures flatter.")
    provenance = {"advice": advice.to_dict()}
    edited = provenance | advice_before_edits(provenance)
    assert edited["advice"]["sentence"] == (f"{advice.sentence()} This was before the edits, and was not tried again.")
    assert advice_before_edits(edited) == advice_before_edits({}) == {}


def test_an_edited_model_does_not_repeat_the_advice_as_if_it_were_of_it(net, blobs):
    sem = convert(net, blobs, n_prototypes=3, advice=True, progress=False)
    session = sem.edit(blobs)
    session.rename(0, "first")
    assert session.model.provenance["advice"] == sem.provenance["advice"]  # a name decides nothing
    session.drop(0)
    assert session.model.provenance["advice"]["sentence"].endswith("before the edits, and was not tried again.")
