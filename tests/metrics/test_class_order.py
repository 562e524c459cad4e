"""A black box whose outputs are in another order, or that is no better than chance, is not passed over in silence."""

import pytest
import torch
from torch import nn

from lookalike import convert, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.encoder import LoadedClassifier, Outputs
from lookalike.metrics import compare
from lookalike.metrics.class_order import better_order, compare_with_labels


def drawn(n_classes, per_class, right=1.0, order=None, seed=0):
    """Labels, and outputs of a network that is right so often and whose output ``order[k]`` is class k."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat(per_class)
    guesses = torch.randint(n_classes, labels.shape, generator=generator)
    said = torch.where(torch.rand(labels.shape, generator=generator) < right, labels, guesses)
    order = torch.arange(n_classes) if order is None else torch.as_tensor(order)
    return labels, order[said]


def names(n):
    return [f"class {chr(97 + k)}" for k in range(n)]


@pytest.mark.parametrize(
    ("n_classes", "per_class", "right", "moved"),
    [(2, 10, 1.0, 2), (3, 10, 0.9, 3), (10, 4, 1.0, 10), (10, 20, 0.5, 10), (10, 10, 0.95, 2), (100, 5, 0.4, 100)],
)
def test_another_order_is_found(n_classes, per_class, right, moved):
    order = torch.arange(n_classes)
    order[:moved] = order[:moved].roll(1)
    labels, predicted = drawn(n_classes, per_class, right, order)
    standing = compare_with_labels(labels, predicted, Outputs(None, n_classes), names(n_classes))
    assert standing.predictions is None
    assert standing.order["accuracy_reordered"] > standing.order["accuracy_as_taken"]
    fits = {pair["output"]: pair["fits"] for pair in standing.order["pairs"]}
    right_pairs = sum(fits.get(int(order[k])) == names(n_classes)[k] for k in range(moved))
    assert right_pairs >= 0.8 * moved
    assert "--class-order" in standing.notes[0]
    assert "withheld" in standing.verdict_sentences[0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("n_classes", "per_class", "right"),
    [(2, 3, 0.5), (2, 50, 0.0), (3, 4, 0.3), (10, 1, 1.0), (10, 2, 0.0), (10, 30, 0.1), (50, 2, 0.0), (5, 20, 0.8)],
)
def test_chance_finds_no_other_order(n_classes, per_class, right, seed):
    labels, predicted = drawn(n_classes, per_class, right, seed=seed)
    assert better_order(labels, predicted, torch.arange(n_classes), names(n_classes)) is None


def test_a_network_that_always_says_the_same_is_not_reordered():
    labels = torch.tensor([0] * 90 + [1] * 10 + [2] * 10)
    for said in range(3):
        predicted = torch.full_like(labels, said)
        assert better_order(labels, predicted, torch.arange(3), names(3)) is None


def test_classes_that_only_differ_in_groups_are_not_reordered():
    """It tells pairs of classes apart and guesses within them."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(20).repeat(4)
        predicted = labels // 2 * 2 + torch.randint(2, labels.shape, generator=generator)
        assert better_order(labels, predicted, torch.arange(20), names(20)) is None


def test_timms_order_is_told_by_name():
    folders = sorted(map(str, range(1, 13)))  # 1, 10, 11, 12, 2, …
    natural = sorted(folders, key=int)
    labels = torch.arange(12).repeat(3)
    predicted = torch.tensor([natural.index(folders[k]) for k in labels.tolist()])
    found = compare_with_labels(labels, predicted, Outputs(None, 12), folders)
    assert found.order["natural"]
    assert "--class-order natural" in found.notes[0]
    named = compare_with_labels(labels, predicted, Outputs(None, 12, names=tuple(natural)), folders)
    assert torch.equal(named.predictions, labels)


def test_a_prediction_of_another_class_is_wrong_and_counted():
    outputs = Outputs(None, 4, names=("dog", "b", "a", "eel"))
    standing = compare_with_labels(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 1, 0]), outputs, ["a", "b"])
    assert standing.predictions.tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(("right", "at_chance"), [(0.0, True), (1.0, False), (0.7, False)])
def test_chance_gets_a_sentence(right, at_chance):
    labels, predicted = drawn(4, 50, right, seed=3)
    standing = compare_with_labels(labels, predicted, Outputs(None, 4), names(4))
    assert (standing.chance is not None) == at_chance
    assert any("cannot be told from chance" in sentence for sentence in standing.verdict_sentences) == at_chance


def test_one_class_always_is_chance_however_often_it_occurs():
    labels = torch.tensor([0] * 95 + [1] * 5)
    assert compare_with_labels(labels, torch.zeros_like(labels), Outputs(None, 2), ["a", "b"]).chance == pytest.approx(
        0.95
    )


@pytest.fixture
def permuted(blobs):
    """A network that tells the blobs apart, its outputs in the order 2, 0, 1."""
    x, y = blobs
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    means = torch.stack([x[y == k].flatten(1).mean(0) for k in (2, 0, 1)])
    with torch.no_grad():
        net[1].weight.copy_(means)
        net[1].bias.copy_(-means.square().sum(1) / 2)
    return net


def test_evaluation_withholds_what_an_unknown_order_would_falsify(permuted, blobs):
    x, y = blobs
    data = (x, y)
    sem = convert(permuted, data, n_prototypes=2, progress=False, class_names=["ant", "bee", "cat"])
    card = evaluate(sem, data, only=("faithfulness",), progress=False)
    assert set(card.runs) == {"accuracy"}
    values = card.to_dict()
    assert values["agreement"] is None
    assert values["details"]["faithfulness"][0]["black_box"]["withheld"]
    assert any("output 0 is 'cat', not 'ant'" in note for note in card.notes)
    assert any("withheld" in sentence for sentence in card.verdict())
    assert not any("original's" in sentence or "agrees" in sentence for sentence in card.verdict())
    found = compare(sem, data)
    assert (found.black_box_accuracy, found.agreement) == (None, None)
    assert "output 0 is 'cat'" in found.to_dict()["notes"][0]


def test_a_class_order_sets_it_right(permuted, blobs):
    order = ["cat", "ant", "bee"]
    classes = ["ant", "bee", "cat"]
    sem = convert(permuted, blobs, n_prototypes=2, progress=False, class_names=classes)
    for model, options in (
        (sem, {"class_order": order}),
        (sem, {"black_box": permuted, "class_order": "cat,ant,bee"}),
        (convert(permuted, blobs, n_prototypes=2, class_order=order, progress=False, class_names=classes), {}),
    ):
        card = evaluate(model, blobs, only=("faithfulness",), progress=False, **options)
        assert (card["black_box_accuracy"], card["agreement"]) == (1.0, 1.0)
    with pytest.raises(LookalikeError, match="2 names and the network 3 classes"):
        evaluate(sem, blobs, class_order=["a", "b"], progress=False)
    with pytest.raises(LookalikeError, match="does not name the classes 'cat' once each"):
        convert(permuted, blobs, class_order=["dog", "ant", "bee"], class_names=classes)


def test_a_subset_of_the_models_classes(permuted, blobs):
    x, y = blobs
    two = (x[y < 2], y[y < 2])
    permuted.class_names = ["cat", "ant", "bee"]
    sem = convert(permuted, two, n_prototypes=2, progress=False, class_names=["ant", "bee"])
    card = evaluate(sem, two, only=("faithfulness",), progress=False)
    assert (card["black_box_accuracy"], card["agreement"]) == (1.0, 1.0)
    with torch.no_grad():
        permuted[1].bias[0] += 1e4  # everything is a cat now
    details = evaluate(sem, two, only=("faithfulness",), progress=False).details["faithfulness"][0]
    assert details["black_box_accuracy"]["value"] == 0
    assert details["elsewhere"] == len(two[1])


@pytest.mark.parametrize(("untested", "says"), [((1,), "'bee' has no test image"), ((1, 2), "2 classes have no test")])
def test_classes_without_a_test_image_are_named(permuted, blobs, untested, says):
    x, y = blobs
    sem = convert(permuted, blobs, n_prototypes=2, progress=False, class_names=["ant", "bee", "cat"])
    tested = ~torch.isin(torch.as_tensor(y), torch.tensor(untested))
    data = (x[tested], torch.as_tensor(y)[tested])
    assert any(note.startswith(says) for note in compare(sem, data).notes)
    assert any(note.startswith(says) for note in evaluate(sem, data, only=("faithfulness",), progress=False).notes)
    assert not any("no test image" in note for note in compare(sem, blobs).notes)


def test_a_black_box_whose_weights_have_no_head_has_no_predictions(net, blobs):
    sem = convert(net, blobs, n_prototypes=1, progress=False)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)).eval()
    loaded = LoadedClassifier(encoder, {"source": "file", "name": "x"}, None, None, "output")
    with pytest.raises(LookalikeError, match="no trained head: there are no predictions to compare with"):
        evaluate(sem, blobs, black_box=loaded, only=("faithfulness",))
    named = LoadedClassifier(net, {"source": "file", "name": "x"}, None, None, None)
    assert evaluate(sem, blobs, black_box=named, only=("faithfulness",))["agreement"] > 0
