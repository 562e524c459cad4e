"""All models side by side: black box, KMEx, each baseline, and KMEx of each baseline."""

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.measure import measured
from lookalike.experiments.tables import Column, Row
from lookalike.experiments.workbench import Workbench, title_of

COLUMNS = (
    Column("accuracy", "accuracy %", 100, 1),
    Column("agreement", "agreement %", 100, 1),
    Column("ghosting", "D_tsp"),
    Column("explanation_divergence", "D_fth"),
    Column("auroc", "AUROC"),
    Column("auroc_random", "in random order"),
    Column("diversity", "D_dvs"),
    Column("train_seconds", "training s", 1, 1),
    Column("predict_seconds", "prediction ms", 1000, 2),
)

# what the columns of a prototype model are called in its scorecard for its black box
_OF_BLACK_BOX = {
    "accuracy": "black_box_accuracy",
    "auroc": "auroc_black_box",
    "auroc_random": "auroc_black_box_random",
    "train_seconds": "black_box_train_seconds",
    "predict_seconds": "black_box_predict_seconds",
}


def run_baselines(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Trains, converts and measures every model on every data set and network."""
    rows: list[Row] = []
    for dataset in plan.datasets:
        for network in plan.networks:
            found = {model: _records(plan, bench, cells, dataset, network, model) for model in plan.models}
            first = next((records for records in found.values() if records), [])
            place = (dataset, network.partition(":")[2])
            if first:
                rows.append(Row((*place, title_of("blackbox")), _values(first, _OF_BLACK_BOX)))
            same = {column.name: column.name for column in COLUMNS}
            rows += [
                Row((*place, title_of(model)), _values(records, same)) for model, records in found.items() if records
            ]
    return Findings(("data", "network", "model"), COLUMNS, rows)


def _records(plan: Plan, bench: Workbench, cells: Cells, dataset: str, network: str, model: str) -> list[Record]:
    tried = [measured(bench, cells, subject) for subject in plan.subjects(dataset, network, model)]
    return [record for record in tried if record is not None]


def _values(records: list[Record], names: dict[str, str]) -> dict[str, list[float]]:
    return {
        name: values
        for name, key in names.items()
        if (values := [record["figures"][key] for record in records if key in record["figures"]])
    }


EXPERIMENTS.register("baselines")(
    Experiment("Black box, baselines, and KMEx of each", "section 4, Tables 3 to 8, 11 and 12", run_baselines)
)
