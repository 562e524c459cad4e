"""Few images per class: the paper's defaults, ``auto``, and logistic regression on the same embedding [ours]."""

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.photographs import predict_by_prototypes
from lookalike.experiments.tables import Column, Row
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Workbench
from lookalike.metrics import plain_predictions

_IMAGES_PER_CLASS, _IMAGES_QUICK = (5, 10, 20, 40, 100), (5,)
_CHOICES: tuple[tuple[str, int | str], ...] = (("l2", 1), ("l2", 5), ("l2", "auto"), ("auto", 5), ("auto", "auto"))
_COLUMNS = (
    Column("logistic regression", "logistic regression %", 100, 1),
    *(Column(f"{name}, {number}", f"`{name}`, {number} %", 100, 1) for name, number in _CHOICES),
)


def run_few_images(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the test accuracy of prototypes of a few training images per class, drawn anew for each seed."""
    rows = []
    for dataset, network in plan.places():
        for n_images in _IMAGES_QUICK if bench.quick else _IMAGES_PER_CLASS:
            records = []
            for subject in plan.subjects(dataset, network, KMEX):
                key = bench.key(subject, n_train=n_images, choices=[list(choice) for choice in _CHOICES])
                name = f"few-images-{n_images}-{subject.name}"
                records.append(cells.get(name, key, _measure, Converter(bench, subject), n_images))
            found = [record for record in records if record is not None]
            values = {column.name: [record[column.name] for record in found] for column in _COLUMNS}
            if found:
                rows.append(Row((*table_names(dataset, network), str(n_images)), values))
    remarks = ["Test accuracy. Similarity and number of prototypes per class; the black box was trained on all images."]
    return Findings(("data", "network", "images per class"), _COLUMNS, rows, {}, remarks)


def _measure(converter: Converter, n_images: int) -> Record:
    _, train, test = converter.embedded()
    seed, labels = converter.subject.seed, np.asarray(train.labels)
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < n_images:
        raise LookalikeError(f"a class has {fewest} training images, fewer than the {n_images} that are to be drawn")
    rng = np.random.default_rng([seed, n_images])
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[:n_images] for k in np.unique(labels)])
    z, y, z_test = np.asarray(train.embeddings)[rows], labels[rows], np.asarray(test.embeddings)
    predicted = {"logistic regression": plain_predictions(z, y, z_test, seed=seed)["logistic_regression"]}
    for name, number in _CHOICES:
        predicted[f"{name}, {number}"] = predict_by_prototypes(z, y, z_test, name, number, seed)
    return {name: float((values == np.asarray(test.labels)).mean()) for name, values in predicted.items()}


EXPERIMENTS.register("few-images")(Experiment("Few images per class", "beyond the paper", run_few_images))
