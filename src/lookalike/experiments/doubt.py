"""Do the promises of a calibrated model hold? Coverage and abstention over 100 random divisions [ours]."""

from typing import Any

import numpy as np

from lookalike._core.intervals import share
from lookalike.doubt.novelty import DEFAULT_NOVELTY
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import N_SPLITS, QUICK_SPLITS, Division, held_out, places_of
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model.calibrating import Promises, calibrated
from lookalike.model.doubting import confidences_of, doubt_of, novelty_of, sets_of

COVERAGES = (0.9, 0.95)
_ERROR, _CONFIDENCE = 0.02, 0.9
_ERROR_OF_FEW = 0.2  # of fewer images; 1% and 2% cannot be shown by some fifty
_SETS_SHARE = 0.67  # of the held-out images, for calibration
_LEAST_FOR_BOUND = 500  # held-out images
_LEAST_PER_CLASS = 30  # held-out images of each class: below, a class has too few for sets of its own
_PER_CLASS = ("per_class", "per_class_conservative")

_COLUMNS = (
    Column("covered_90", "covered, target 90 %", 100, 1),
    Column("covered_95", "covered, target 95 %", 100, 1),
    Column("size_95", "classes in a set", 1, 2),
    Column("empty_95", "empty sets %", 100, 1),
    Column("per_class_low", "per class, target 95 %: lowest", 100, 1),
    Column("per_class_high", "highest", 100, 1),
    Column("conservative_90", "conservative: target 90 %", 100, 1),
    Column("conservative_95", "target 95 %", 100, 1),
    Column("per_class_conservative_low", "per class, conservative: lowest", 100, 1),
    Column("per_class_conservative_high", "highest", 100, 1),
    Column("bound_held", "error bound held, of divisions %", 100, 1),
    Column("answered", "answered %", 100, 1),
    Column("unfamiliar", "called unfamiliar, target 1 %", 100, 2),
)


def run_doubt(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Calibrates and tests each model on many divisions of its held-out images."""
    n = QUICK_SPLITS if plan.quick else N_SPLITS
    rows, bounds = [], []
    for dataset, network in places_of(plan):
        records = []
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(
                subject, divisions=n, coverages=COVERAGES, share=_SETS_SHARE, novelty=DEFAULT_NOVELTY, draw=True
            )
            record = cells.get(f"doubt-{subject.name}", key, _measure, bench, subject, n)
            if record is not None:
                records.append(record)
        names = table_names(dataset, network)
        rows.append(Row(names, gather(records, _COLUMNS) | _extremes_of_classes(records)))
        bounds += _bound_sentence(", ".join(names), records, n)
    remarks = [
        f"Each figure is a mean over {n} random divisions of the held-out images into two thirds for calibration, of "
        "which a third fits temperature and novelty score, and one third for tests; every seed has its own network and "
        "its own divisions. *Per class*: sets with 95% coverage for each class; the coverage of the class with the "
        "lowest and the highest, each a mean over all divisions and seeds, where a class has "
        f"{_LEAST_PER_CLASS} images or more. *Conservative*: with the higher thresholds, without a draw. *Error bound "
        f"held*: share of divisions in which at most {100 * _ERROR:g}% of the answers on the test images were wrong "
        f"({100 * _ERROR_OF_FEW:g}% of the photographs', of which some fifty decide); promised are "
        f"{100 * _CONFIDENCE:g}%. Half of the digits and letters are test images of that, a third of the photographs. "
        "Each division of the photographs (`stamps`) converts a frozen network anew with 35% of them.",
        *bounds,
    ]
    return Findings(("data", "encoder"), _COLUMNS, rows, {}, remarks)


def _extremes_of_classes(records: list[Record]) -> dict[str, list[float]]:
    """Returns the coverage of the classes with the lowest and the highest, means over all seeds."""
    figures: dict[str, list[float]] = {}
    for name in _PER_CLASS:
        by_seed = [record[name] for record in records if name in record]
        if by_seed:
            means = np.array(by_seed).mean(0)
            figures |= {f"{name}_low": [float(means.min())], f"{name}_high": [float(means.max())]}
    return figures


def _bound_sentence(data: str, records: list[Record], n: int) -> list[str]:
    """Says in how many divisions the error bound held, with an interval."""
    if not records:
        return []
    n_held, n_silent = (round(n * sum(record[name] for record in records)) for name in ("bound_held", "silent"))
    interval = share(n_held, n * len(records))
    silent = f", in {n_silent} of them without any answer" if n_silent else ""
    return [
        f"Error bound, {data}: held in {n_held} of {interval.n} divisions{silent}: {100 * interval.value:.1f}% "
        f"({100 * interval.low:.1f} to {100 * interval.high:.1f}% if divisions were independent; they share images)."
    ]


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns the mean figures of one model over all divisions."""
    bench.say(f"dividing the held-out images of {subject.name} {n} times")
    pool = held_out(bench, subject)
    figures = [_figures(division, seed) for seed, division in enumerate(pool.divisions(n, _SETS_SHARE, subject.seed))]
    # with many images, half of them to test on, as errors are few; with few images, those of the sets
    error, sets_share = (_ERROR, 0.5) if len(pool.images.labels) >= _LEAST_FOR_BOUND else (_ERROR_OF_FEW, _SETS_SHARE)
    divisions = enumerate(pool.divisions(n, sets_share, subject.seed))
    bounds = [_bound(division, error, seed) for seed, division in divisions]
    figures = [of_split | bound_of_split for of_split, bound_of_split in zip(figures, bounds, strict=True)]
    names = [name for name in figures[0] if name not in _PER_CLASS]
    means: Record = {name: float(np.mean([figures_of_split[name] for figures_of_split in figures])) for name in names}
    for name in _PER_CLASS:
        by_class = [figures_of_split[name] for figures_of_split in figures if name in figures_of_split]
        if by_class:
            means[name] = np.nanmean(np.array(by_class), 0).tolist()
    return means


def _figures(division: Division, seed: int) -> dict[str, Any]:
    """Calibrates on one part of a division, and measures on the other."""
    model = calibrated(division.model, division.calibration, Promises(0.9), seed=seed)
    doubt, test = doubt_of(model), division.test
    labels, figures = test.labels, dict[str, Any]()
    rows = np.arange(len(labels))
    for coverage in COVERAGES:
        sets = sets_of(model, test.embeddings, coverage)
        conservative = sets_of(model, test.embeddings, coverage, conservative=True)
        title = f"{100 * coverage:.0f}"
        figures[f"covered_{title}"] = sets.members[rows, labels].mean()
        figures[f"conservative_{title}"] = conservative.members[rows, labels].mean()
        figures[f"size_{title}"] = sets.sizes.mean()
        figures[f"empty_{title}"] = (sets.sizes == 0).mean()
    if np.bincount(doubt.arrays()["labels"], minlength=model.n_classes).min() >= _LEAST_PER_CLASS * 0.6:
        for name, is_conservative in zip(_PER_CLASS, (False, True), strict=True):
            sets = sets_of(model, test.embeddings, 0.95, per_class=True, conservative=is_conservative)
            inside = sets.members[rows, labels]
            figures[name] = [inside[labels == k].mean() for k in range(model.n_classes)]
    threshold = doubt.unfamiliar_above
    if np.isfinite(threshold):
        figures["unfamiliar"] = (novelty_of(model, doubt, test.embeddings) > threshold).mean()
    return figures


def _bound(division: Division, error: float, seed: int) -> dict[str, Any]:
    """Chooses a threshold on one part of a division, and counts the errors of the answers on the other."""
    model = calibrated(division.model, division.calibration, Promises(0.9), seed=seed)
    predictions, confidences = (values.numpy() for values in confidences_of(model, division.test.embeddings))
    answered = confidences >= model.abstention(error, _CONFIDENCE).threshold
    wrong = predictions != division.test.labels
    is_kept = not answered.any() or wrong[answered].mean() <= error
    return {"answered": answered.mean(), "bound_held": float(is_kept), "silent": float(not answered.any())}


EXPERIMENTS.register("doubt")(Experiment("Promises of a calibrated model", "beyond the paper", run_doubt))
