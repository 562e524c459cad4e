"""KMEx with one option varied: the similarity, the number of prototypes or the clusterer."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lookalike._core.errors import LookalikeError
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.data import Batches, DataBundle
from lookalike.embedding import EmbeddingStore, as_encoder, embed
from lookalike.encoder import LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.measure import mean_axes
from lookalike.experiments.paired import Pairing
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT, AUROC, DIVERGENCE, DIVERSITY, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench, title_of
from lookalike.metrics import BlackBox, Scorecard
from lookalike.model import PrototypeModel
from lookalike.model.similarity import SIMILARITIES
from lookalike.plots.radar import DASHES, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_CLASS: tuple[int | str, ...] = (1, 2, 5, 10, 20, 50, "auto")
_PANEL = 3.2  # inches
_IN_A_ROW = 3  # panels

Variants = Mapping[str, Mapping[str, Any]]

_SIMILARITIES: Variants = {name: {"similarity": name} for name in SIMILARITIES}
_NUMBERS: Variants = {str(number): {"n_prototypes": number} for number in _PER_CLASS}
_CLUSTERERS: Variants = {name: {"clusterer": name} for name in CLUSTERERS}
_ATTRIBUTES: Variants = {str(number): {"n_prototypes": number} for number in _PER_CLASS if number != "auto"}


class Converter:
    """Converts one black box or baseline with varying options, from one pass over its data.

    Args:
        bench: Workbench that makes the models.
        subject: Subject whose model is ``"kmex"`` or ``"BASELINE+kmex"``.
        data: Data to use instead of the subject's own.
        box: Black box trained on ``data``; only if the subject's model is ``"kmex"``.
    """

    def __init__(
        self,
        bench: Workbench,
        subject: Subject,
        data: DataBundle | None = None,
        box: LoadedClassifier | None = None,
    ) -> None:
        self.bench = bench
        self.subject = subject
        self._data = data
        self._box = box
        self._embedded: tuple[Any, EmbeddingStore, EmbeddingStore] | None = None

    @property
    def data(self) -> DataBundle:
        """Data to convert and measure on; read on first use."""
        return self.bench.data(self.subject) if self._data is None else self._data

    @functools.cached_property
    def measured_box(self) -> BlackBox:
        """The black box that all conversions are compared with. Its own results are cached, so it is measured once."""
        if self._box is None:
            return self.bench.measured_box(self.subject)
        return BlackBox.of(self._box, Batches(self.data.test))

    def convert(self, *, seed: int | None = None, **variant: Any) -> PrototypeModel:
        """Converts with the given options, with the subject's seed or another."""
        encoder, train, _ = self.embedded()
        seed_option = {} if seed is None else {"seed": seed}
        return self.bench.convert(
            self.subject, encoder, Batches(self.data.train), embeddings=train, **seed_option, **variant
        )

    def evaluate(self, model: PrototypeModel, only: Sequence[str] | None, **options: Any) -> Scorecard:
        """Measures a converted model: the given sections, or all if None. ``options`` are passed to ``evaluate``."""
        _, train, test = self.embedded()
        return self.bench.evaluate(
            self.subject,
            model,
            self.data.test,
            self.measured_box,
            train=train,
            attributes=None if self.data.attributes is None else self.data.attributes.train,
            only=only,
            test_embeddings=test,
            **options,
        )

    def measure(self, variant: Mapping[str, Any], only: Sequence[str] | None) -> Record:
        """Converts with the given options and measures the result."""
        self.bench.say(f"measuring {self.subject.name} with {variant}")
        model = self.convert(**variant)
        card = self.evaluate(model, only)
        figures = {name: card[name] for name in card.runs} | {
            "n_prototypes": float(len(model.prototypes)),
            "cluster_seconds": float(model.provenance["convert_seconds"]),
        }
        return {"figures": figures, "scorecard": card.to_dict()}

    def embedded(self) -> tuple[Any, EmbeddingStore, EmbeddingStore]:
        """Returns the encoder and the embeddings of the training and the test data."""
        if self._embedded is None:
            base = self.subject.model.removesuffix(f"+{KMEX}")
            source: Any = (
                self._box or self.bench.black_box(self.subject)
                if base == KMEX
                else self.bench.model(replace(self.subject, model=base))
            )
            batches = Batches(self.data.train)
            encoder = as_encoder(getattr(source, "model", source), batches)
            train = embed(encoder, batches, progress=self.bench.progress)
            self._embedded = encoder, train, embed(encoder, self.data.test, progress=self.bench.progress)
        return self._embedded


def _measure_variants(
    plan: Plan, bench: Workbench, cells: Cells, topic: str, variants: Variants, model: str, only: Sequence[str] | None
) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """Measures every variant of a model with every data set, network and seed.

    Returns:
        Records, one per seed, by the names of data set and network, and by variant.
    """
    records_by_setting: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for dataset, network in plan.places():
        records_by_label = records_by_setting.setdefault(table_names(dataset, network), {})
        for subject in plan.subjects(dataset, network, model):
            converter = Converter(bench, subject)
            for label, variant in variants.items():
                name = f"{topic}-{label}-{subject.name}"
                key = bench.key(subject, variant=dict(variant), n_images=bench.n_images, only=list(only or ()))
                record = cells.get(name, key, converter.measure, variant, only)
                if record is not None:
                    records_by_label.setdefault(label, []).append(record)
    return records_by_setting


_COLUMNS = (
    ACCURACY,
    AGREEMENT,
    GHOSTING,
    DIVERGENCE,
    AUROC,
    DIVERSITY,
    Column("n_prototypes", "prototypes", 1, 0),
    Column("cluster_seconds", "conversion s, least", 1, 2, least=True),
)


def _run_variants(topic: str, head: str, variants: Variants, plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures KMEx with each variant of an option; the details have a radar for each."""
    records_by_setting = _measure_variants(plan, bench, cells, topic, variants, KMEX, None)
    rows = [
        Row((*names, label), gather([record["figures"] for record in records], _COLUMNS))
        for names, labels in records_by_setting.items()
        for label, records in labels.items()
    ]
    radars = {
        ", ".join(names): {label: mean_axes(records) for label, records in labels.items()}
        for names, labels in records_by_setting.items()
    }
    return Findings(("data", "network", head), _COLUMNS, rows, {"radars": radars})


def run_similarities(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Converts with every similarity."""
    return _run_variants("similarities", "similarity", _SIMILARITIES, plan, bench, cells)


def run_numbers(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Converts with several numbers of prototypes per class."""
    return _run_variants("n-prototypes", "per class", _NUMBERS, plan, bench, cells)


def run_clusterers(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Converts with every clusterer."""
    return _run_variants("clustering", "clusterer", _CLUSTERERS, plan, bench, cells)


ATTRIBUTE_COLUMNS = (
    Column("ghosted", "ghosts, count", 1, 1),
    Column("attributes_captured", "captured attributes", 1, 1),
    Column("attribute_correlation_error", "correlation error"),
)


ATTRIBUTE_SECTIONS = ("transparency", "attributes")


def with_ghost_counts(figures: Record) -> Record:
    """Adds the number of ghosted prototypes to a model's figures."""
    return {**figures, "ghosted": figures["ghosting"] * figures["n_prototypes"]}


def run_attributes(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Counts the attributes that each model's prototypes capture, against the number of prototypes."""
    rows = []
    for model in (model for model in plan.models if model.endswith(KMEX)):
        records_by_setting = _measure_variants(plan, bench, cells, "attributes", _ATTRIBUTES, model, ATTRIBUTE_SECTIONS)
        for names, labels in records_by_setting.items():
            for label, records in labels.items():
                figures = [with_ghost_counts(record["figures"]) for record in records]
                rows.append(Row((*names, title_of(model), label), gather(figures, ATTRIBUTE_COLUMNS)))
    return Findings(("data", "network", "model", "per class"), ATTRIBUTE_COLUMNS, rows)


def lacks_attributes(data: DataBundle) -> str | None:
    """Returns why an experiment on attributes cannot use these data, or None."""
    return None if data.attributes is not None else f"{data.name!r} has no attributes; glyphs, styles and celeba have"


def draw_similarities(findings: Findings) -> "Figure":
    """Draws a small radar for each similarity, over the radar of the paper's ``l2`` (paper, Figure 8)."""
    from matplotlib.figure import Figure

    from lookalike.plots import plot_radar

    radars_by_setting = {setting: radars for setting, radars in findings.details["radars"].items() if "l2" in radars}
    labels = list(dict.fromkeys(label for radars in radars_by_setting.values() for label in radars if label != "l2"))
    if not labels:
        raise LookalikeError("there is no similarity to compare with l2")
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(columns * 2.6, rows * 2.3 * len(radars_by_setting)), layout="constrained")
    axes = figure.subplots(rows * len(radars_by_setting), columns, squeeze=False, subplot_kw={"projection": "polar"})
    for setting_index, (setting, radars) in enumerate(radars_by_setting.items()):
        for position in range(rows * columns):
            ax = axes[setting_index * rows + position // columns][position % columns]
            if position >= len(labels) or labels[position] not in radars:
                ax.set_axis_off()
                continue
            label = labels[position]
            plot_radar({"l2": radars["l2"], label: radars[label]}, ax=ax)
            ax.get_legend().remove()
            ax.tick_params(axis="x", labelsize=8, pad=2)
            ax.set_title(f"{setting.partition(',')[0]}: {label}", fontsize=10, pad=8)
    handles = axes[0][0].get_lines()[:2]
    figure.legend(
        handles, ["l2", "the other"], loc="outside lower center", ncols=2, frameon=False, fontsize=9, handlelength=3
    )
    return figure


def draw_numbers(findings: Findings) -> "Figure":
    """Draws the figures against the number of prototypes per class, without ``auto`` (paper, Figure 9)."""
    columns = tuple(
        column for column in _COLUMNS if column.name not in ("n_prototypes", "cluster_seconds", "agreement")
    )
    return draw_against_numbers(findings, columns, 2)


def draw_attributes(findings: Findings) -> "Figure":
    """Draws the attributes captured against the number of prototypes per class (paper, Figure 5)."""
    return draw_against_numbers(findings, ATTRIBUTE_COLUMNS, 3)


def line_style(position: int) -> dict[str, Any]:
    """Returns the style of a plot's line by its position. Lines differ both in colour and in dashes."""
    return {
        "color": SERIES[position % len(SERIES)],
        "linestyle": DASHES[position % len(DASHES)],
        "marker": "o",
        "markersize": 3,
    }


def draw_against_numbers(findings: Findings, columns: Sequence[Column], position_of_number: int) -> "Figure":
    """Draws each figure against the number of prototypes, with a band over the seeds' range.

    There is a panel per figure, and in it a line per data set, network and model.

    Args:
        findings: Findings of an experiment.
        columns: Figures to draw.
        position_of_number: Index of the number per class among a row's names. Rows without a number are left out.
    """
    from matplotlib.figure import Figure

    from lookalike.plots.tiles import INK, plain_axes

    def number(row: Row) -> str:
        return row.names[position_of_number]

    panels_per_row = min(_IN_A_ROW, len(columns))
    panel_rows = -(-len(columns) // panels_per_row)
    figure = Figure(figsize=(_PANEL * panels_per_row, _PANEL * 0.85 * panel_rows), layout="constrained")
    axes = figure.subplots(panel_rows, panels_per_row, squeeze=False).flatten()
    series: dict[str, list[Row]] = {}
    for row in findings.rows:
        if number(row).isdigit():
            series.setdefault(", ".join(row.names[: len(findings.heads) - 1]), []).append(row)
    for ax, column in zip(axes, columns, strict=False):
        plain_axes(ax, (_PANEL, _PANEL))
        for position, (name, rows) in enumerate(series.items()):
            drawn = [row for row in rows if row.values.get(column.name)]
            if not drawn:
                continue
            x = [int(number(row)) for row in drawn]
            values = [[value * column.scale for value in row.values[column.name]] for row in drawn]
            style = line_style(position)
            ax.plot(x, [fmean(v) for v in values], label=name, **style)
            ax.fill_between(x, [min(v) for v in values], [max(v) for v in values], color=style["color"], alpha=0.15)
        low, high = ax.get_ylim()
        if low < 0 < high and not any(any(row.values.get(column.name, [])) for row in findings.rows):
            ax.set_ylim(0, 1)  # a figure that is zero throughout would get a range below zero, too
        ax.set_xscale("log")
        ticks = sorted({int(number(row)) for rows in series.values() for row in rows})
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("prototypes per class", color=INK, fontsize=9)
        ax.set_ylabel(column.title, color=INK, fontsize=9)
    for ax in axes[len(columns) :]:
        ax.set_axis_off()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=8)
    return figure


_PAIRED = ("accuracy", "explanation_divergence", "auroc", "diversity")

for _name, _experiment in {
    "similarities": Experiment(
        "Eleven similarities", "Figure 8", run_similarities, draw_similarities, pairing=Pairing("l2", _PAIRED)
    ),
    "n-prototypes": Experiment(
        "Number of prototypes per class", "Figure 9", run_numbers, draw_numbers, pairing=Pairing("1", _PAIRED)
    ),
    "clustering": Experiment("Clusterers", "Table 13, widened", run_clusterers, pairing=Pairing("kmeans", _PAIRED)),
    "attributes": Experiment(
        "Attributes that prototypes show", "Figure 5", run_attributes, draw_attributes, lacking=lacks_attributes
    ),
}.items():
    EXPERIMENTS.register(_name)(_experiment)
