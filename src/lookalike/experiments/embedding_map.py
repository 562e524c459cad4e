"""A map of the embedding with its prototypes, and how separable each class is (paper, Figure 1)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Subject, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS = 1500  # training samples drawn
_PANEL = 4.4  # inches

_COLUMNS = (Column("silhouette", "silhouette"), Column("margin", "margin"), Column("overlap", "overlap %", 100, 1))


def run_embedding(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures how separable every class is in each black box's embedding; projects the first seed's to a plane."""
    rows, maps = [], {}
    for dataset, network in plan.places():
        records = []
        for subject in plan.subjects(dataset, network, KMEX):
            record = cells.get(f"embedding-{subject.name}", bench.key(subject, dots=_DOTS), _diagnose, bench, subject)
            if record is not None:
                records.append(record)
        if not records:
            continue
        names = table_names(dataset, network)
        maps[", ".join(names)] = records[0]["map"]
        for k, name in enumerate(records[0]["class_names"]):
            class_records = [record["classes"][k] for record in records]
            rows.append(Row((*names, name), gather(class_records, _COLUMNS)))
    return Findings(("data", "network", "class"), _COLUMNS, rows, {"maps": maps})


def _diagnose(bench: Workbench, subject: Subject) -> Record:
    """Measures the separability of each class, and projects a random part of the embedding to a plane."""
    from lookalike.plots import project_2d

    converter = Converter(bench, subject)
    model = converter.convert()
    card = converter.evaluate(model, ("embedding",))
    _, train, _ = converter.embedded()
    drawn_rows = np.sort(np.random.default_rng(0).permutation(len(train))[:_DOTS])
    points, prototypes = project_2d(np.asarray(train.embeddings)[drawn_rows], model.prototypes.vectors.numpy())
    return {
        "classes": card.details["embedding"][0]["classes"],
        "class_names": model.class_names,
        "map": {
            "points": points.round(4).tolist(),
            "labels": np.asarray(train.labels)[drawn_rows].tolist(),
            "prototypes": prototypes.round(4).tolist(),
            "prototype_labels": model.prototypes.labels.tolist(),
            "class_names": model.class_names,
        },
    }


def draw_embedding(findings: Findings) -> "Figure":
    """Draws training samples as dots and prototypes as squares, on two principal components."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_map
    from lookalike.plots.tiles import INK

    maps: dict[str, dict[str, Any]] = findings.details["maps"]
    figure = Figure(figsize=(_PANEL * 1.15 * len(maps), _PANEL), layout="constrained")
    for ax, (title, map_values) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True):
        points, prototypes = np.array(map_values["points"]), np.array(map_values["prototypes"])
        plot_map(
            points, map_values["labels"], prototypes, map_values["prototype_labels"], map_values["class_names"], ax=ax
        )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("first principal component", color=INK, fontsize=9)
        ax.set_ylabel("second principal component", color=INK, fontsize=9)
    return figure


EXPERIMENTS.register("embedding")(
    Experiment("The embedding and its prototypes", "Figure 1", run_embedding, draw_embedding)
)
