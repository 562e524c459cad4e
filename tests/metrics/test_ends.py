"""The ends of what can be measured: one class, one prototype, probabilities of exactly 1, very many prototypes."""

from importlib import import_module

import numpy as np
import pytest
import torch

from lookalike import convert, embed, evaluate
from lookalike.metrics.context import rows_per_batch
from lookalike.metrics.diversity import diversity, diversity_of, reference_diversity
from lookalike.metrics.separability import separability
from lookalike.model.similarity import LogL2
from lookalike.report import write_report
from tests.small import bright_images, small_network

QUICK = {"n_images": 4, "n_steps": 2, "n_draws": 1, "progress": False}


def sharpened(factor):
    """A network whose scores are so far apart that the probability of its predicted class is 1."""
    net = small_network()
    with torch.no_grad():
        net[6].weight.mul_(factor)
        net[6].bias.mul_(factor)
    return net.eval()


def test_saturated_probabilities_are_no_agreement(blobs):
    """All maps would be zero, D_fth 0 and the verdict praise: the figure is withheld, with the reason."""
    sem = convert(sharpened(1e6), blobs, 2, progress=False)
    card = evaluate(sem, blobs, train=blobs, **QUICK)
    assert card.get("explanation_divergence") is None
    assert not any("looks where" in sentence for sentence in card.verdict())
    notes = " ".join(card.notes)
    assert "4 of 4 images are left out of D_fth" in notes
    assert "the probability of the black box: it is exactly 1 in single precision" in notes
    assert "sample " in notes
    assert "section 'explanations' was not measured: no image is left" in notes


def test_one_saturated_image_is_named_and_left_out(blobs):
    x, y = blobs[0].clone(), blobs[1]
    net = sharpened(30.0)
    sem = convert(net, blobs, 2, progress=False)
    plain = evaluate(sem, (x[:4], y[:4]), only=["explanations"], **QUICK)
    x[2] *= 1e4
    card = evaluate(sem, (x[:4], y[:4]), only=["explanations"], **QUICK)
    assert plain.details["explanations"][0]["left_out"] == []
    assert card.details["explanations"][0]["left_out"] == [2]
    assert len(card.details["explanations"][0]["per_image"]) == 3
    assert any("1 of 4 images are left out of D_fth" in note and note.endswith("sample 2") for note in card.notes)


def test_a_single_class_has_the_figures_that_exist(blobs, net, tmp_path):
    """Everything that compares classes is left out, and said to be."""
    data = blobs[0][:12], torch.zeros(12, dtype=torch.int64)
    for n_prototypes in (1, 2):
        sem = convert(net, data, n_prototypes, progress=False)
        card = evaluate(sem, data, train=data, **QUICK)
        assert card["accuracy"] == 1
        assert card["ghosting"] == 0
        assert card.get("auroc") is None
        assert any(note.startswith("AUROC was not measured: the only class has probability 1") for note in card.notes)
        assert (card.get("diversity") is None) == (n_prototypes == 1)
        write_report(sem, data, tmp_path / f"{n_prototypes}.html", train=data, **QUICK)
        assert (tmp_path / f"{n_prototypes}.html").stat().st_size > 1000


def test_diversity_in_parts_is_diversity():
    generator = torch.Generator().manual_seed(0)
    vectors, labels = torch.randn(2_100, 3, generator=generator), torch.arange(2_100) % 500  # more than one part
    labels[-1] = 500  # a class of one prototype

    def similarity(rows):
        return -torch.cdist(rows, vectors)

    whole = similarity(vectors)
    torch.testing.assert_close(diversity_of(similarity, vectors), diversity(whole))
    within = diversity(whole, labels, within="class")
    torch.testing.assert_close(diversity_of(similarity, vectors, labels), within)


def test_the_authors_reading_of_diversity_holds_few_rows_at_a_time(monkeypatch):
    prototypes = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    expected = diversity(LogL2(1e-4, scale=1.0)(prototypes, prototypes))
    rows = []
    whole = LogL2.forward
    monkeypatch.setattr(LogL2, "forward", lambda self, z, p: (rows.append(len(z)), whole(self, z, p))[1])
    monkeypatch.setattr(import_module("lookalike.metrics.diversity"), "_CELLS", 33)
    assert abs(reference_diversity(prototypes)[0] - expected) < 1e-6
    assert max(rows) == 3


def test_nothing_of_samples_times_prototypes_is_held(monkeypatch, blobs, net):
    """Similarities to very many prototypes are asked for of few rows at a time."""
    sem = convert(net, blobs, 2, progress=False)
    assert rows_per_batch(sem) == 16_384
    largest = []
    plain = sem.similarities_of

    def watched(embeddings):
        found = plain(embeddings)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(sem, "similarities_of", watched)
    monkeypatch.setattr(import_module("lookalike.metrics.context"), "_SIMILARITIES", 24 * 8)
    monkeypatch.setattr(import_module("lookalike.metrics.diversity"), "_CELLS", 12)
    evaluate(sem, blobs, train=blobs, only=["faithfulness", "transparency", "diversity"], **QUICK)
    assert max(largest) <= 24 * 8


def test_separability_in_parts_is_separability(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z, prototypes = torch.randn(60, 4, generator=generator), torch.randn(9, 4, generator=generator)
    labels, owners = torch.arange(60) % 3, torch.arange(9) % 3
    whole = separability(z, labels, prototypes, owners)
    monkeypatch.setattr(import_module("lookalike.metrics.separability"), "_CELLS", 9 * 7)
    assert separability(z, labels, prototypes, owners) == whole


@pytest.mark.parametrize(("n_images", "only", "note"), [
    (4, ["explanations"], None),
    (5, ["explanations"], "there are only 4 test images: explanations are measured on all of them"),
    (5, ["faithfulness"], None),  # that explains nothing
])  # fmt: skip
def test_fewer_images_than_asked_for_are_said(n_images, only, note, net, blobs):
    x, y = blobs
    card = evaluate(
        convert(net, blobs, 2, progress=False), (x[:4], y[:4]), only=only, n_images=n_images, progress=False
    )
    assert [each for each in card.notes if "test image" in each] == ([] if note is None else [note])


def test_large_classes_are_sampled_by_the_seed_of_the_evaluation(net):
    x, y = bright_images(1000)  # more of each class than separability takes
    data = x + 1.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), y
    sem = convert(net, data, 2, progress=False)
    train = embed(sem, data, progress=False)
    found = {seed: evaluate(sem, train, train=train, only=["embedding"], seed=seed, progress=False) for seed in (0, 5)}
    assert found[0]["silhouette"] != found[5]["silhouette"]
    p, z = sem.prototypes, torch.from_numpy(np.array(train.embeddings))
    for seed, card in found.items():
        expected = separability(z, y, p.vectors, p.labels, seed=seed, project=sem.similarity.project)
        assert card.details["embedding"][0]["classes"] == [one.to_dict() for one in expected]
