"""Classes of data are matched with those of a model in one way, whatever is done with the data."""

from dataclasses import replace

import numpy as np
import pytest

from lookalike import convert, embed, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.editing import EditSession
from lookalike.model.class_labels import labels_in_model, numbers_of

MODEL = ["ant", "great white", "cat"]


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (None, [0, 2], [0, 2]),
        (MODEL, [1], [1]),
        (["cat", "Great_White", "ant"], [0, 1, 2], [2, 1, 0]),
        (["zebra", "cat"], [1, 1], [2, 2]),  # of a zebra there is no sample
        (["a", "b"], [], []),
    ],
)
def test_labels_are_renumbered_by_name(names, labels, expected):
    assert labels_in_model(np.array(labels, dtype=np.int64), names, MODEL, "test").tolist() == expected


@pytest.mark.parametrize(
    ("names", "labels", "told"),
    [
        (["zebra", "cat"], [0], "test data have a class 'zebra', which is none of the model's: ant, great white, cat"),
        (None, [3], "test data have a class 3; the model has 3 classes from 0"),
        (None, [-1], "test data have a class -1"),
    ],
)
def test_other_classes_are_refused(names, labels, told):
    with pytest.raises(LookalikeError, match=told):
        labels_in_model(np.array(labels), names, MODEL, "test")


def test_numbers_of_a_model_without_names_stand_for_any_names():
    assert labels_in_model(np.array([1, 0]), ["ant", "bee"], ["0", "1"], "test").tolist() == [1, 0]


def test_every_use_of_data_matches_alike(net, blobs):
    x, y = blobs
    model = convert(net, blobs, n_prototypes=2, class_names=MODEL, progress=False)
    store = replace(embed(model, blobs), class_names=["cat", "Great-White", "ANT"], labels=2 - y.numpy())
    assert evaluate(model, store, only=("faithfulness",), progress=False)["accuracy"] > 0.9
    EditSession(model, embed(model, blobs), validation=store)
    renamed = {"class_names": ["cat", "Great-White", "ANT"], "labels": 2 - y.numpy()}
    validation = embed(model, (x + 0.01, y))
    calibrated = model.calibrate(replace(validation, **renamed))
    assert calibrated.is_calibrated
    assert model.update(store, n_images=0).class_names == MODEL
    other = replace(store, class_names=["cat", "Great-White", "dog"])
    for given in (
        lambda: evaluate(model, other, only=("faithfulness",), progress=False),
        lambda: EditSession(model, embed(model, blobs), validation=other),
        lambda: model.calibrate(replace(validation, class_names=["cat", "great white", "dog"])),
    ):
        with pytest.raises(LookalikeError, match="a class 'dog', which is none of the model's"):
            given()
    assert model.update(other, n_images=0).class_names == [*MODEL, "dog"]


def test_labels_are_numbers_or_names():
    names = ["Crow", "owl"]
    assert numbers_of(["owl", "Crow"], names) == numbers_of(np.array([1, 0]), names) == [1, 0]
    with pytest.raises(LookalikeError, match=r"'owll' is none of the model's classes: .*did you mean 'owl'"):
        numbers_of(["owll"], names)
    with pytest.raises(LookalikeError, match="labels must be"):
        numbers_of(["owl", 1], names)
