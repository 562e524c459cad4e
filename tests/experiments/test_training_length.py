"""Baselines that are trained for longer: when it is enough, and what is measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lookalike.data import load_training_data
from lookalike.experiments import EXPERIMENTS, Cells, Plan, Subject, Workbench, training_length, workbench
from tests.experiments.few_images import few_of

PROTOPNET = Subject("digits", "lookalike:small-cnn", "protopnet", 1)


@pytest.fixture(scope="module")
def whole():
    return load_training_data("digits", 32)


@pytest.fixture
def bench(tmp_path, monkeypatch, whole):
    bench = Workbench(tmp_path / "models", quick=True, progress=False)
    small = few_of(whole, 60, 20)
    monkeypatch.setattr(Workbench, "data", lambda *_: small)
    for method in ("protopnet", "blackbox"):
        monkeypatch.setitem(workbench.QUICK_EPOCHS, method, 1)
    return bench


def test_a_subject_with_another_length_has_its_own_name_and_options_and_the_same_black_box(bench):
    longer = replace(PROTOPNET, epochs=24)
    assert longer.name == "digits-small-cnn-protopnet-24-epochs-seed1"
    assert bench.options(longer) == {**bench.options(PROTOPNET), "epochs": 24}
    assert bench._box_subject(longer) == bench._box_subject(PROTOPNET)
    assert "epochs" not in bench.key(PROTOPNET)["subject"]
    assert bench.key(longer)["subject"]["epochs"] == 24


@pytest.mark.parametrize(
    ("accuracies", "lengths"),
    [
        ((0.8, 0.9, 0.904, 1.0), [12, 24, 48]),  # the third rose by less than half a point
        ((0.8, 0.7, 1.0), [12, 24]),  # longer is worse
        ((0.8, 0.996, 1.0), [12, 24]),  # it cannot rise by more
        ((0.1, 0.3, 0.5, 0.7, 0.9, 1.0), [12, 24, 48, 96, 192]),  # never enough: four doublings
        ((0.8, None, 0.9), [12]),  # a training that failed
    ],
)
def test_epochs_are_doubled_until_the_training_accuracy_hardly_rises(tmp_path, monkeypatch, accuracies, lengths):
    values = iter(accuracies)

    def measure(_bench, _subject):
        accuracy = next(values)
        if accuracy is None:
            raise ValueError("diverged")
        return {"train_accuracy": accuracy, "accuracy": accuracy / 2}

    monkeypatch.setattr(training_length, "_measure", measure)
    bench, cells = Workbench(tmp_path, progress=False), Cells(tmp_path / "cells")
    plan = Plan(("digits",), seeds=(1,), models=("kmex", "protopnet", "protopnet+kmex"))
    rows = EXPERIMENTS["training-length"].run(plan, bench, cells).rows
    if len(lengths) == 1:
        assert list(cells.failed) == ["training-length-digits-small-cnn-protopnet-24-epochs-seed1"]
    assert [row.names for row in rows] == [
        ("digits", "small-cnn", "ProtoPNet", "as on the other pages"),
        ("digits", "small-cnn", "ProtoPNet", "until trained"),
    ]
    assert [row.values["epochs"] for row in rows] == [[lengths[0]], [lengths[-1]]]
    last = accuracies[len(lengths) - 1]
    assert [row.values["accuracy"] for row in rows] == [[accuracies[0] / 2], [last / 2]]


def test_each_seed_counts_once_at_the_length_that_it_needs(tmp_path, monkeypatch):
    accuracies = {0: {12: 0.9, 24: 0.9}, 1: {12: 0.5, 24: 0.7, 48: 0.7}}

    def measure(_bench, subject):
        return {"train_accuracy": accuracies[subject.seed][subject.epochs]}

    monkeypatch.setattr(training_length, "_measure", measure)
    plan = Plan(("digits",), seeds=(0, 1), models=("protopnet",))
    rows = EXPERIMENTS["training-length"].run(plan, Workbench(tmp_path, progress=False), Cells(tmp_path / "cells")).rows
    assert [row.values for row in rows] == [
        {"epochs": [12, 12], "train_accuracy": [0.9, 0.5]},
        {"epochs": [24, 48], "train_accuracy": [0.9, 0.7]},
    ]


def test_the_figures_are_those_of_the_trained_model(bench, tmp_path):
    plan = Plan(("digits",), seeds=(1,), models=("protopnet",), quick=True)
    rows = EXPERIMENTS["training-length"].run(plan, bench, Cells(tmp_path / "cells")).rows
    assert rows[0].names == ("digits", "small-cnn", "ProtoPNet", "as on the other pages")
    data, model = bench.data(PROTOPNET), bench.model(replace(PROTOPNET, epochs=1))
    converted = bench.model(replace(PROTOPNET, epochs=1, model="protopnet+kmex"))

    def accuracy(predict, part):
        images = torch.stack([part[row][0] for row in range(len(part))])
        return float((predict(images).argmax(1) == torch.as_tensor(np.asarray(part.labels))).float().mean())

    figures = {name: values[0] for name, values in rows[0].values.items()}
    assert figures["train_accuracy"] == pytest.approx(accuracy(model, data.train))
    assert figures["accuracy"] == pytest.approx(accuracy(model, data.test))
    predicted = model(torch.stack([data.test[row][0] for row in range(len(data.test))])).argmax(1).numpy()
    truth = np.asarray(data.test.labels)
    recalls = [(predicted[truth == k] == k).mean() for k in range(10) if (truth == k).any()]
    assert figures["lost_classes"] == sum(recall < 0.5 for recall in recalls)
    assert figures["converted_accuracy"] == pytest.approx(accuracy(converted, data.test))
    box = bench.black_box(PROTOPNET).model.eval()
    with torch.no_grad():
        assert figures["difference"] == pytest.approx(accuracy(model, data.test) - accuracy(box, data.test))
