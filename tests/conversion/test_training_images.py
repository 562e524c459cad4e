"""A prototype model of the user's own gets its training images."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lookalike import LookalikeError, LookalikeWarning, convert, evaluate, explain, load
from lookalike.conversion.training_images import with_training_images
from lookalike.model import Origin, PrototypeModel, Prototypes
from lookalike.model.classifier import LinearHead
from lookalike.model.similarity import Similarity, make_similarity
from lookalike.report import write_report
from lookalike.testing import check_prototype_model


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.fixture
def own(encoder, blobs):
    """A model as a ProtoPNet is one: numbers of prototypes that differ, in no order, and negative weights."""
    labels = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        vectors = encoder(blobs[0][[2, 0, 3, 1]]) + 0.01
    weight = torch.where(labels == torch.arange(3)[:, None], 1.0, -0.5)
    similarity = make_similarity("log", {"epsilon": 1e-4})
    return PrototypeModel(encoder, Prototypes(vectors, labels, ["a", "b", "c"]), similarity, LinearHead(weight))


def test_prototypes_are_shown_by_their_nearest_training_images(own, encoder, blobs, tmp_path, untouched):
    x, y = blobs
    with untouched(encoder):
        model = with_training_images(own, blobs, n_nearest=4, n_images=2, progress=False)
    assert torch.equal(model(x), own(x))
    with torch.no_grad():
        distances = torch.cdist(own.prototypes.vectors, encoder(x))
    for j, label in enumerate(own.prototypes.labels):
        of_class = distances[j].masked_fill(y != label, torch.inf)
        assert model.prototypes.nearest[j].tolist() == of_class.argsort()[:4].tolist()
    assert model.images.shape == (4, 2, 8, 8, 1)
    shown = model.prototype_inputs()
    torch.testing.assert_close(shown, x[model.prototypes.nearest[:, 0]], atol=0.02, rtol=0)
    model.save(tmp_path / "model")
    assert torch.equal(load(tmp_path / "model", encoder)(x), own(x))
    write_report(model, blobs, tmp_path / "page.html", train=blobs, only=("transparency",), progress=False)
    assert own.images is None


def test_names_decide_which_class_is_which(own, blobs):
    x, y = blobs
    named = with_training_images(own, (x, np.array(["a", "b", "c"])[y.numpy()]), progress=False)
    assert torch.equal(named.prototypes.nearest, with_training_images(own, blobs, progress=False).prototypes.nearest)
    with pytest.raises(LookalikeError, match="'d'"):
        with_training_images(own, (x, np.array(["a", "b", "d"])[y.numpy()]), progress=False)


def test_what_the_model_knew_stays(own, blobs):
    known = PrototypeModel(
        own.encoder, own.prototypes, own.similarity, own.classifier,
        origin=Origin(value_range=torch.tensor([[-9.0], [9.0]]), provenance={"method": "ProtoPNet"}),
    )  # fmt: skip
    model = with_training_images(known, blobs, n_images=1, progress=False)
    torch.testing.assert_close(model.prototype_inputs(), blobs[0][model.prototypes.nearest[:, 0]], atol=0.04, rtol=0)
    assert with_training_images(known, blobs, n_images=0, progress=False).images is None
    assert model.value_range.tolist() == [[-9.0], [9.0]]
    assert model.provenance["method"] == "ProtoPNet"
    assert model.provenance["n_samples"] == 90


def test_what_has_no_training_images_is_refused(own, encoder, blobs, tmp_path):
    x, y = blobs
    with pytest.raises(LookalikeError, match="there are no training images"):
        with_training_images(own, TensorDataset(x[:0], y[:0]))
    patches = convert(nn.Sequential(*encoder, nn.Linear(6, 3)), blobs, 2, level="patch", progress=False)
    with pytest.raises(LookalikeError, match="level='patch'"):
        with_training_images(patches, blobs)
    with pytest.raises(LookalikeError, match="with_training_images"):
        write_report(own, blobs, tmp_path / "page.html", progress=False)


class Moody(nn.Module):
    """An encoder whose batch norm is still in train mode, as right after training."""

    def __init__(self, encoder):
        super().__init__()
        self.norm, self.encoder = nn.BatchNorm2d(1), encoder

    def forward(self, x):
        return self.encoder(self.norm(x))


def test_a_module_in_train_mode_is_run_in_eval_mode(own, encoder, blobs):
    x, y = blobs
    moody = Moody(encoder).eval()
    model = own.with_parts(encoder=moody)
    expected, proba = model.predict(x), model.predict_proba(x)
    moody.train()
    before = moody.norm.running_mean.clone()
    assert torch.equal(model.predict(x[:7]), expected[:7])
    torch.testing.assert_close(model.predict_proba(x, 9), proba)
    assert [one.prediction for one in explain(model, x[:7])] == expected[:7].tolist()
    torch.testing.assert_close(model(x).softmax(1), proba)
    card = evaluate(model, blobs, n_images=4, n_steps=2, n_draws=1, progress=False)
    assert card["accuracy"] == float((expected == y).double().mean())
    assert check_prototype_model(model, x[:4])
    assert torch.equal(moody.norm.running_mean, before)
    assert moody.training
    assert moody.norm.training


def test_an_encoder_that_returns_no_embeddings_is_refused_in_one_line(own, encoder, blobs):
    class Pair(nn.Module):
        def forward(self, x):
            return encoder(x), encoder(x)

    model = own.with_parts(encoder=Pair())
    for ask in (model.predict, lambda x: explain(model, x)):
        with pytest.raises(LookalikeError, match=r"returns a tuple and not embeddings \[N, D\]; wrap it"):
            ask(blobs[0][:2])


def test_a_similarity_of_ones_own_that_is_nan_is_refused(own, blobs):
    class Root(Similarity):
        name = "root"

        def forward(self, embeddings, prototypes):
            return (embeddings[:, None] - prototypes).sum(2).sqrt()

    model = own.with_parts(similarity=Root())
    for ask in (model.predict, model.predict_proba, lambda x: explain(model, x)):
        with pytest.raises(LookalikeError, match=r"the similarity 'root' is NaN for \d+ of \d+ embeddings"):
            ask(blobs[0])


def test_names_that_are_matched_with_numbers_by_order_are_told(encoder, blobs):
    x, y = blobs
    model = convert(nn.Sequential(*encoder, nn.Linear(6, 3)), blobs, 2, progress=False)
    assert model.class_names == ["0", "1", "2"]
    words = np.array(["zero", "one", "two"])[y.numpy()]
    with pytest.warns(LookalikeWarning, match="matched with them in their order: .*'one' is '0'"):
        evaluate(model, (x, words), only=("faithfulness",), progress=False)


def test_maps_that_are_empty_are_told_where_pixels_are_ordered_by_them(own, blobs):
    """A prototype of two classes has no lead over itself, of which its map is made."""
    vectors = own.prototypes.vectors[[0, 0, 1, 1]]
    shared = Prototypes(vectors, torch.tensor([0, 1, 2, 0]), ["a", "b", "c"])
    options = {"only": ("robustness",), "n_images": 4, "n_steps": 2, "n_draws": 1, "rule": "neuralized"}
    card = evaluate(own.with_parts(prototypes=shared), blobs, progress=False, **options)
    assert any("4 of 4 show no pixel above another" in note for note in card.notes)
