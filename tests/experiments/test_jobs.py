"""Cells in several processes: measured there once each, the baselines first; the experiment only reads them."""

import os
import pickle
import subprocess
import sys

import pytest

from lookalike.experiments import Cells, Experiment, Findings, Plan, Workbench, measure_in_processes
from lookalike.experiments.jobs import cells_of


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


def test_a_failed_training_is_not_repeated_in_a_process(tmp_path):
    first, again = (pickle.loads(pickle.dumps(Workbench(tmp_path))) for _ in range(2))
    assert first is again
    assert first is not pickle.loads(pickle.dumps(Workbench(tmp_path / "other")))


def test_conversions_of_baselines_come_last(tmp_path):
    plan = Plan(models=("protovae+kmex", "protovae", "kmex"))
    cells = cells_of(Experiment("", "", _run), plan, Workbench(tmp_path), tmp_path)
    assert [cell.options["subject"]["model"] for cell in cells] == ["protovae", "kmex", "protovae+kmex"]
    assert not list(tmp_path.iterdir())


def test_an_experiment_that_fails_is_left_to_report_it(tmp_path):
    def fail(*_):
        raise ValueError("no such thing")

    measure_in_processes(Experiment("", "", fail), Plan(), Workbench(tmp_path), Cells(tmp_path), 2)


@pytest.mark.slow
def test_the_command_writes_the_table_of_a_run_without_other_processes(image_folder, tmp_path):
    """In a process of its own: joblib starts none in those of the other tests."""
    rest = ["-d", str(image_folder), "--quick", "--models", "kmex,flint,flint+kmex"]
    tables = []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        command = [sys.executable, "-m", "lookalike", "reproduce", "accuracy", *rest, "--jobs", jobs, "-o", str(folder)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)
        assert ("measuring in 2 processes" in ended.stderr) <= (jobs == "2")
        tables.append((folder / "quick" / "accuracy.csv").read_text())
    assert tables[0] == tables[1]
