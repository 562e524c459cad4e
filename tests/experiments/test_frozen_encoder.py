"""The comparison on an encoder that was trained on other images, on made-up embeddings with a known answer."""

import numpy as np
import pytest

from lookalike.embedding import EmbeddingStore
from lookalike.experiments import EXPERIMENTS, Cells, Plan, Workbench, frozen_encoder


@pytest.fixture
def embedded(monkeypatch):
    """Two classes: one on both sides of the other, so that one mean each tells them apart no better than chance."""
    rng = np.random.default_rng(0)

    def store(n):
        labels = np.arange(n) % 2
        centres = np.where(labels == 0, np.where(rng.random(n) < 0.5, -4.0, 4.0), 0.0)
        z = rng.normal(size=(n, 3)).astype(np.float32) * 0.3
        z[:, 0] += centres
        return EmbeddingStore(z, labels, np.arange(n))

    monkeypatch.setattr(frozen_encoder, "_embedded", lambda dataset: (store(240), store(200)))


def test_each_row_is_its_classifiers(embedded, tmp_path):
    plan, bench = Plan(seeds=(0, 1)), Workbench(tmp_path / "models")
    findings = EXPERIMENTS["frozen-encoder"].run(plan, bench, Cells(tmp_path / "cells"))
    accuracy = {row.names: row.values["accuracy"] for row in findings.rows}
    assert min(accuracy["digits", "prototypes, l2, 5"]) == 1
    assert min(accuracy["digits", "1-NN"]) == 1
    assert max(accuracy["digits", "prototypes, l2, 1"]) < 0.9
    reference = next(row for row in findings.rows if row.names[1] == "logistic regression")
    assert set(reference.values["difference"]) == {0.0}
    fifth = next(row for row in findings.rows if row.names[1] == "prototypes, l2, 5").values
    gaps = [a - b for a, b in zip(fifth["accuracy"], reference.values["accuracy"], strict=True)]
    assert fifth["difference"] == pytest.approx(gaps)
    assert all(low <= gap <= high for low, gap, high in zip(fifth["low"], gaps, fifth["high"], strict=True))
