"""Five right and five wrong predictions, drawn by chance, explained by parts [ours]."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from lookalike.data import Batches
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.part_models import SLOW_ENCODERS
from lookalike.experiments.part_subjects import PartSubject, subjects_of
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import Workbench
from lookalike.parts import ExplainedParts, explain_parts, right_and_wrong

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EACH = 5
_ROW_INCHES = 1.45
_COLUMNS = (
    Column("deciding", "positions that decide %", 100, 1),
    Column("explained", "likeness in linked regions %", 100, 1),
    Column("best_single", "in the three best single pairs %", 100, 1),
)


def run_part_pictures(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures how few positions decide, and how much of a likeness linked regions carry."""
    rows: list[Row] = []
    for names, subjects in subjects_of(plan, bench, SLOW_ENCODERS):
        records: dict[str, list[Record]] = {}
        for subject in subjects:
            record = cells.get(f"part-pictures-{subject.name}", {**subject.key, "each": _EACH}, _measure, subject)
            for name, figures in (record or {}).items():
                records.setdefault(name, []).append(figures)
        rows += [Row((*names, name), gather(figures, _COLUMNS)) for name, figures in records.items()]
    remark = (
        f"{_EACH} right and {_EACH} wrong predictions of each seed, drawn by a random number. *positions that decide*: "
        "the fewest without which the next class would be ahead. *likeness in linked regions*: share of the likeness "
        "with the nearest prototype's image that at most three pairs of regions carry."
    )
    return Findings(("data", "network", "predictions"), _COLUMNS, rows, {}, [remark])


def _measure(subject: PartSubject) -> Record:
    drawn = _drawn(subject)
    record: Record = {}
    for is_right, name in ((True, "right"), (False, "wrong")):
        explained = [parts for parts, label in drawn if (_predicted(parts) == label) == is_right]
        pairs = [parts.pairs for parts in explained if parts.pairs is not None and parts.pairs.likeness > 0]
        deciding = [float(parts.difference.deciding.mean()) for parts in explained if parts.difference is not None]
        if deciding and pairs:
            record[name] = {
                "deciding": fmean(deciding),
                "explained": fmean(pair.explained for pair in pairs),
                "best_single": fmean(pair.best_single for pair in pairs),
            }
    return record


def _drawn(subject: PartSubject) -> list[tuple[ExplainedParts, str]]:
    """Converts a classifier; explains right and wrong predictions by parts, each with the name of its true class."""
    model = subject.convert({})
    correct = [
        model.predict(batch.inputs).cpu() == torch.from_numpy(batch.labels) for batch in Batches(subject.bundle.test)
    ]
    rows = right_and_wrong(torch.cat(correct), _EACH, subject.seed)
    images = [subject.bundle.test[row] for row in rows]
    explained = explain_parts(model, torch.stack([image[0] for image in images]))
    return [(parts, model.class_names[int(image[1])]) for parts, image in zip(explained, images, strict=True)]


def _predicted(parts: ExplainedParts) -> str:
    assert parts.difference is not None  # data sets have several classes
    return parts.difference.class_name


def draw_part_pictures(plan: Plan, bench: Workbench) -> "dict[str, Callable[[], Figure]]":
    """Draws them for the first seed."""
    return {
        "-".join(names): partial(_sheet, subjects[0]) for names, subjects in subjects_of(plan, bench, SLOW_ENCODERS)
    }


def _sheet(subject: PartSubject) -> "Figure":
    """Draws a row per image: why this class rather than the next, and which regions are alike."""
    from matplotlib.figure import Figure

    drawn = _drawn(subject)
    figure = Figure(figsize=(7.0, _ROW_INCHES * len(drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), 2, squeeze=False, width_ratios=[2, 2.5])
    for (left, right), (parts, label) in zip(axes, drawn, strict=True):
        assert parts.difference is not None  # data sets have several classes
        assert parts.pairs is not None  # models of images have their prototypes'
        parts.difference.plot(left)
        parts.pairs.plot(right)
        is_right = _predicted(parts) == label
        left.set_title("right" if is_right else f"wrong: it is {label}", fontsize=8, loc="left")
    return figure


EXPERIMENTS.register("part-pictures")(
    Experiment("Right and wrong, by parts", "open question", run_part_pictures, pictures=draw_part_pictures)
)
