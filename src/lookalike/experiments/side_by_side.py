"""Comparison of all models. Most of the paper's tables are columns of one set of measurements."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.measure import mean_axes, mean_of, measure_subject
from lookalike.experiments.paired import Pairing
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
# both differ from 0 by so little that three digits would hide what they say
REFERENCE_DIVERSITY = Column("diversity_reference", "D_dvs as in the authors' code", 1, 4)
REFERENCE_FLOOR = Column("diversity_reference_floor", "its floor", 1, 4)
TRAINING = Column("train_seconds", "training or conversion s, least", 1, 1, least=True)
TOTAL_TRAINING = Column("total_seconds", "with what is converted s, least", 1, 1, least=True)
PREDICTION = Column("predict_seconds", "prediction ms, least", 1000, 2, least=True)

# names of the black box's figures in the scorecards of prototype models
_BLACK_BOX_KEYS = {
    "accuracy": "black_box_accuracy",
    "auroc": "auroc_black_box",
    "auroc_random": "auroc_black_box_random",
    "train_seconds": "black_box_train_seconds",
    "predict_seconds": "black_box_predict_seconds",
}

Measured = dict[tuple[str, str], dict[str, dict[int, Record]]]  # (data, network) → model → seed → record


def measure_all(plan: Plan, bench: Workbench, cells: Cells) -> Measured:
    """Trains, converts and measures every model of a plan; reads models and measurements that exist already."""
    return {
        table_names(dataset, network): {
            model: {
                subject.seed: record
                for subject in plan.subjects(dataset, network, model)
                if (record := measure_subject(bench, cells, subject)) is not None
            }
            for model in plan.models
        }
        for dataset, network in plan.places()
    }


def rows_of(measurements: Measured, columns: Sequence[Column]) -> list[Row]:
    """Returns a row per data set, network and model. The black box comes first, if it has any of the figures."""
    rows = []
    for names, models in measurements.items():
        # Any model's record has the black box's figures, too; together they have all seeds, the first model's first.
        any_model = {seed: record for records in reversed(models.values()) for seed, record in records.items()}
        box_figures = gather(_figures(any_model), columns, _BLACK_BOX_KEYS)
        if box_figures:
            rows.append(Row((*names, title_of("blackbox")), box_figures))
        rows += [Row((*names, title_of(model)), gather(_figures(r), columns)) for model, r in models.items() if r]
    return rows


def _figures(records: Mapping[int, Record]) -> list[Record]:
    return [records[seed]["figures"] for seed in sorted(records)]


def _first_models(models: Mapping[str, T]) -> dict[str, T]:
    """Returns at most four models to draw in a panel; the models of the paper's figures come first."""
    order = sorted((model for model in models if models[model]), key=lambda model: "+" in model)
    return {model: models[model] for model in order[:_MODELS_DRAWN]}


def _mean_curves(measurements: Measured) -> dict[str, Any]:
    """Returns relevance-ordering curves, averaged over seeds, by data set, network and model."""
    panels: dict[str, Any] = {}
    for names, models in measurements.items():
        models_drawn = _first_models(models)
        panel: dict[str, Any] = {"curves": {}, "random": {}}
        lines = [(model, title_of(model), "model", "random") for model in models_drawn]
        if KMEX in models_drawn:  # last, so that a model has the colour that it has in the radars
            lines.append((KMEX, title_of("blackbox"), "black_box", "black_box_random"))
        for model, title, curve, random_curve in lines:
            robustness = [record["scorecard"]["details"]["robustness"][0] for record in models_drawn[model].values()]
            panel["fractions"] = robustness[0]["fractions"]
            panel["curves"][title] = _mean([ordering["curves"][curve] for ordering in robustness])
            panel["random"][title] = _mean([ordering["curves"][random_curve] for ordering in robustness])
        if models_drawn:
            panels[", ".join(names)] = panel
    return panels


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*curves, strict=True)]


def _mean_radars(measurements: Measured) -> dict[str, Any]:
    """Returns each model's radar, averaged over seeds, by data set and network, and averaged over these."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for names, models in measurements.items():
        for model, records in models.items():
            if records:
                panels.setdefault(", ".join(names), {})[title_of(model)] = mean_axes(list(records.values()))
    if len(panels) > 1:
        titles = dict.fromkeys(title for panel in panels.values() for title in panel)
        overall = {t: mean_of([panel[t] for panel in panels.values() if t in panel]) for t in titles}
        panels = {"mean over all": overall, **panels}
    return panels


def draw_curves(findings: Findings) -> "Figure":
    """Draws relevance-ordering curves, a panel per data set and network (paper, Figure 3)."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_ordering

    panels = findings.details["panels"]
    figure = Figure(figsize=(_PANEL * 1.15 * len(panels), _PANEL), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        plot_ordering(panel["fractions"], panel["curves"], ax=ax)
        for line, curve in zip(list(ax.lines), panel["random"].values(), strict=True):
            ax.plot(line.get_xdata(), curve, color=line.get_color(), linestyle=":", linewidth=1)
        ax.set_title(f"{title} (dotted: random order)", fontsize=9)
    return figure


def draw_radars(findings: Findings) -> "Figure":
    """Draws the mean radar and one per data set and network (paper, Figures 4 and 7)."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_radar

    panels = findings.details["panels"]
    across = min(_RADARS_IN_A_ROW, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(_PANEL * 1.1 * across, _PANEL * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, subplot_kw={"projection": "polar"}).flatten()
    lines: dict[str, Any] = {}
    for ax, (title, models) in zip(axes, panels.items(), strict=False):
        plot_radar(_first_models(models), ax=ax)
        handles, labels = ax.get_legend_handles_labels()
        lines.update(zip(labels, handles, strict=True))
        if ax.get_legend() is not None:
            ax.get_legend().remove()
        ax.set_title(title, fontsize=10, pad=14)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)
    return figure


def _register_table(
    name: str, title: str, source: str, columns: tuple[Column, ...], pairing: Pairing | None = None
) -> None:
    """Registers an experiment whose table has some of the figures."""

    def run(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
        return Findings(("data", "network", "model"), columns, rows_of(measure_all(plan, bench, cells), columns))

    EXPERIMENTS.register(name)(Experiment(title, source, run, pairing=pairing))


def run_robustness(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures robustness, with the mean curves as details."""
    measurements, columns = measure_all(plan, bench, cells), (AUROC, RANDOM)
    return Findings(
        ("data", "network", "model"), columns, rows_of(measurements, columns), {"panels": _mean_curves(measurements)}
    )


def run_summary(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Collects the five axes of each model."""
    panels = _mean_radars(measure_all(plan, bench, cells))
    names = list(dict.fromkeys(axis for models in panels.values() for radar in models.values() for axis in radar))
    columns = tuple(Column(name, name, 1, 2) for name in names)
    rows = [
        Row((setting, model), {axis: [value] for axis, value in radar.items()})
        for setting, models in panels.items()
        for model, radar in models.items()
    ]
    remark = "Outward is better: 1 − D_tsp, 1 + difference in accuracy / 5 points, exp(−D_fth), AUROC, 1 − D_dvs."
    return Findings(("where", "model"), columns, rows, {"panels": panels}, [remark])


def run_runtime(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures times. A conversion's total holds the training of the model that is converted, as the paper counts."""
    measurements, columns = measure_all(plan, bench, cells), (TRAINING, TOTAL_TRAINING, PREDICTION)
    rows = with_total_seconds(rows_of(measurements, (TRAINING, PREDICTION)))
    return Findings(("data", "network", "model"), columns, rows)


def with_total_seconds(rows: Sequence[Row]) -> list[Row]:
    """Adds the total training time: of a conversion, with the training of its black box or baseline, seed by seed.

    A conversion gets no total if one of the two times is missing for a seed.
    """
    seconds = {row.names: row.values.get(TRAINING.name, ()) for row in rows}
    completed = []
    for row in rows:
        *setting, title = row.names
        source = title_of("blackbox") if title == title_of(KMEX) else title.removesuffix(f" + {title_of(KMEX)}")
        seconds_of_row, seconds_of_source = seconds[row.names], seconds.get((*setting, source), ())
        if source == title:
            total = list(seconds_of_row)
        else:
            total = (
                [a + b for a, b in zip(seconds_of_row, seconds_of_source, strict=True)]
                if len(seconds_of_row) == len(seconds_of_source)
                else []
            )
        completed.append(Row(row.names, {**row.values, **({TOTAL_TRAINING.name: total} if total else {})}))
    return completed


def run_kmex_of_baselines(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares each baseline with KMEx on its embedding."""
    return before_and_after(measure_all(plan, bench, cells))


def before_and_after(measurements: Measured) -> Findings:
    """Returns three rows per baseline: its figures, those of its conversion, and their difference seed by seed."""
    columns = (ACCURACY, GHOSTING, DIVERGENCE, AUROC, DIVERSITY)
    rows = []
    for names, models in measurements.items():
        for model, records in models.items():
            if "+" in model or not models.get(f"{model}+{KMEX}"):
                continue
            converted = models[f"{model}+{KMEX}"]
            seeds = sorted(records.keys() & converted.keys())
            changes = [_difference(records[seed]["figures"], converted[seed]["figures"], columns) for seed in seeds]
            rows += [
                Row((*names, title_of(model)), gather(_figures(records), columns)),
                Row((*names, f"{title_of(model)} + KMEx"), gather(_figures(converted), columns)),
                Row((*names, "difference"), gather(changes, columns)),
            ]
    return Findings(("data", "network", "model"), columns, rows)


def _difference(before: Record, after: Record, columns: Sequence[Column]) -> Record:
    names = [c.name for c in columns if None not in (before.get(c.name), after.get(c.name))]
    return {name: after[name] - before[name] for name in names}


_register_table(
    "baselines",
    "Black box, baselines, and KMEx of each",
    "section 4, Tables 3 to 8, 11 and 12",
    (ACCURACY, AGREEMENT, GHOSTING, DIVERGENCE, AUROC, RANDOM, DIVERSITY, TRAINING, PREDICTION),
)
_register_table(
    "accuracy", "Accuracy of all models", "Table 3", (ACCURACY, AGREEMENT), Pairing(title_of("blackbox"), ("accuracy",))
)
EXPERIMENTS.register("robustness")(
    Experiment(
        "Robustness: relevance-ordering curves and their areas",
        "Figure 3, Table 4",
        run_robustness,
        draw_curves,
        pairing=Pairing(title_of(KMEX), ("auroc",)),
    )
)
_register_table(
    "ghosting", "Transparency: ghosted prototypes", "Table 5", (GHOSTING,), Pairing(title_of(KMEX), ("ghosting",))
)
_register_table(
    "explanations",
    "Faithfulness of explanations to the black box",
    "Table 6",
    (DIVERGENCE, Column("explanation_divergence_mismatched", "between different images")),
    Pairing(title_of(KMEX), ("explanation_divergence",)),
)
_register_table(
    "diversity",
    "Diversity of prototypes",
    "Table 7",
    (DIVERSITY, Column("diversity_within_class", "within classes"), REFERENCE_DIVERSITY, REFERENCE_FLOOR),
    Pairing(title_of(KMEX), ("diversity",)),
)
EXPERIMENTS.register("summary")(Experiment("Five axes of every model", "Figures 4 and 7", run_summary, draw_radars))
EXPERIMENTS.register("runtime")(Experiment("Training and prediction time", "Tables 11 and 12", run_runtime))
