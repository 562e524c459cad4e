"""A question that the paper leaves open (section 3.2): what of classes of unequal size?"""

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
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, named
from lookalike.experiments.side_by_side import ACCURACY, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter, line_style
from lookalike.experiments.workbench import KMEX, Subject, Workbench

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATIOS = (1, 2, 10, 100)
_PER_CLASS = 5
_PANEL = (4.6, 2.3)  # inches
_NO_CLOSER = 90  # percent: no panel begins above, so that a difference of one image in a hundred looks like one

_COLUMNS = (
    ACCURACY,
    Column("common", "commonest third %", 100, 1),
    Column("rare", "rarest third %", 100, 1),
    GHOSTING,
    Column("n_prototypes", "prototypes", 1, 0),
)


def run_imbalance(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Thins the training classes, trains a black box on what is left, and converts it in three ways."""
    rows, per_class = [], {}
    for dataset, network in plan.places():
        place, found, panels = named(dataset, network), dict[tuple[str, str], list[Record]](), dict[str, Any]()
        for subject in plan.subjects(dataset, network, KMEX):
            for ratio in _RATIOS:
                name, key = f"imbalance-{ratio}-{subject.name}", bench.key(subject, ratio=ratio, per_class=_PER_CLASS)
                record = cells.get(name, key, _thinned, bench, subject, ratio)
                if record is None:
                    continue
                panels[f"1:{ratio}"] = {"class_names": record["class_names"], "images": record["images"]}
                for model, figures in record["models"].items():
                    found.setdefault((f"1:{ratio}", model), []).append(figures)
        for (ratio_named, model), records in found.items():
            rows.append(Row((*place, ratio_named, model), gather(records, _COLUMNS)))
            means = np.mean([one["classes"] for one in records], axis=0)
            panels[ratio_named].setdefault("accuracy", {})[model] = means.tolist()
        per_class[", ".join(place)] = panels
    remark = (
        "Class k of K keeps a share r^(−k / (K − 1)) of its training images, so that the last keeps 1/r of what it "
        f"had; the test images stay. In proportion: about {_PER_CLASS} per class on average, each class by its number "
        "of images, at least one."
    )
    return Findings(("data", "network", "imbalance", "model"), _COLUMNS, rows, {"per class": per_class}, [remark])


def thinned(data: DataBundle, ratio: int, seed: int) -> DataBundle:
    """Returns the data with fewer training images from class to class; the last has 1/ratio of what it had.

    Raises:
        LookalikeError: If they are neither images in memory nor files.
    """
    part = data.train
    if not isinstance(part, ImageArray | ImageFiles):
        raise LookalikeError(f"of a {type(part).__name__}, no samples can be left out")
    rng, kept = np.random.default_rng(seed), []
    n_classes = len(data.class_names)
    for k in range(n_classes):
        rows = rng.permutation(np.flatnonzero(part.labels == k))
        share = ratio ** (-k / max(1, n_classes - 1))
        kept.append(rows[: max(1, round(share * len(rows)))])
    return replace(data, train=part.select(np.sort(np.concatenate(kept))), attributes=None)


def in_proportion(images: Sequence[int], class_names: list[str], per_class: int = _PER_CLASS) -> dict[str, int]:
    """Returns numbers of prototypes in proportion to classes' images: about ``per_class`` on average, at least one."""
    counts = np.asarray(images)
    wanted = np.maximum(1, np.round(per_class * len(class_names) * counts / counts.sum())).astype(int)
    return dict(zip(class_names, wanted.tolist(), strict=True))


def _thinned(bench: Workbench, subject: Subject, ratio: int) -> Record:
    data = thinned(bench.data(subject), ratio, subject.seed)
    images = np.bincount(data.train.labels).tolist()  # type: ignore[attr-defined]
    converter = Converter(bench, subject, data, _black_box(bench, subject, data, ratio))
    numbers: dict[str, Any] = {
        f"{_PER_CLASS} per class": _PER_CLASS,
        "in proportion": in_proportion(images, data.class_names),
        "auto": "auto",
    }
    models: Record = {}
    for label, number in numbers.items():
        model = converter.convert(n_prototypes=number)
        card = converter.evaluate(model, ("faithfulness", "transparency"))
        classes = card.details["faithfulness"][0]["per_class"]
        models["black box"] = _by_class([one["black_box_accuracy"]["value"] for one in classes], images)
        models["black box"]["accuracy"] = card["black_box_accuracy"]
        models[f"KMEx, {label}"] = _by_class([one["accuracy"]["value"] for one in classes], images) | {
            "accuracy": card["accuracy"],
            "ghosting": card["ghosting"],
            "n_prototypes": float(len(model.prototypes)),
        }
    return {"class_names": data.class_names, "images": images, "models": models}


def _black_box(bench: Workbench, subject: Subject, data: DataBundle, ratio: int) -> LoadedClassifier:
    if ratio == 1:  # all the images: the black box that all experiments share
        return bench.black_box(subject)
    bench.say(f"training {subject.name} on classes thinned to 1:{ratio}")
    options = bench.options(subject)
    box = train("blackbox", data, options=options, seed=subject.seed, accelerator="cpu", progress=bench.progress).model
    assert isinstance(box, LoadedClassifier)  # noqa: S101 - narrows the type
    return box


def _by_class(accuracies: list[float], images: Sequence[int]) -> Record:
    """Returns each class's accuracy, and the means over the commonest and the rarest third of the classes."""
    ordered = [accuracies[k] for k in sorted(range(len(images)), key=lambda k: -images[k])]
    third = max(1, len(ordered) // 3)
    return {"classes": accuracies, "common": fmean(ordered[:third]), "rare": fmean(ordered[-third:])}


def draw_imbalance(found: Findings) -> "Figure":
    """Draws each class's accuracy: a panel per imbalance, a column per place."""
    from matplotlib.figure import Figure

    from lookalike.plots.tiles import INK, plain_axes

    places: dict[str, dict[str, Any]] = found.details["per class"]
    ratios = list(dict.fromkeys(ratio for panels in places.values() for ratio in panels))
    figure = Figure(figsize=(_PANEL[0] * len(places), _PANEL[1] * len(ratios)), layout="constrained")
    grid = figure.subplots(len(ratios), len(places), squeeze=False, sharey="row")
    for column, (place, panels) in enumerate(places.items()):
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
            ax.set_title(f"{place}, {ratio}", fontsize=9, color=INK)
            if column == 0:
                ax.set_ylabel("accuracy %", color=INK, fontsize=9)
            if line == len(ratios) - 1:
                ax.set_xlabel("class, and its training images", color=INK, fontsize=9)
    for panels in grid:
        least = min((min(line.get_ydata()) for ax in panels for line in ax.lines), default=_NO_CLOSER)
        panels[0].set_ylim(min(_NO_CLOSER, least - 2), 101.5)
    handles, names = next(ax for ax in grid.flatten() if ax.axison).get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2 * len(places), frameon=False, fontsize=8)
    return figure


EXPERIMENTS.register("imbalance")(Experiment("Unequal classes", "open question", run_imbalance, draw_imbalance))
