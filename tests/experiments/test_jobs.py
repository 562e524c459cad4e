"""Cells in several processes: measured there once each, the baselines first; the experiment only reads them."""

import os

import pytest

from lookalike.experiments import Cells, Experiment, Findings, Plan, Workbench, measure_in_processes
from lookalike.experiments.jobs import _Listing


def _process(bench, subject):
    assert not bench._bundles, "data travel to no process"
    if subject.model == "flint":
        raise ValueError("a training that fails")
    return {"process": os.getpid()}


def _run(plan, bench, cells):
    for model in plan.models:
        for subject in plan.subjects("digits", "lookalike:small-cnn", model):
            options = {"subject": {"model": model, "seed": subject.seed}}
            record = cells.get(f"process-{subject.name}", options, _process, bench, subject)
            if record is not None and model == "kmex":
                cells.get(f"after-{subject.name}", options, lambda: {"process": os.getpid()})
    return Findings(("model",), (), [])


@pytest.fixture
def measured(tmp_path):
    plan = Plan(seeds=(0, 1), models=("protovae+kmex", "kmex", "flint"))
    bench, cells = Workbench(tmp_path / "models"), Cells(tmp_path / "cells")
    bench._bundles["digits", 32] = "the data"
    measure_in_processes(Experiment("", "", _run), plan, bench, cells, 2)
    return plan, bench, cells


def test_cells_are_measured_in_other_processes(measured):
    plan, bench, cells = measured
    _run(plan, bench, cells)
    kept = {name: cells.get(name, made["options"], pytest.fail)["process"] for name, made in cells.provenance.items()}
    by_others = {name for name, process in kept.items() if process != os.getpid()}
    names = [f"digits-small-cnn-{model}-seed{seed}" for model in ("protovae+kmex", "kmex") for seed in (0, 1)]
    assert by_others == {f"process-{name}" for name in names}
    assert set(kept) - by_others == {f"after-digits-small-cnn-kmex-seed{seed}" for seed in (0, 1)}
    assert set(cells.failed) == {f"process-digits-small-cnn-flint-seed{seed}" for seed in (0, 1)}


def test_a_baseline_is_trained_before_its_conversion_asks_for_it(tmp_path):
    listing = _Listing(tmp_path)
    _run(Plan(models=("protovae+kmex", "protovae")), Workbench(tmp_path), listing)
    assert [cell.needs_a_baseline for cell in listing.asked.values()] == [True, False]
    assert not list(tmp_path.iterdir())
