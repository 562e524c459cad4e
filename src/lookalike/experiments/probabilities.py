"""Can calibrated probabilities be read as chances? ECE, log loss and Brier score beside the black box's [ours]."""

import numpy as np

from lookalike.doubt.calibration import calibration_figures, ece_by_chance, softmax
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import N_SPLITS, QUICK_SPLITS, Division, held_out, places_of
from lookalike.experiments.paired import Pairing
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model.calibrating import Promises, calibrated
from lookalike.model.doubting import doubt_of

_SHARE = 0.67  # of the held-out images, for calibration
_FIGURES = ("ece", "log_loss", "brier")
_COLUMNS = (
    Column("ece", "ECE", 1, 4),
    Column("by_chance", "ECE by chance", 1, 4),
    Column("log_loss", "log loss", 1, 4),
    Column("brier", "Brier score", 1, 4),
)
_BLACK_BOX = "black box, with its temperature"


def run_probabilities(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Calibrates each model and its black box on many divisions of the held-out images, and measures on the others."""
    n = QUICK_SPLITS if plan.quick else N_SPLITS
    rows = []
    for dataset, network in places_of(plan):
        by_kind: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, divisions=n, share=_SHARE, by_chance=True)
            record = cells.get(f"probabilities-{subject.name}", key, _measure, bench, subject, n)
            for kind, figures in (record or {}).items():
                by_kind.setdefault(kind, []).append(figures)
        names = table_names(dataset, network)
        rows += [Row((*names, kind), gather(records, _COLUMNS)) for kind, records in by_kind.items()]
    remarks = [
        f"Each figure is a mean over {n} random divisions of the held-out images into two thirds for calibration and "
        "one third for tests. Both temperatures are fitted to the same third of the calibration images, by the same "
        "rule. ECE: expected calibration error, 15 bins; *by chance*: what it would be, on as many images, if the "
        "probabilities were exactly right. Brier score: summed over classes. Of the photographs (`stamps`), 35% are "
        "for conversion; their networks know ImageNet's classes or none, and the black box is a logistic regression on "
        "the same embeddings."
    ]
    return Findings(("data", "encoder", "probabilities"), _COLUMNS, rows, {}, remarks)


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns the mean figures of each kind of probabilities over all divisions."""
    bench.say(f"measuring the probabilities of {subject.name} {n} times")
    divisions = held_out(bench, subject).divisions(n, _SHARE, subject.seed, probed=True)
    figures = [_figures(division, seed) for seed, division in enumerate(divisions)]
    return {
        kind: {name: float(np.mean([of_split[kind][name] for of_split in figures])) for name in figures[0][kind]}
        for kind in figures[0]
    }


def _figures(division: Division, seed: int) -> dict[str, dict[str, float]]:
    """Calibrates on one part of a division, and measures on the other."""
    promises = Promises(0.9, novelty="distance")  # the fastest score: the probabilities do not depend on it
    model, test = calibrated(division.model, division.calibration, promises, seed=seed), division.test
    probabilities = {
        "before the calibration": division.model.probabilities_of(test.embeddings).double().numpy(),
        "calibrated": model.probabilities_of(test.embeddings).double().numpy(),
    }
    temperature = doubt_of(model).facts.black_box_temperature
    if test.logits is not None and temperature is not None:
        probabilities["black box, as it is"] = softmax(test.logits)
        probabilities[_BLACK_BOX] = softmax(test.logits / temperature)
    return {kind: _measured(values, test.labels) for kind, values in probabilities.items()}


def _measured(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    figures = calibration_figures(probabilities, labels)
    by_chance = ece_by_chance(probabilities.max(1))
    return {name: getattr(figures, name) for name in _FIGURES} | {"by_chance": by_chance}


EXPERIMENTS.register("probabilities")(
    Experiment(
        "Probabilities of a calibrated model",
        "beyond the paper",
        run_probabilities,
        pairing=Pairing(_BLACK_BOX, ("ece", "by_chance", *_FIGURES[1:])),
    )
)
