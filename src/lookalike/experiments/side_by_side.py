"""All models side by side, and the paper's tables as views of the same measurements."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, named
from lookalike.experiments.measure import mean_axes, mean_of, measured
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Workbench, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

_PANEL = 3.7  # inches
_MODELS_DRAWN = 4  # in one panel: those of the paper's figures
_RADARS_IN_A_ROW = 2

ACCURACY = Column("accuracy", "accuracy %", 100, 1)
AGREEMENT = Column("agreement", "agreement %", 100, 1)
GHOSTING = Column("ghosting", "D_tsp")
DIVERGENCE = Column("explanation_divergence", "D_fth")
AUROC = Column("auroc", "AUROC")
RANDOM = Column("auroc_random", "in random order")
DIVERSITY = Column("diversity", "D_dvs")
TRAINING = Column("train_seconds", "training s, least", 1, 1, least=True)
PREDICTION = Column("predict_seconds", "prediction ms, least", 1000, 2, least=True)

# the black box's figures, as they stand in the scorecards of prototype models
_OF_BLACK_BOX = {
    "accuracy": "black_box_accuracy",
    "auroc": "auroc_black_box",
    "auroc_random": "auroc_black_box_random",
    "train_seconds": "black_box_train_seconds",
    "predict_seconds": "black_box_predict_seconds",
}

Measured = dict[tuple[str, str], dict[str, dict[int, Record]]]  # (data, network) → model → seed → record


def measure_all(plan: Plan, bench: Workbench, cells: Cells) -> Measured:
    """Trains, converts and measures every model of a plan, or reads what is there."""
    return {
        named(dataset, network): {
            model: {
                subject.seed: record
                for subject in plan.subjects(dataset, network, model)
                if (record := measured(bench, cells, subject)) is not None
            }
            for model in plan.models
        }
        for dataset, network in plan.places()
    }


def rows_of(found: Measured, columns: Sequence[Column]) -> list[Row]:
    """Returns a line per data set, network and model; first the black box, where it has any of the figures."""
    rows = []
    for place, models in found.items():
        any_model = {seed: record for records in reversed(models.values()) for seed, record in records.items()}
        box = gather(_figures(any_model), columns, _OF_BLACK_BOX)
        if box:
            rows.append(Row((*place, title_of("blackbox")), box))
        rows += [Row((*place, title_of(model)), gather(_figures(r), columns)) for model, r in models.items() if r]
    return rows


def _figures(records: Mapping[int, Record]) -> list[Record]:
    return [records[seed]["figures"] for seed in sorted(records)]


def _drawn(models: Mapping[str, T]) -> dict[str, T]:
    """Returns the models of a panel: those of the paper's figures first."""
    order = sorted((model for model in models if models[model]), key=lambda model: "+" in model)
    return {model: models[model] for model in order[:_MODELS_DRAWN]}


def _curves(found: Measured) -> dict[str, Any]:
    """Returns mean relevance-ordering curves over seeds, by place and model."""
    panels: dict[str, Any] = {}
    for place, models in found.items():
        chosen = _drawn(models)
        panel: dict[str, Any] = {"curves": {}, "random": {}}
        lines = [(model, title_of(model), "model", "random") for model in chosen]
        if KMEX in chosen:  # last, so that a model has the colour that it has in the radars
            lines.append((KMEX, title_of("blackbox"), "black_box", "black_box_random"))
        for model, title, own, random in lines:
            robustness = [record["scorecard"]["details"]["robustness"][0] for record in chosen[model].values()]
            panel["fractions"] = robustness[0]["fractions"]
            panel["curves"][title] = _mean([one["curves"][own] for one in robustness])
            panel["random"][title] = _mean([one["curves"][random] for one in robustness])
        if chosen:
            panels[", ".join(place)] = panel
    return panels


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*curves, strict=True)]


def _axes(found: Measured) -> dict[str, Any]:
    """Returns each model's radar, the mean over seeds, by place, and over all places."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for place, models in found.items():
        for model, records in models.items():
            if records:
                panels.setdefault(", ".join(place), {})[title_of(model)] = mean_axes(list(records.values()))
    if len(panels) > 1:
        titles = dict.fromkeys(title for panel in panels.values() for title in panel)
        whole = {t: mean_of([panel[t] for panel in panels.values() if t in panel]) for t in titles}
        panels = {"mean over all": whole, **panels}
    return panels


def draw_curves(found: Findings) -> "Figure":
    """Draws relevance-ordering curves, a panel per data set and network (paper, Figure 3)."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_ordering

    panels = found.details["panels"]
    figure = Figure(figsize=(_PANEL * 1.15 * len(panels), _PANEL), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        plot_ordering(panel["fractions"], panel["curves"], ax=ax)
        for line, curve in zip(list(ax.lines), panel["random"].values(), strict=True):
            ax.plot(line.get_xdata(), curve, color=line.get_color(), linestyle=":", linewidth=1)
        ax.set_title(f"{title} (dotted: random order)", fontsize=9)
    return figure


def draw_radars(found: Findings) -> "Figure":
    """Draws a radar over all and one per data set and network (paper, Figures 4 and 7)."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_radar

    panels = found.details["panels"]
    across = min(_RADARS_IN_A_ROW, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(_PANEL * 1.1 * across, _PANEL * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, subplot_kw={"projection": "polar"}).flatten()
    lines: dict[str, Any] = {}
    for ax, (title, models) in zip(axes, panels.items(), strict=False):
        plot_radar(_drawn(models), ax=ax)
        handles, labels = ax.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
        if ax.get_legend() is not None:
            ax.get_legend().remove()
        ax.set_title(title, fontsize=10, pad=14)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)
    return figure


def _view(name: str, title: str, source: str, columns: tuple[Column, ...]) -> None:
    """Files an experiment that shows some of the figures."""

    def run(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
        return Findings(("data", "network", "model"), columns, rows_of(measure_all(plan, bench, cells), columns))

    EXPERIMENTS.register(name)(Experiment(title, source, run))


def run_robustness(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures robustness; keeps the curves."""
    found, columns = measure_all(plan, bench, cells), (AUROC, RANDOM)
    return Findings(("data", "network", "model"), columns, rows_of(found, columns), {"panels": _curves(found)})


def run_summary(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Puts the five axes of each model together."""
    panels = _axes(measure_all(plan, bench, cells))
    names = list(dict.fromkeys(axis for models in panels.values() for radar in models.values() for axis in radar))
    columns = tuple(Column(name, name, 1, 2) for name in names)
    rows = [
        Row((place, model), {axis: [value] for axis, value in radar.items()})
        for place, models in panels.items()
        for model, radar in models.items()
    ]
    remark = "Outward is better: 1 − D_tsp, 1 + difference in accuracy / 5 points, exp(−D_fth), AUROC, 1 − D_dvs."
    return Findings(("where", "model"), columns, rows, {"panels": panels}, [remark])


def run_kmex_of_baselines(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Sets each baseline beside KMEx of its embedding."""
    return before_and_after(measure_all(plan, bench, cells))


def before_and_after(found: Measured) -> Findings:
    """Returns three lines per baseline: before, after, and the differences, seed by seed."""
    columns = (ACCURACY, GHOSTING, DIVERGENCE, AUROC, DIVERSITY)
    rows = []
    for place, models in found.items():
        for model, records in models.items():
            if "+" in model or not models.get(f"{model}+{KMEX}"):
                continue
            converted = models[f"{model}+{KMEX}"]
            both = sorted(records.keys() & converted.keys())
            changes = [_difference(records[seed]["figures"], converted[seed]["figures"], columns) for seed in both]
            rows += [
                Row((*place, title_of(model)), gather(_figures(records), columns)),
                Row((*place, f"{title_of(model)} + KMEx"), gather(_figures(converted), columns)),
                Row((*place, "difference"), gather(changes, columns)),
            ]
    return Findings(("data", "network", "model"), columns, rows)


def _difference(before: Record, after: Record, columns: Sequence[Column]) -> Record:
    names = [c.name for c in columns if None not in (before.get(c.name), after.get(c.name))]
    return {name: after[name] - before[name] for name in names}


_view(
    "baselines",
    "Black box, baselines, and KMEx of each",
    "section 4, Tables 3 to 8, 11 and 12",
    (ACCURACY, AGREEMENT, GHOSTING, DIVERGENCE, AUROC, RANDOM, DIVERSITY, TRAINING, PREDICTION),
)
_view("accuracy", "Accuracy of all models", "Table 3", (ACCURACY, AGREEMENT))
EXPERIMENTS.register("robustness")(
    Experiment(
        "Robustness: relevance-ordering curves and their areas", "Figure 3, Table 4", run_robustness, draw_curves
    )
)
_view("ghosting", "Transparency: ghosted prototypes", "Table 5", (GHOSTING,))
_view(
    "explanations",
    "Faithfulness of explanations to the black box",
    "Table 6",
    (DIVERGENCE, Column("explanation_divergence_mismatched", "between different images")),
)
_view(
    "diversity", "Diversity of prototypes", "Table 7", (DIVERSITY, Column("diversity_within_class", "within classes"))
)
EXPERIMENTS.register("summary")(Experiment("Five axes of every model", "Figures 4 and 7", run_summary, draw_radars))
_view("runtime", "Training and prediction time", "Tables 11 and 12", (TRAINING, PREDICTION))
