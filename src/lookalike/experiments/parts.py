"""KMEx on patches beside KMEx on whole images (paper, Table 14 and Figure 10)."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from lookalike.conversion.convert import convert
from lookalike.data import Batches
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.paired import Pairing
from lookalike.experiments.side_by_side import ACCURACY
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model import PrototypeModel
from lookalike.plots import patch_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_CLASS = 10
_DRAWN = 5  # classes
_SMALLER = 0.55  # scale of the figure, so that its captions can be read at the width of a column
_WHOLE = "KMEx, whole images"
_COLUMNS = (ACCURACY, Column("single", "single patches %", 100, 1))


def run_patches(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the accuracy of the black box, of KMEx, and of KMEx on patches."""
    rows = []
    for dataset, network in plan.places():
        records_by_model: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, per_class=_PER_CLASS)
            record = cells.get(f"patches-{subject.name}", key, _accuracies, bench, subject)
            for label, figures in (record or {}).items():
                records_by_model.setdefault(label, []).append(figures)
        rows += [
            Row((*table_names(dataset, network), label), gather(records, _COLUMNS))
            for label, records in records_by_model.items()
        ]
    remark = (
        f"{_PER_CLASS} prototypes per class in both. Single patches: share of patches classified correctly, each alone."
    )
    return Findings(("data", "network", "model"), _COLUMNS, rows, {}, [remark])


def _convert_patches(bench: Workbench, subject: Subject) -> PrototypeModel:
    train = Batches(bench.data(subject).train)
    box = bench.black_box(subject)
    return convert(box, train, _PER_CLASS, level="patch", n_images=1, seed=subject.seed, progress=bench.progress)


def _accuracies(bench: Workbench, subject: Subject) -> Record:
    """Measures the accuracy of the black box, of KMEx, and of KMEx on patches."""
    bench.say(f"converting the patches of {subject.name}")
    of_patches = accuracy_by_patches(_convert_patches(bench, subject), Batches(bench.data(subject).test))
    converter = Converter(bench, subject)
    card = converter.evaluate(converter.convert(n_prototypes=_PER_CLASS), ("faithfulness",))
    return {
        "black box": {"accuracy": card["black_box_accuracy"]},
        _WHOLE: {"accuracy": card["accuracy"]},
        "KMEx, patches": of_patches,
    }


def accuracy_by_patches(model: PrototypeModel, batches: Batches) -> Record:
    """Returns the accuracy of a model of patches, on images and on single patches, each in [0, 1]."""
    correct_images, correct_patches = [], []
    for batch in batches:
        assert isinstance(batch.inputs, torch.Tensor)  # patches come from images, which are tensors
        correct_images.append(model.predict(batch.inputs).cpu().numpy() == batch.labels)
        correct_patches.append(model.segment(batch.inputs).classes.numpy() == batch.labels[:, None, None])
    return {
        "accuracy": float(np.concatenate(correct_images).mean()),
        "single": float(np.concatenate(correct_patches).mean()),
    }


def draw_patches(plan: Plan, bench: Workbench) -> "dict[str, Callable[[], Figure]]":
    """Draws the patch prototypes of a few classes for the first seed (paper, Figure 10)."""
    subjects = {
        "-".join(table_names(*data_and_network)): plan.subjects(*data_and_network, KMEX)[0]
        for data_and_network in plan.places()
    }
    return {name: partial(_gallery, bench, subject) for name, subject in subjects.items()}


def _gallery(bench: Workbench, subject: Subject) -> "Figure":
    model = _convert_patches(bench, subject)
    classes = list(range(min(_DRAWN, len(model.class_names))))
    ax = patch_axes([model.class_names[k] for k in classes], int(model.prototypes.labels.bincount().max()))
    figure = model.plot_gallery(ax, classes=classes).get_figure(root=True)
    assert figure is not None  # plot_gallery has just drawn on one
    figure.set_size_inches(*(figure.get_size_inches() * _SMALLER))
    return figure


EXPERIMENTS.register("patches")(
    Experiment(
        "KMEx on patches",
        "Table 14, Figure 10",
        run_patches,
        pictures=draw_patches,
        pairing=Pairing(_WHOLE, (ACCURACY.name,)),
    )
)
