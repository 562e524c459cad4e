"""Baselines trained with other numbers of prototypes: names, options, black boxes and figures."""

from dataclasses import replace

import pytest
import torch

from lookalike.data import load_training_data
from lookalike.experiments import EXPERIMENTS, Cells, Plan, Subject, Workbench
from lookalike.metrics.attributes import attribute_representation
from tests.experiments.few_images import few_of


@pytest.fixture(scope="module")
def whole():
    return load_training_data("styles", 32)


@pytest.fixture
def bench(tmp_path, monkeypatch, whole):
    bench = Workbench(tmp_path / "models", quick=True, progress=False)
    small = few_of(whole, 160, 40)
    monkeypatch.setattr(Workbench, "data", lambda *_: small)
    return bench


def test_a_subject_with_another_number_has_its_own_name_and_options_and_the_same_black_box(bench):
    default = Subject("styles", "lookalike:small-cnn", "protopnet", 1)
    other = replace(default, n_prototypes=7)
    assert default.name == "styles-small-cnn-protopnet-seed1"
    assert other.name == "styles-small-cnn-protopnet-7-per-class-seed1"
    assert (bench.options(default)["n_prototypes"], bench.options(other)["n_prototypes"]) == (20, 7)
    assert bench._box_subject(other) == bench._box_subject(default)
    assert "n_prototypes" not in bench.key(default)["subject"]
    assert bench.key(other)["subject"]["n_prototypes"] == 7


def test_the_figures_are_those_of_the_trained_model(bench, tmp_path):
    plan = Plan(("styles",), models=("kmex", "protopnet", "protopnet+kmex"), quick=True)
    findings = EXPERIMENTS["trained-attributes"].run(plan, bench, Cells(tmp_path / "cells"))
    assert [row.names for row in findings.rows] == [
        ("styles", "small-cnn", "KMEx", "2"),
        ("styles", "small-cnn", "ProtoPNet", "2"),
    ]
    subject = Subject("styles", "lookalike:small-cnn", "protopnet", 0, 2)
    model, data = bench.model(subject), bench.data(subject)
    assert len(model.prototypes) == 4
    nearest = model.prototypes.nearest[:, 0]
    values = findings.rows[1].values
    expected = attribute_representation(data.attributes.train, nearest)
    assert values["attributes_captured"] == [expected.captured]
    assert values["attribute_correlation_error"] == [pytest.approx(expected.correlation_error)]
    train = torch.stack([data.train[row][0] for row in range(len(data.train))])
    similarities = model.similarities(train)
    labels = torch.as_tensor(data.train.labels)
    others = model.prototypes.labels != labels[:, None]
    used = similarities.masked_fill(others, -torch.inf).argmax(1).unique()
    assert values["ghosted"] == [pytest.approx(4 - len(used))]
