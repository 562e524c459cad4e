"""Baselines trained with several numbers of prototypes: ghosts and captured attributes (paper, Figure 5)."""

from collections.abc import Iterator
from dataclasses import replace

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.tables import Row, gather
from lookalike.experiments.variants import (
    ATTRIBUTE_COLUMNS,
    ATTRIBUTE_SECTIONS,
    Converter,
    draw_attributes,
    lacks_attributes,
    with_ghost_counts,
)
from lookalike.experiments.workbench import KMEX, Subject, Workbench, title_of

_PER_CLASS, _PER_CLASS_QUICK = (2, 5, 10, 20), (2,)


def run_trained_attributes(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Trains each baseline with each number of prototypes, and measures it beside KMEx with the same number."""
    rows = []
    for dataset, network in plan.places():
        for model in (model for model in plan.models if "+" not in model):
            for number in _PER_CLASS_QUICK if bench.quick else _PER_CLASS:
                records = list(_records(bench, cells, plan.subjects(dataset, network, model), number))
                figures = [with_ghost_counts(record["figures"]) for record in records]
                if figures:
                    names = (*table_names(dataset, network), title_of(model), str(number))
                    rows.append(Row(names, gather(figures, ATTRIBUTE_COLUMNS)))
    return Findings(("data", "network", "model", "per class"), ATTRIBUTE_COLUMNS, rows)


def _records(bench: Workbench, cells: Cells, subjects: list[Subject], number: int) -> Iterator[Record]:
    for subject in subjects:
        trained = subject if subject.model == KMEX else replace(subject, n_prototypes=number)
        name = f"trained-attributes-{number}-{subject.name}"
        key = bench.key(trained, per_class=number, n_images=bench.n_images)
        record = cells.get(name, key, _measure, bench, trained, number)
        if record is not None:
            yield record


def _measure(bench: Workbench, subject: Subject, number: int) -> Record:
    converter = Converter(bench, subject)
    if subject.model == KMEX:
        return converter.measure({"n_prototypes": number}, ATTRIBUTE_SECTIONS)
    model = bench.model(subject)
    card = converter.evaluate(model, ATTRIBUTE_SECTIONS)
    return {"figures": {name: card[name] for name in card.runs} | {"n_prototypes": float(len(model.prototypes))}}


EXPERIMENTS.register("trained-attributes")(
    Experiment(
        "Attributes that the baselines' own prototypes show",
        "Figure 5",
        run_trained_attributes,
        draw_attributes,
        lacking=lacks_attributes,
    )
)
