import numpy as np
import pytest
import torch

from lookalike._core.errors import LookalikeError
from lookalike.conversion.convert import convert
from lookalike.embedding import embed
from lookalike.metrics import accuracy, activation_counts, agreement, compare, ghosting, predict_store, store_ghosting


def test_ghosting_in_closed_form():
    owners = torch.tensor([0, 0, 1, 1])
    used = torch.tensor([[9.0, 1, 2, 2], [1, 9, 2, 2], [0, 0, 5, 4], [0, 0, 4, 5]])
    labels = torch.tensor([0, 0, 1, 1])
    assert ghosting(activation_counts(used, labels, owners)) == 0
    half = torch.tensor([[9.0, 1, 2, 2], [9, 1, 2, 2], [0, 0, 5, 4], [0, 0, 5, 4]])
    assert ghosting(activation_counts(half, labels, owners)) == 0.5
    assert activation_counts(half, labels, owners).tolist() == [2, 0, 2, 0]


def test_the_scope_decides_who_competes():
    owners, labels = torch.tensor([0, 1]), torch.tensor([0, 1])
    confused = torch.tensor([[1.0, 2.0], [1.0, 2.0]])  # prototype 1 wins every sample
    assert ghosting(activation_counts(confused, labels, owners, "class")) == 0
    assert ghosting(activation_counts(confused, labels, owners, "all")) == 0.5


@pytest.mark.parametrize("scope", ["class", "all"])
def test_activation_counts_equal_a_loop(scope):
    rng = np.random.default_rng(0)
    s, y, owners = rng.normal(size=(50, 6)), np.arange(50) % 3, np.array([0, 0, 1, 1, 2, 2])
    expected = np.zeros(6, int)
    for row, label in zip(s, y, strict=True):
        rivals = [j for j in range(6) if scope == "all" or owners[j] == label]
        winner = max(rivals, key=lambda j: row[j])
        expected[winner] += owners[winner] == label
    found = activation_counts(torch.from_numpy(s), torch.from_numpy(y), torch.from_numpy(owners), scope)
    assert found.tolist() == expected.tolist()


def test_shares():
    a, b = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])
    assert accuracy(a, b) == agreement(a, b) == 0.75
    for wrong in (torch.tensor([1]), torch.zeros(0, dtype=torch.int64)):
        with pytest.raises(LookalikeError):
            accuracy(wrong, torch.zeros(0, dtype=torch.int64))
    with pytest.raises(LookalikeError, match="'class' or 'all'"):
        activation_counts(torch.zeros(1, 1), a[:1], a[:1], "none")
    with pytest.raises(LookalikeError, match="no prototypes"):
        ghosting(torch.zeros(0))


def test_a_conversion_is_compared_with_its_black_box(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2)
    store = embed(sem, blobs)
    found = compare(sem, blobs)
    with torch.no_grad():
        black_box = sem.encoder.scores(x).argmax(1)
    assert found.accuracy == accuracy(sem.predict(x), y)
    assert found.black_box_accuracy == accuracy(black_box, y)
    assert found.agreement == agreement(sem.predict(x), black_box)
    assert found.n_samples == 90
    assert torch.equal(predict_store(sem, store), sem.predict(x))
    assert store_ghosting(sem, store) == 0


def test_a_black_box_of_other_classes_is_not_compared(blobs):
    wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1000))
    found = compare(convert(wide, blobs, n_prototypes=1), blobs)
    assert (found.black_box_accuracy, found.agreement) == (None, None)


def test_one_logit_is_a_classifier_of_two(blobs):
    x, y = blobs
    two = (x[y < 2], y[y < 2])
    single = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    found = compare(convert(single, two, n_prototypes=1), two)
    with torch.no_grad():
        expected = accuracy((single(two[0])[:, 0] > 0).long(), two[1])
    assert found.black_box_accuracy == expected
