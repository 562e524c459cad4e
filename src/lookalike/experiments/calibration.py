"""Calibration of the class probabilities with and without a fitted temperature, for every similarity [ours]."""

from typing import Any

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.side_by_side import ACCURACY
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Workbench
from lookalike.model.classifier import NearestPrototype
from lookalike.model.similarity import SIMILARITIES, make_similarity

_COLUMNS = (
    ACCURACY,
    Column("ece_at_1", "ECE, T = 1"),
    Column("ece", "ECE, fitted T"),
    Column("ece_black_box", "ECE of the black box"),
    Column("temperature", "T"),
)
_ONLY = ("faithfulness", "calibration")


def run_calibration(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the expected calibration error (ECE) with a temperature of 1 and with the fitted one."""
    rows = []
    for dataset, network in plan.places():
        records_by_similarity: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            converter = Converter(bench, subject)
            for similarity in SIMILARITIES:
                name, key = f"calibration-{similarity}-{subject.name}", bench.key(subject, similarity=similarity)
                record = cells.get(name, key, _calibration_errors, converter, similarity)
                if record is not None:
                    records_by_similarity.setdefault(similarity, []).append(record)
        rows += [
            Row((*table_names(dataset, network), label), gather(records, _COLUMNS))
            for label, records in records_by_similarity.items()
        ]
    remarks = [
        "*ECE*: expected calibration error on the test images, 15 bins. *T = 1*: the paper's reading, a softmax of "
        "unscaled similarities; `log` and `log-l2` take unscaled distances there, too. *Fitted T*: the default, "
        "fitted to training images that were held out from the prototypes that they are compared with."
    ]
    return Findings(("data", "network", "similarity"), _COLUMNS, rows, {}, remarks)


def _calibration_errors(converter: Converter, similarity: str) -> Record:
    """Measures a conversion with a fitted temperature and one with a temperature of 1."""
    converter.bench.say(f"converting {converter.subject.name} with {similarity}")
    model = converter.convert(similarity=similarity)
    fitted_card = converter.evaluate(model, _ONLY)
    unfitted_options: dict[str, Any] = {"similarity": similarity, "temperature": 1.0}
    if "scale" in make_similarity(similarity).lengths:  # otherwise the scale would be fitted to the data
        unfitted_options["similarity_options"] = {"scale": 1.0}
    unfitted_card = converter.evaluate(converter.convert(**unfitted_options), _ONLY)
    assert isinstance(model.classifier, NearestPrototype)  # every conversion makes one
    return {
        "accuracy": fitted_card["accuracy"],
        "ece_at_1": unfitted_card["calibration_error"],
        "ece": fitted_card["calibration_error"],
        "ece_black_box": fitted_card["calibration_error_black_box"],
        "temperature": model.classifier.temperature,
    }


EXPERIMENTS.register("calibration")(
    Experiment("Calibration of eleven similarities", "beyond the paper", run_calibration)
)
