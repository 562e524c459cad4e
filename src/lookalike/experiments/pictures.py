"""The paper's pictures: prototypes, explanations of correct and wrong predictions, relevance maps side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lookalike.data import Batches
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.paired import Pairing
from lookalike.experiments.side_by_side import run_kmex_of_baselines
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, PAPERS_RULE, Subject, Workbench, title_of
from lookalike.explanation import explain
from lookalike.model import PrototypeModel
from lookalike.relevance import lrp

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLASSES = 10  # drawn at most
_LIKENESSES = 3  # correct predictions drawn, and as many wrong ones
_IMAGES_DRAWN = 5  # images whose maps are drawn
_IMAGES_COMPARED = 50  # images whose maps are compared
_TITLE = 0.35  # inches
# scales of figures, so that their captions can be read at the width of a column
_SMALLER_ALONE, _SMALLER_SIDE_BY_SIDE, _SMALLER_LIKENESS = 0.7, 0.55, 0.9
_COLUMNS = (Column("correlation", "correlation of maps", 1, 3),)


def run_qualitative(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares each model's relevance maps with the black box's, image by image."""
    rows = []
    for data_and_network in plan.places():
        for model in plan.models:
            records = [
                record
                for subject in plan.subjects(*data_and_network, model)
                if (
                    record := cells.get(
                        f"maps-{subject.name}",
                        bench.key(subject, compared=_IMAGES_COMPARED),
                        _correlation,
                        bench,
                        subject,
                    )
                )
            ]
            if records:
                rows.append(Row((*table_names(*data_and_network), title_of(model)), gather(records, _COLUMNS)))
    remark = (
        f"Pearson's correlation between a model's and the black box's maps (LRP of the predicted class's probability), "
        f"the mean over {_IMAGES_COMPARED} test images."
    )
    return Findings(("data", "network", "model"), _COLUMNS, rows, {}, [remark])


def _correlation(bench: Workbench, subject: Subject) -> Record:
    bench.say(f"comparing the maps of {subject.name}")
    inputs = evenly_spaced_images(bench, subject, _IMAGES_COMPARED)
    maps = [
        lrp(model, inputs, of="probability").pixels.flatten(1).double()
        for model in (bench.model(subject), bench.black_box(subject).model)
    ]
    model_maps, box_maps = ((image_maps - image_maps.mean(1, keepdim=True)) for image_maps in maps)
    return {"correlation": float(torch.cosine_similarity(model_maps, box_maps, dim=1).mean())}


def evenly_spaced_images(bench: Workbench, subject: Subject, number: int) -> Tensor:
    """Returns evenly spaced test images, so that all classes are among them if the data are sorted by class."""
    test = bench.data(subject).test
    rows = np.linspace(0, len(test) - 1, min(number, len(test))).astype(int)
    return torch.stack([test[int(row)][0] for row in rows])


def draw_qualitative(plan: Plan, bench: Workbench) -> "dict[str, Callable[[], Figure]]":
    """Draws KMEx's prototypes, likenesses with their maps, and every model's maps, for the first seed.

    Source: paper, Figures 2, 6, 11 and 12.
    """
    draw_functions: dict[str, Callable[[], Figure]] = {}
    for data_and_network in plan.places():
        name, subject = "-".join(table_names(*data_and_network)), plan.subjects(*data_and_network, KMEX)[0]
        draw_functions[f"{name}-prototypes"] = partial(_draw_galleries, bench, {"": subject})
        draw_functions[f"{name}-likeness"] = partial(_draw_likenesses, bench, subject)
        draw_functions[f"{name}-maps"] = partial(_map_table, plan, bench, subject)
    return draw_functions


def draw_before_and_after(plan: Plan, bench: Workbench) -> "dict[str, Callable[[], Figure]]":
    """Draws each baseline's prototypes beside the prototypes of KMEx on its embedding (paper, Figures 13 to 15)."""
    draw_functions: dict[str, Callable[[], Figure]] = {}
    for data_and_network in plan.places():
        for base in plan.models:
            if f"{base}+{KMEX}" in plan.models:
                pair = {
                    title_of(model): plan.subjects(*data_and_network, model)[0] for model in (base, f"{base}+{KMEX}")
                }
                draw_functions["-".join((*table_names(*data_and_network), base))] = partial(
                    _draw_galleries, bench, pair
                )
    return draw_functions


def _draw_galleries(bench: Workbench, subjects: dict[str, Subject]) -> "Figure":
    """Draws models' galleries side by side. Each prototype is shown by its nearest training image."""
    from matplotlib.figure import Figure

    from lookalike.plots import Captions, gallery_size, plot_gallery

    models = {title: bench.model(subject) for title, subject in subjects.items()}
    first = next(iter(models.values()))
    classes = list(range(min(_CLASSES, first.n_classes)))
    names = [first.class_names[k] for k in classes]
    longest_row = max(int(model.prototypes.labels.bincount().max()) for model in models.values())
    single = len(models) == 1
    scale = _SMALLER_ALONE if single else _SMALLER_SIDE_BY_SIDE
    width, height = (scale * side for side in gallery_size(names, longest_row))
    figure = Figure(figsize=(width * len(models), height + _TITLE), layout="constrained")
    for ax, (title, model) in zip(figure.subplots(1, len(models), squeeze=False)[0], models.items(), strict=True):
        p = model.prototypes
        assert model.images is not None  # the experiment converts images
        plot_gallery(
            model.images[:, :1].numpy(),
            p.labels.numpy(),
            p.class_names,
            Captions(p.counts.numpy(), p.purity.numpy(), numbered=single),
            classes=classes,
            ax=ax,
        )
        ax.set_title(title, fontsize=11)
    return figure


def _draw_likenesses(bench: Workbench, subject: Subject) -> "Figure":
    """Draws correct predictions in the left column and as many wrong ones in the right.

    If there are only correct or only wrong ones, they fill both columns.
    """
    from lookalike.plots import sheet_axes

    model, test = bench.model(subject), bench.data(subject).test
    correct, wrong = _correct_and_wrong(model, Batches(test))
    rows = [row for pair in zip(correct, wrong, strict=False) for row in pair] or correct or wrong
    inputs = torch.stack([test[row][0] for row in rows])
    explanations = explain(model, inputs, labels=[int(test[row][1]) for row in rows], relevance=True, rule=PAPERS_RULE)
    widest = max(len(explanation.shown) for explanation in explanations)
    axes = sheet_axes(len(explanations), widest, min(2, len(explanations)), with_maps=True)
    for ax, explanation in zip(axes, explanations, strict=True):
        explanation.plot(ax)
    figure = axes[0].get_figure(root=True)
    assert figure is not None  # just made
    figure.set_size_inches(*(figure.get_size_inches() * _SMALLER_LIKENESS))
    return figure


def _correct_and_wrong(model: PrototypeModel, batches: Batches) -> tuple[list[int], list[int]]:
    """Returns rows of correctly classified samples, each of another class, and of wrongly classified samples."""
    correct: dict[int, int] = {}
    wrong: list[int] = []
    for batch in batches:
        predicted = model.predict(batch.inputs).cpu().numpy()
        for row, label, prediction in zip(batch.indices, batch.labels, predicted, strict=True):
            if prediction == label:
                correct.setdefault(int(label), int(row))
            else:
                wrong.append(int(row))
        if len(correct) >= _LIKENESSES and len(wrong) >= _LIKENESSES:
            break
    return list(correct.values())[:_LIKENESSES], wrong[:_LIKENESSES]


def _map_table(plan: Plan, bench: Workbench, subject: Subject) -> "Figure":
    """Draws images and, beside each, relevance maps of the black box's and each model's prediction."""
    inputs = evenly_spaced_images(bench, subject, _IMAGES_DRAWN)
    models = {"black box": bench.black_box(subject).model}
    for name in plan.models:
        if "+" not in name:
            models[title_of(name)] = bench.model(replace(subject, model=name))
    pictures = bench.model(subject).to_pixels(inputs)
    assert pictures is not None  # the experiment converts images
    maps = {title: lrp(model, inputs, of="probability").pixels.numpy() for title, model in models.items()}
    return _draw_map_table(pictures.numpy(), maps)


def _draw_map_table(pictures: np.ndarray, maps: dict[str, np.ndarray]) -> "Figure":
    """Draws a row per image: the image, and its map by each model, all on one colour scale."""
    from matplotlib.figure import Figure

    from lookalike.plots.heatmap import common_limit, shares
    from lookalike.plots.tiles import GAP, INK, LINE, MUTED, TILE_INCHES, draw_tile, tile_axes

    columns, rows = (1 + len(maps)) * (1 + GAP), 0.3 + len(pictures) * (1 + GAP) + LINE
    size = (columns * TILE_INCHES, rows * TILE_INCHES)
    ax: Axes = tile_axes(Figure(figsize=size, layout="constrained").subplots(), columns, rows)
    scaled = {title: [shares(relevance) for relevance in values] for title, values in maps.items()}
    limit = common_limit([relevance for values in scaled.values() for relevance in values])
    for column, (title, tiles) in enumerate(_columns_of(pictures, scaled, limit)):
        x = column * (1 + GAP)
        ax.text(x + 0.48, 0.15, title, ha="center", va="center", fontsize=9, color=INK)
        for row, tile in enumerate(tiles):
            draw_tile(ax, tile, x, 0.3 + row * (1 + GAP), size=0.96)
    legend = "red: speaks for the predicted class; blue: against it"
    ax.text(0, rows - LINE / 2, legend, ha="left", va="center", fontsize=8, color=MUTED, style="italic")
    figure = ax.get_figure(root=True)
    assert figure is not None  # just made
    return figure


def _columns_of(
    pictures: np.ndarray, maps: dict[str, list[np.ndarray]], limit: float
) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    from lookalike.plots.heatmap import paint

    yield "image", list(pictures)
    for title, values in maps.items():
        yield title, [paint(relevance, limit, picture) for relevance, picture in zip(values, pictures, strict=True)]


EXPERIMENTS.register("qualitative")(
    Experiment(
        "What models look at",
        "Figures 2, 6, 11 and 12",
        run_qualitative,
        pictures=draw_qualitative,
        pairing=Pairing(title_of(KMEX), ("correlation",)),
    )
)
EXPERIMENTS.register("kmex-of-baselines")(
    Experiment(
        "Baselines before and after KMEx",
        "Table 8, Figures 13 to 15",
        run_kmex_of_baselines,
        pictures=draw_before_and_after,
    )
)
