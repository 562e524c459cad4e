"""How many prototypes per class? A question that the paper leaves open (section 5)."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter, draw_against_numbers
from lookalike.experiments.workbench import KMEX, Workbench
from lookalike.metrics import prototype_likeness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERS: tuple[int | str, ...] = (1, 2, 3, 5, 8, 12, 20, 35, 50, "auto")
_RESEEDED = 1000  # added to the seed for the second conversion, so that it is not another subject's seed

_HOW_MANY = (
    ACCURACY,
    AGREEMENT,
    Column("moved", "moved by reseeding"),
    Column("same_cluster", "same cluster (ARI)"),
    Column("attributes_captured", "captured attributes", 1, 1),
    Column("n_prototypes", "prototypes", 1, 1),
)


def run_how_many(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures accuracy, stability and attributes against the number of prototypes per class."""
    rows = []
    for dataset, network in plan.places():
        records_by_number: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            converter = Converter(bench, subject)
            for number in _NUMBERS:
                name = f"how-many-{number}-{subject.name}"
                record = cells.get(
                    name, bench.key(subject, number=number, reseeded=_RESEEDED), _stability, converter, number
                )
                if record is not None:
                    records_by_number.setdefault(str(number), []).append(record)
        for label, records in records_by_number.items():
            rows.append(Row((*table_names(dataset, network), label), gather(records, _HOW_MANY)))
    remarks = [
        "*moved by reseeding*: distance between prototypes of two seeds, matched within their class, over the distance "
        "of a training sample to its prototype; *same cluster*: adjusted Rand index of the two clusterings, the mean "
        "over classes."
    ]
    return Findings(("data", "network", "per class"), _HOW_MANY, rows, {}, remarks)


def _stability(converter: Converter, number: int | str) -> Record:
    """Converts twice, with two seeds, and measures the first model and the difference between both."""
    converter.bench.say(f"converting {converter.subject.name} twice with {number} per class")
    model = converter.convert(n_prototypes=number)
    reseeded = converter.convert(n_prototypes=number, seed=converter.subject.seed + _RESEEDED)
    _, train_store, _ = converter.embedded()
    data = converter.bench.data(converter.subject)
    sections = ["faithfulness", *(["attributes"] if data.attributes is not None else [])]
    card = converter.evaluate(model, sections)
    z, y = torch.from_numpy(np.asarray(train_store.embeddings)), torch.from_numpy(np.asarray(train_store.labels))
    moved, same_cluster = prototype_likeness(model.prototypes, reseeded.prototypes, z, y)
    return {
        **{name: card[name] for name in card.runs},
        "moved": moved,
        "same_cluster": same_cluster,
        "n_prototypes": float(len(model.prototypes)),
    }


def draw_how_many(findings: Findings) -> "Figure":
    """Draws the figures against the number of prototypes per class."""
    return draw_against_numbers(findings, _HOW_MANY[:-1], 2)


EXPERIMENTS.register("how-many")(Experiment("How many prototypes?", "open question", run_how_many, draw_how_many))
