"""Baselines trained for longer and longer, until they are trained [ours].

The embedded data sets give each method the number of epochs that the small network needs, and a deeper network needs
more. Longer training may also only fit the training images better; so the table shows both parts.
"""

from collections.abc import Iterator
from dataclasses import replace

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench, title_of

# A training counts as long enough when twice the epochs raise the accuracy on the training images by no more than this,
# or could not.
# The test images have no say, so that their accuracy is that of a model which was not chosen by it.
_ENOUGH = 0.005
_MOST_DOUBLINGS = 4
_MOSTLY = 0.5  # a class with fewer test images right is mostly wrong
_COLUMNS = (
    Column("epochs", "epochs", 1, 0),
    Column("train_accuracy", "accuracy on training images %", 100, 1),
    Column("accuracy", "accuracy %", 100, 1),
    Column("difference", "minus black box, points", 100, 1),
    Column("lost_classes", "classes mostly wrong", 1, 1),
    Column("converted_accuracy", "accuracy of its KMEx %", 100, 1),
    Column("ghosting", "D_tsp"),
    Column("diversity", "D_dvs"),
)


def run_training_length(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Trains each baseline with twice the epochs again and again, until its training accuracy hardly rises."""
    rows = []
    for dataset, network in plan.places():
        for model in (model for model in plan.models if model != KMEX and "+" not in model):
            of_seeds = [
                list(_doubled_until_trained(bench, cells, subject))
                for subject in plan.subjects(dataset, network, model)
            ]
            of_seeds = [records for records in of_seeds if records]
            for length, position in (("as on the other pages", 0), ("until trained", -1)):
                records = [records[position] for records in of_seeds]
                if records:
                    names = (*table_names(dataset, network), title_of(model), length)
                    rows.append(Row(names, gather(records, _COLUMNS)))
    remark = (
        "*Until trained*: each seed's training is repeated from the start with twice the epochs until the accuracy on "
        f"the training images rises by at most {100 * _ENOUGH:.1f} points, or cannot rise by more, and at most "
        f"{_MOST_DOUBLINGS} times. Warm-up phases and a last phase of the classifier alone keep their length."
    )
    return Findings(("data", "network", "model", "training"), _COLUMNS, rows, {}, [remark])


def _doubled_until_trained(bench: Workbench, cells: Cells, subject: Subject) -> Iterator[Record]:
    """Yields the figures of each training of a subject, the shortest first."""
    epochs, before = bench.options(subject)["epochs"], None
    for _ in range(2 if bench.quick else 1 + _MOST_DOUBLINGS):
        longer = replace(subject, epochs=epochs)
        record = cells.get(f"training-length-{longer.name}", bench.key(longer), _measure, bench, longer)
        if record is None:
            return
        yield record | {"epochs": float(epochs)}
        is_risen_little = before is not None and record["train_accuracy"] - before <= _ENOUGH
        if is_risen_little or record["train_accuracy"] >= 1 - _ENOUGH:
            return
        epochs, before = 2 * epochs, record["train_accuracy"]


def _measure(bench: Workbench, subject: Subject) -> Record:
    """Trains a model and converts its encoder; measures both."""
    model, data, box = bench.model(subject), bench.data(subject), bench.measured_box(subject)
    converted = bench.model(replace(subject, model=f"{subject.model}+{KMEX}"))
    sections = ("faithfulness", "transparency", "diversity")
    measured = bench.evaluate(subject, model, data, box, only=sections)
    card, classes = measured.to_dict(), measured.details["faithfulness"][0]["per_class"]
    of_training = bench.evaluate(subject, model, data.train, None, only=("faithfulness",)).to_dict()
    of_converted = bench.evaluate(subject, converted, data, box, only=("faithfulness",)).to_dict()
    return {name: card[name] for name in ("accuracy", "ghosting", "diversity")} | {
        "train_accuracy": of_training["accuracy"],
        "difference": card["accuracy"] - card["black_box_accuracy"],
        "lost_classes": float(sum(entry["n"] > 0 and entry["accuracy"]["value"] < _MOSTLY for entry in classes)),
        "converted_accuracy": of_converted["accuracy"],
    }


EXPERIMENTS.register("training-length")(
    Experiment("Baselines trained for longer", "beyond the paper", run_training_length, alone=True)
)
