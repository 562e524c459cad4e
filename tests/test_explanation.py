import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.conversion.convert import convert
from lookalike.explanation import explain
from tests.small import bright_images, small_network


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2, class_names=["ant", "bee", "cat"])


def test_tells_the_prediction_and_the_nearest_prototypes_in_order(sem, blobs):
    x, y = blobs
    s, proba, predicted = sem.similarities(x), sem.predict_proba(x), sem.predict(x)
    for batch_size in (7, 500):
        found = explain(sem, x, n_nearest=4, labels=y, names=[f"f{i}" for i in range(90)], batch_size=batch_size)
        assert len(found) == 90
        for i, one in enumerate(found):
            assert one.prediction == int(predicted[i]) == one.likenesses[0].label
            assert one.class_name == ["ant", "bee", "cat"][one.prediction]
            assert one.probability == pytest.approx(float(proba[i].max()), abs=1e-5)
            values = [near.similarity for near in one.likenesses]
            np.testing.assert_allclose(values, s[i].sort(descending=True).values[:4], atol=1e-4)
            assert one.correct == bool(predicted[i] == y[i])
            assert one.name == f"f{i}"


def test_a_training_image_is_within_its_prototypes_range_and_noise_is_not(sem, blobs):
    x, _ = blobs
    assert not any(one.unfamiliar for one in explain(sem, x))
    few = convert(sem, blobs, n_prototypes=25)
    far = explain(few, 40 * torch.ones(1, 1, 8, 8))[0]  # too few behind each to tell: those of the class count
    assert far.unfamiliar
    assert far.likenesses[0].scope == "class"
    counts = few.prototypes.counts[few.prototypes.labels == far.prediction]
    n_counted = int(counts[counts > 1].sum())  # a prototype's only image is at distance 0 and tells nothing
    assert 10 <= n_counted < 30
    assert far.likenesses[0].scope_count == n_counted
    assert f"farther from it than any of {n_counted} training images of its class" in far.sentence()
    assert not any(one.unfamiliar for one in explain(few, x))
    y = torch.arange(12) % 3
    tiny = convert(sem, (x[:12], y), n_prototypes=1)
    assert explain(tiny, x[:1])[0].likenesses[0].scope == "model"
    assert "training images of all classes" in explain(tiny, 40 * torch.ones(1, 1, 8, 8))[0].sentence()
    in_threes = convert(sem, blobs, n_prototypes=10)
    noisy = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    beyond = [
        one
        for one in explain(in_threes, noisy)
        if not one.unfamiliar and (near := one.likenesses[0]).count > 1 and near.distance > near.farthest * 1.001
    ]
    assert beyond
    for one in beyond:
        assert "training images behind it, but not than those of its class from theirs" in one.sentence()
    strange = explain(sem, 40 * torch.ones(1, 1, 8, 8))[0]
    assert strange.unfamiliar
    assert strange.likenesses[0].percentile == 100
    assert "farther from it than all" in strange.sentence()
    assert explain(sem, x[:1])[0].sentence().startswith("This looks like prototype")


def test_where_each_image_is_a_prototype_none_is_unfamiliar(sem, blobs):
    """Rounding alone would be farther than all of them from theirs."""
    x, y = blobs[0][:30], blobs[1][:30]
    each = convert(sem, (x, y), n_prototypes=10)
    assert each.prototypes.counts.tolist() == [1] * 30
    for one in explain(each, x + 1e-6):
        assert not one.unfamiliar
        assert "farther" not in one.sentence()


def test_is_plain_json(sem, blobs):
    x, y = blobs
    found = explain(sem, x[:3], labels=y[:3])
    again = json.loads(json.dumps([one.to_dict() for one in found]))
    assert again[0]["nearest"][0]["class"] == found[0].class_name
    assert again[0]["true"] == "ant"
    assert again[0]["correct"] is True
    assert explain(sem, x[:1])[0].correct is None


def test_draws_the_images_and_frames_a_wrong_prediction_in_red(sem, blobs):
    x, y = blobs
    one = explain(sem, x[:1], labels=(y[:1] + 1) % 3)[0]
    assert one.correct is False
    ax = one.plot()
    pictures = [np.asarray(image.get_array()) for image in ax.images]
    np.testing.assert_array_equal(pictures[0], one.image[..., 0])
    np.testing.assert_array_equal(pictures[1], one.likenesses[0].image[..., 0])
    assert len(pictures) == 4
    assert any("wrong: it is" in text.get_text() for text in ax.texts)
    red = ax.patches[0].get_edgecolor()
    assert red[0] > 0.7 > 0.3 > red[1]
    right = explain(sem, x[:1], labels=y[:1])[0].plot()
    assert right.patches[0].get_edgecolor() != red
    plt.close("all")


def test_without_images_there_is_still_an_explanation(net, blobs):
    x, _ = blobs
    sem = convert(net, blobs, n_images=0)
    one = explain(sem, x[:1])[0]
    assert one.likenesses[0].image is None
    assert one.plot().images  # the input itself is shown
    vectors = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    sem = convert(vectors, (torch.randn(20, 4), torch.arange(20) % 2), n_prototypes=1)
    flat = explain(sem, torch.randn(2, 4))[0]
    assert flat.image is None
    with pytest.raises(LookalikeError, match="nothing to draw"):
        flat.plot()


def test_wrong_requests_are_told(sem, blobs):
    x, y = blobs
    with pytest.raises(LookalikeError, match="at least 1"):
        explain(sem, x, n_nearest=0)
    with pytest.raises(LookalikeError, match="90 inputs and 3 labels"):
        explain(sem, x, labels=y[:3])
    with pytest.raises(LookalikeError, match="labels -1 is no class; there are 0 to 2"):
        explain(sem, x[:1], labels=[-1])
    with pytest.raises(LookalikeError, match="90 inputs and 1 names"):
        explain(sem, x, names=["a"])


def test_heat_maps_are_those_of_the_relevance_engine(sem, blobs, untouched):
    from lookalike.relevance import lrp, prp

    x, y = blobs
    with untouched(sem.encoder.model):
        found = explain(sem, x[:4], n_nearest=2, labels=y[:4], relevance=True, composite="epsilon")
    numbers = torch.tensor([[near.prototype for near in one.likenesses] for one in found])
    maps = prp(sem, x[:4], numbers, "epsilon").pixels
    black_box = lrp(sem.encoder.model, x[:4], composite="epsilon").pixels
    own = prp(sem, sem.prototype_inputs(), torch.arange(6)[:, None], "epsilon").pixels[:, 0]
    for i, one in enumerate(found):
        np.testing.assert_allclose(one.black_box_heat_map, black_box[i], atol=1e-6)
        for rank, near in enumerate(one.likenesses):
            np.testing.assert_allclose(near.heat_map, maps[i, rank], atol=1e-6)
            np.testing.assert_allclose(near.prototype_heat_map, own[near.prototype], rtol=1e-3, atol=1e-5)
    n_shown = len(found[0].shown)  # pictures, the black box's map, and two maps each
    assert len(found[0].plot().images) == 1 + n_shown + 1 + 2 * n_shown
    plt.close("all")
    assert explain(sem, x[:1])[0].likenesses[0].heat_map is None


@pytest.fixture
def passes_of(sem):
    """Counts how often an image passed through the network, whoever ran it."""
    batches = []
    first = next(module for module in sem.encoder.model.modules() if not list(module.children()))
    with torch.no_grad():
        hook = first.register_forward_hook(lambda module, args, output: batches.append(args[0].clone()))

    def count(image):
        return sum(int((batch == image).flatten(1).all(1).sum()) for batch in batches)

    yield count
    hook.remove()


def test_an_input_passes_once_for_its_prediction_and_once_for_all_its_maps(sem, blobs, passes_of):
    x, y = blobs
    image, label = x[:1] + 0.01, (y[:1] + 1) % 3
    (one,) = explain(sem, image, n_nearest=2, labels=label, relevance=True)
    assert one.contrast is not None
    assert all(near.heat_map is not None for near in one.shown)
    assert one.black_box_heat_map is not None
    assert passes_of(image[0]) == 2


def test_a_prototypes_image_passes_once_for_all_batches(sem, blobs, passes_of):
    from lookalike.relevance import prp

    x, _ = blobs
    own = prp(sem, sem.prototype_inputs(), torch.arange(6)[:, None]).pixels[:, 0]
    before = [passes_of(image) for image in sem.prototype_inputs()]
    found = explain(sem, x[:12] + 0.01, n_nearest=2, relevance=True, batch_size=3)
    shown = {near.prototype for one in found for near in one.shown}
    passes = [passes_of(image) - n for image, n in zip(sem.prototype_inputs(), before, strict=True)]
    checks = [n - (prototype in shown) for prototype, n in enumerate(passes)]
    assert all(n in (0, 1) for n in checks)  # the first of a batch passes once more, to check the engine
    assert all(near.prototype_heat_map is not None for one in found for near in one.shown)
    for one in found:
        for near in one.likenesses:
            np.testing.assert_allclose(near.prototype_heat_map, own[near.prototype], rtol=1e-3, atol=1e-5)


def test_contrasts_of_few_inputs_have_the_maps_that_they_have_alone(sem, blobs):
    x, y = blobs
    labels = y[:8].clone()
    labels[5] = (labels[5] + 1) % 3
    together = explain(sem, x[:8], n_nearest=1, labels=labels, relevance=True)[5]
    (alone,) = explain(sem, x[5:6], n_nearest=1, labels=labels[5:6], relevance=True)
    assert together.contrast.prototype == alone.contrast.prototype
    np.testing.assert_allclose(together.contrast.heat_map, alone.contrast.heat_map, rtol=1e-3, atol=1e-5)


def test_a_label_beyond_the_classes_is_refused():
    class Labelled(torch.utils.data.Dataset):
        classes = ("0", "1", "2")

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return bright_images(4)[0][index], (0, 1, 255, 2)[index]

    model = convert(small_network(), bright_images(30), 1, progress=False)
    with pytest.raises(LookalikeError, match="labels 255 is no class; there are 0 to 2"):
        explain(model, Labelled())
