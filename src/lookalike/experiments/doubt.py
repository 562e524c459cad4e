"""Do the promises of a calibrated model hold? Coverage, abstention and calibration over 100 random divisions [ours]."""

from typing import Any

import numpy as np

from lookalike.doubt.calibration import softmax
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import N_SPLITS, QUICK_SPLITS, Division, held_out
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics import expected_calibration_error
from lookalike.model.calibrating import Promises, calibrated
from lookalike.model.doubting import confidences_of, doubt_of, novelty_of, sets_of

COVERAGES = (0.9, 0.95)
_ERROR, _CONFIDENCE = 0.02, 0.9
_SETS_SHARE = 0.67  # of the held-out images, for calibration
_LEAST_FOR_BOUND = 500  # held-out images
_LEAST_PER_CLASS = 30  # held-out images of each class: below, coverage per class is rounded up by points

_COLUMNS = (
    Column("covered_90", "covered, target 90 %", 100, 1),
    Column("size_90", "classes in a set", 1, 2),
    Column("covered_95", "covered, target 95 %", 100, 1),
    Column("size_95", "classes in a set", 1, 2),
    Column("empty_95", "empty sets %", 100, 1),
    Column("class_low", "per class, target 95 %: lowest", 100, 1),
    Column("class_high", "highest", 100, 1),
    Column("bound_held", f"error bound {100 * _ERROR:g} % held, of divisions %", 100, 0),
    Column("answered", "answered %", 100, 1),
    Column("unfamiliar", "called unfamiliar, target 1 %", 100, 2),
    Column("ece_before", "ECE before", 1, 4),
    Column("ece", "ECE", 1, 4),
    Column("ece_black_box_before", "ECE of the black box, as it is", 1, 4),
    Column("ece_black_box", "with its temperature", 1, 4),
)


def run_doubt(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Calibrates and tests each model on many divisions of its held-out images."""
    n = QUICK_SPLITS if plan.quick else N_SPLITS
    rows = []
    for dataset, network in plan.places():
        records = []
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, divisions=n, coverages=COVERAGES, share=_SETS_SHARE)
            record = cells.get(f"doubt-{subject.name}", key, _measure, bench, subject, n)
            if record is not None:
                records.append(record)
        names = table_names(dataset, network)
        rows.append(Row(names, gather(records, _COLUMNS)))
    remarks = [
        f"Each figure is a mean over {n} random divisions of the held-out images into two thirds for calibration, of "
        "which a third fits temperature and novelty score, and one third for tests. *Per class*: sets with 95% "
        "coverage for each class; the mean coverage of the class with the lowest and the highest, where a class has "
        f"{_LEAST_PER_CLASS} images or more. *Error bound held*: share of divisions into halves in which at most that "
        f"share of the answers on the test half was wrong; promised are {100 * _CONFIDENCE:g}%. *ECE*: on the test "
        "part. The photographs (`stamps`) have a frozen network with ImageNet's classes, so there is no black box to "
        "compare with; each division converts it anew with 35% of the photographs."
    ]
    return Findings(("data", "network"), _COLUMNS, rows, {}, remarks)


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns the mean figures of one model over all divisions."""
    bench.say(f"dividing the held-out images of {subject.name} {n} times")
    pool = held_out(bench, subject)
    figures = [_figures(division, seed) for seed, division in enumerate(pool.divisions(n, _SETS_SHARE))]
    if len(pool.images.labels) >= _LEAST_FOR_BOUND:
        # half of the images to test on, as errors are few
        bounds = [_bound(division, seed) for seed, division in enumerate(pool.divisions(n, 0.5))]
        figures = [
            figures_of_split | bounds_of_split
            for figures_of_split, bounds_of_split in zip(figures, bounds, strict=True)
        ]
    names = [name for name in figures[0] if name != "per_class"]
    means: Record = {name: float(np.mean([figures_of_split[name] for figures_of_split in figures])) for name in names}
    by_class = [
        figures_of_split["per_class"] for figures_of_split in figures if figures_of_split["per_class"] is not None
    ]
    if by_class:
        per_class = np.nanmean(np.array(by_class), 0)
        means |= {"class_low": float(per_class.min()), "class_high": float(per_class.max())}
    return means


def _figures(division: Division, seed: int) -> dict[str, Any]:
    """Calibrates on one part of a division, and measures on the other."""
    model = calibrated(division.model, division.calibration, Promises(0.9), seed=seed)
    doubt, test = doubt_of(model), division.test
    labels, figures = test.labels, dict[str, Any]()
    rows = np.arange(len(labels))
    for coverage in COVERAGES:
        sets = sets_of(model, test.embeddings, coverage)
        title = f"{100 * coverage:.0f}"
        figures[f"covered_{title}"] = sets.members[rows, labels].mean()
        figures[f"size_{title}"] = sets.sizes.mean()
        figures[f"empty_{title}"] = (sets.sizes == 0).mean()
    figures["per_class"] = None
    if np.bincount(doubt.arrays()["labels"], minlength=model.n_classes).min() >= _LEAST_PER_CLASS * 0.6:
        inside = sets_of(model, test.embeddings, 0.95, per_class=True).members[rows, labels]
        figures["per_class"] = [inside[labels == k].mean() for k in range(model.n_classes)]
    threshold = doubt.unfamiliar_above
    if np.isfinite(threshold):
        figures["unfamiliar"] = (novelty_of(model, doubt, test.embeddings) > threshold).mean()
    figures["ece_before"] = _ece(division.model.probabilities_of(test.embeddings).numpy(), labels)
    figures["ece"] = _ece(model.probabilities_of(test.embeddings).numpy(), labels)
    if test.logits is not None and doubt.facts.black_box_temperature is not None:
        figures["ece_black_box_before"] = _ece(softmax(test.logits), labels)
        figures["ece_black_box"] = _ece(softmax(test.logits / doubt.facts.black_box_temperature), labels)
    return figures


def _bound(division: Division, seed: int) -> dict[str, Any]:
    """Chooses a threshold on one part of a division, and counts the errors of the answers on the other."""
    model = calibrated(division.model, division.calibration, Promises(0.9), seed=seed)
    predictions, confidences = (values.numpy() for values in confidences_of(model, division.test.embeddings))
    answered = confidences >= model.abstention(_ERROR, _CONFIDENCE).threshold
    wrong = predictions != division.test.labels
    is_kept = not answered.any() or wrong[answered].mean() <= _ERROR
    return {"answered": answered.mean(), "bound_held": float(is_kept)}


def _ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    import torch

    return expected_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(labels))


EXPERIMENTS.register("doubt")(Experiment("Promises of a calibrated model", "beyond the paper", run_doubt))
