"""How does KMEx cope with classes of unequal size? A question that the paper leaves open (section 3.2)."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike._core.errors import LookalikeError
from lookalike.baselines import train
from lookalike.data import DataBundle, ImageArray, ImageFiles
from lookalike.encoder import LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.side_by_side import ACCURACY, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter, line_style
from lookalike.experiments.workbench import KMEX, Subject, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATIOS = (1, 2, 10, 100)  # share of images that the first class keeps, divided by the last one's
_PER_CLASS = 5
_PANEL = (4.6, 2.3)  # inches
# percent: every panel shows at least the range from here to 100, so that a difference of one image in a hundred does
# not fill a panel
_LARGEST_LOWER_LIMIT = 90

_COLUMNS = (
    ACCURACY,
    Column("common", "commonest third %", 100, 1),
    Column("rare", "rarest third %", 100, 1),
    GHOSTING,
    Column("n_prototypes", "prototypes", 1, 0),
)


def run_imbalance(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Thins the training classes, trains a black box on the remaining images, and converts it in three ways."""
    rows, panels_by_setting = [], {}
    for dataset, network in plan.places():
        names = table_names(dataset, network)
        records_by_model: dict[tuple[str, str], list[Record]] = {}
        panels: dict[str, Any] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            for ratio in _RATIOS:
                name, key = f"imbalance-{ratio}-{subject.name}", bench.key(subject, ratio=ratio, per_class=_PER_CLASS)
                record = cells.get(name, key, _measure_thinned, bench, subject, ratio)
                if record is None:
                    continue
                panels[f"1:{ratio}"] = {"class_names": record["class_names"], "images": record["images"]}
                for model, figures in record["models"].items():
                    records_by_model.setdefault((f"1:{ratio}", model), []).append(figures)
        for (ratio_title, model), records in records_by_model.items():
            rows.append(Row((*names, ratio_title, model), gather(records, _COLUMNS)))
            means = np.mean([record["classes"] for record in records], axis=0)
            panels[ratio_title].setdefault("accuracy", {})[model] = means.tolist()
        panels_by_setting[", ".join(names)] = panels
    remark = (
        "Class k of K keeps a share r^(−k / (K − 1)) of its training images, so that the last class keeps 1/r of them; "
        "the test images are unchanged. In proportion: each class has prototypes in proportion to its images, about "
        f"{_PER_CLASS} per class on average and at least one."
    )
    return Findings(
        ("data", "network", "imbalance", "model"), _COLUMNS, rows, {"per class": panels_by_setting}, [remark]
    )


def thin_classes(data: DataBundle, ratio: int, seed: int) -> DataBundle:
    """Returns the data with fewer training images from class to class; the last class keeps 1/ratio of its images.

    Raises:
        LookalikeError: If the training images are neither in memory nor in files.
    """
    samples = data.train
    if not isinstance(samples, ImageArray | ImageFiles):
        raise LookalikeError(f"cannot leave out samples of a {type(samples).__name__}")
    rng, kept_rows = np.random.default_rng(seed), []
    n_classes = len(data.class_names)
    # The classes shrink geometrically: with four classes and a ratio of 8, they keep 1, 1/2, 1/4 and 1/8.
    for k in range(n_classes):
        rows = rng.permutation(np.flatnonzero(samples.labels == k))
        share = ratio ** (-k / max(1, n_classes - 1))
        kept_rows.append(rows[: max(1, round(share * len(rows)))])
    return replace(data, train=samples.select(np.sort(np.concatenate(kept_rows))), attributes=None)


def proportional_numbers(images: Sequence[int], class_names: list[str], per_class: int = _PER_CLASS) -> dict[str, int]:
    """Returns each class's number of prototypes, in proportion to its images.

    The average is about ``per_class``; every class has at least one.
    """
    counts = np.asarray(images)
    numbers = np.maximum(1, np.round(per_class * len(class_names) * counts / counts.sum())).astype(int)
    return dict(zip(class_names, numbers.tolist(), strict=True))


def _measure_thinned(bench: Workbench, subject: Subject, ratio: int) -> Record:
    """Measures a black box trained on thinned classes, and its conversions with three numbers of prototypes."""
    data = thin_classes(bench.data(subject), ratio, subject.seed)
    images = np.bincount(data.train.labels).tolist()  # type: ignore[attr-defined]
    converter = Converter(bench, subject, data, _black_box(bench, subject, data, ratio))
    numbers: dict[str, Any] = {
        f"{_PER_CLASS} per class": _PER_CLASS,
        "in proportion": proportional_numbers(images, data.class_names),
        "auto": "auto",
    }
    models: Record = {}
    for label, number in numbers.items():
        model = converter.convert(n_prototypes=number)
        card = converter.evaluate(model, ("faithfulness", "transparency"))
        classes = card.details["faithfulness"][0]["per_class"]
        models["black box"] = _by_class(
            [_share(class_figures["black_box_accuracy"]) for class_figures in classes], images
        )
        models["black box"]["accuracy"] = card["black_box_accuracy"]
        models[f"KMEx, {label}"] = _by_class(
            [_share(class_figures["accuracy"]) for class_figures in classes], images
        ) | {
            "accuracy": card["accuracy"],
            "ghosting": card["ghosting"],
            "n_prototypes": float(len(model.prototypes)),
        }
    return {"class_names": data.class_names, "images": images, "models": models}


def _black_box(bench: Workbench, subject: Subject, data: DataBundle, ratio: int) -> LoadedClassifier:
    if ratio == 1:  # nothing is thinned, so the black box that all experiments share will do
        return bench.black_box(subject)
    bench.say(f"training {subject.name} on classes thin_classes to 1:{ratio}")
    options = bench.options(subject)
    box = train(
        "blackbox", data, options=options, seed=subject.seed, accelerator=bench.accelerator, progress=bench.progress
    ).model
    assert isinstance(box, LoadedClassifier)
    return box


def _share(figure: dict[str, float] | None) -> float:
    """Returns a class's accuracy.

    Raises:
        LookalikeError: If it has no test images.
    """
    if figure is None:
        raise LookalikeError("a class has no test images, so its accuracy cannot be compared")
    return figure["value"]


def _by_class(accuracies: list[float], images: Sequence[int]) -> Record:
    """Returns each class's accuracy, and the means over the commonest and the rarest third of the classes."""
    ordered = [accuracies[k] for k in sorted(range(len(images)), key=lambda k: -images[k])]
    third = max(1, len(ordered) // 3)
    return {"classes": accuracies, "common": fmean(ordered[:third]), "rare": fmean(ordered[-third:])}


def draw_imbalance(findings: Findings) -> "Figure":
    """Draws each class's accuracy: a row of panels per imbalance, a column per data set and network."""
    from matplotlib.figure import Figure

    from lookalike.plots.tiles import INK, plain_axes

    panels_by_setting: dict[str, dict[str, Any]] = findings.details["per class"]
    ratios = list(dict.fromkeys(ratio for panels in panels_by_setting.values() for ratio in panels))
    figure = Figure(figsize=(_PANEL[0] * len(panels_by_setting), _PANEL[1] * len(ratios)), layout="constrained")
    grid = figure.subplots(len(ratios), len(panels_by_setting), squeeze=False, sharey="row")
    for column, (setting, panels) in enumerate(panels_by_setting.items()):
        for line, ratio in enumerate(ratios):
            ax = grid[line, column]
            plain_axes(ax, _PANEL)
            if ratio not in panels:
                ax.set_axis_off()
                continue
            panel = panels[ratio]
            for position, (model, accuracies) in enumerate(panel["accuracy"].items()):
                ax.plot([100 * value for value in accuracies], label=model, **line_style(position))
            names = [f"{name}\n{n}" for name, n in zip(panel["class_names"], panel["images"], strict=True)]
            ax.set_xticks(range(len(names)), names, fontsize=8)
            ax.set_title(f"{setting}, {ratio}", fontsize=9, color=INK)
            if column == 0:
                ax.set_ylabel("accuracy %", color=INK, fontsize=9)
            if line == len(ratios) - 1:
                ax.set_xlabel("class, and its training images", color=INK, fontsize=9)
    for panels in grid:
        lowest = min((min(line.get_ydata()) for ax in panels for line in ax.lines), default=_LARGEST_LOWER_LIMIT)
        panels[0].set_ylim(min(_LARGEST_LOWER_LIMIT, lowest - 2), 101.5)
    handles, names = next(ax for ax in grid.flatten() if ax.axison).get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=2 * len(panels_by_setting), frameon=False, fontsize=8
    )
    return figure


EXPERIMENTS.register("imbalance")(Experiment("Unequal classes", "open question", run_imbalance, draw_imbalance))
