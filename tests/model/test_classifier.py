import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike._core.errors import LookalikeError
from lookalike.model.classifier import LinearHead, NearestPrototype
from lookalike.model.decision import make_classifier


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 8), k=st.integers(2, 5), per_class=st.integers(1, 4))
def test_max_reading_predicts_the_nearest_prototypes_class_and_is_most_sure_of_it(seed, n, k, per_class):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.permutation(np.repeat(np.arange(k), per_class)))
    similarities = torch.from_numpy(rng.normal(size=(n, len(labels))))
    classifier = NearestPrototype()
    nearest = labels[similarities.argmax(1)]
    assert torch.equal(classifier(similarities, labels, k).argmax(1), nearest)
    probabilities = classifier.probabilities(similarities, labels, k)
    assert torch.equal(probabilities.argmax(1), nearest)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(n, dtype=torch.float64))


def test_sum_reading_adds_the_shares_of_all_prototypes():
    labels = torch.tensor([0, 1, 1, 1])
    similarities = torch.tensor([[1.0, 0.9, 0.9, 0.9]])
    shares = np.exp([1.0, 0.9, 0.9, 0.9]) / np.exp([1.0, 0.9, 0.9, 0.9]).sum()
    found = NearestPrototype("sum").probabilities(similarities, labels, 2)[0]
    np.testing.assert_allclose(found, [shares[0], shares[1:].sum()], rtol=1e-6)
    # three near prototypes outvote the nearest one: this reading may differ from the prediction
    assert found.argmax() == 1
    assert NearestPrototype("sum")(similarities, labels, 2).argmax() == 0


def test_a_class_without_prototypes_is_never_predicted():
    scores = NearestPrototype()(torch.tensor([[-5.0, -6.0]]), torch.tensor([0, 2]), 3)
    assert scores.tolist() == [[-5.0, -np.inf, -6.0]]


def test_gradient_reaches_only_the_winning_prototypes():
    similarities = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    NearestPrototype()(similarities, torch.tensor([0, 0, 1]), 2).sum().backward()
    assert similarities.grad.tolist() == [[1.0, 0.0, 1.0]]


def test_linear_head_is_a_matrix_product_that_starts_for_its_own_class():
    labels = torch.tensor([0, 1, 1])
    head = LinearHead.from_labels(labels, 2)
    similarities = torch.tensor([[1.0, 2.0, 4.0]])
    assert head(similarities, labels, 2).tolist() == [[1 - 1 - 2, -0.5 + 2 + 4]]
    with pytest.raises(LookalikeError, match=r"needs \(3, 3\)"):
        head(similarities, labels, 3)


def test_classifiers_are_made_again_from_what_they_tell():
    assert make_classifier("nearest-prototype", {"reading": "sum"}, {}).reading == "sum"
    head = LinearHead.from_labels(torch.tensor([0, 1]), 2)
    again = make_classifier("linear", head.options(), head.state_dict())
    assert torch.equal(again.weight, head.weight)
    with pytest.raises(LookalikeError, match="no classifier is called"):
        make_classifier("oracle", {}, {})
    with pytest.raises(LookalikeError, match="'max' or 'sum'"):
        NearestPrototype("mean")
