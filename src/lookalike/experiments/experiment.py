"""Experiments: their plan, their findings, the registry, and the files that they write."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.registry import Registry
from lookalike._core.replacing import replacing_file
from lookalike.data import DataBundle
from lookalike.data.bundle import is_dataset
from lookalike.encoder import read_spec, rebuild
from lookalike.experiments.cells import Cells
from lookalike.experiments.paired import Pairing, paired_markdown
from lookalike.experiments.tables import Column, Row, as_csv, markdown
from lookalike.experiments.workbench import KMEX, MODELS, SMALL, Subject, Workbench, data_name, network_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = ("png", "svg")


@dataclass(frozen=True)
class Plan:
    """Data sets, networks, models and seeds of an experiment.

    Attributes:
        datasets: Names or folders of the data sets.
        networks: Networks that black boxes and baselines are built on.
        seeds: Seeds of training, conversion and measurement.
        models: Names of the prototype models.
        quick: Use a few epochs and images only, to check that everything works.
    """

    datasets: tuple[str, ...] = ("digits",)
    networks: tuple[str, ...] = (SMALL,)
    seeds: tuple[int, ...] = (0,)
    models: tuple[str, ...] = MODELS
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ("datasets", "networks", "models"):
            checks.names(name, getattr(self, name))
        for seed in checks.instance("seeds", self.seeds, (tuple, list), "a list of seeds"):
            checks.seed("seeds", seed)
        checks.flag("quick", self.quick)
        unknown = [model for model in self.models if model not in MODELS]
        if unknown:
            raise LookalikeError(f"no model is called {unknown[0]!r}; there are {', '.join(MODELS)}")
        for name in ("datasets", "networks", "seeds", "models"):
            entries = getattr(self, name)
            if not entries:
                raise LookalikeError(f"an experiment needs {name}")
            if len(set(entries)) < len(entries):
                raise LookalikeError(f"an experiment's {name} must differ: a repeated one would count twice")
        # Tables and files have short names, so two folders "a/birds" and "b/birds" could not be distinguished.
        for specs, short_name in ((self.datasets, data_name), (self.networks, network_name)):
            spec_by_name: dict[str, str] = {}
            for spec in specs:
                same_named = spec_by_name.setdefault(short_name(spec), spec)
                if same_named != spec:
                    raise LookalikeError(
                        f"{same_named!r} and {spec!r} would both be called {short_name(spec)!r} in tables; "
                        "run them one at a time, into different folders"
                    )

    def places(self) -> list[tuple[str, str]]:
        """Returns every pair of a data set and a network."""
        return [(dataset, network) for dataset in self.datasets for network in self.networks]

    def subjects(self, dataset: str, network: str, model: str) -> list[Subject]:
        """Returns a model on a data set as one subject per seed."""
        return [Subject(dataset, network, model, seed) for seed in self.seeds]

    def first_subject(self, dataset: str) -> Subject:
        """Returns KMEx with the first network and seed, to read data that all models on the data set share."""
        return Subject(dataset, self.networks[0], KMEX, self.seeds[0])


def table_names(dataset: str, network: str) -> tuple[str, str]:
    """Returns the names of a data set and a network in tables."""
    return data_name(dataset), network_name(network)


@dataclass(frozen=True)
class Findings:
    """Results of an experiment.

    Attributes:
        heads: Headings of the table's first columns.
        columns: The table's figures.
        rows: The table's lines.
        details: Results beyond the table, such as the values of a plot.
        remarks: Sentences to print below the table.
        test_images: Number of test images of data sets whose own division into training and test is not used.
    """

    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    test_images: dict[str, int] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """Returns the table in Markdown."""
        return markdown(self.heads, self.columns, self.rows)

    def to_paired_markdown(self, name: str, seeds: int, test_images: Mapping[str, int]) -> str:
        """Returns the rows' paired comparison in Markdown; "" if there is none.

        Args:
            name: Name of the experiment, which says what its rows are compared with.
            seeds: Number of seeds.
            test_images: Number of test images by data set.
        """
        pairing = EXPERIMENTS[name].pairing
        if pairing is None:
            return ""
        return paired_markdown(self.heads, self.columns, self.rows, pairing, seeds, test_images)


@dataclass(frozen=True)
class Experiment:
    """A registered experiment.

    Attributes:
        title: One line.
        source: Table, figure or section of the paper.
        run: Runs the experiment.
        draw: Draws its figure from the findings; None if the paper has no figure.
        pictures: Returns functions, by name, that draw more figures from the models themselves.
        lacking: Returns what a data set lacks for this experiment, or None. Without it, any data set will do.
        pairing: What the rows are compared with, seed by seed; None if nothing is.
        alone: Whether it runs only by its own name and not as one of ``all``: it would take longer than all others.
    """

    title: str
    source: str
    run: Callable[[Plan, Workbench, Cells], Findings]
    draw: "Callable[[Findings], Figure] | None" = None
    pictures: "Callable[[Plan, Workbench], dict[str, Callable[[], Figure]]] | None" = None
    lacking: Callable[[DataBundle], str | None] | None = None
    pairing: Pairing | None = None
    alone: bool = False

    def suited(self, plan: Plan, bench: Workbench) -> tuple[tuple[str, ...], list[str]]:
        """Returns a plan's data sets that the experiment can run on, and the reasons against the others."""
        if self.lacking is None:
            return plan.datasets, []
        reasons = {dataset: self.lacking(bench.data(plan.first_subject(dataset))) for dataset in plan.datasets}
        return tuple(dataset for dataset in reasons if reasons[dataset] is None), [
            reason for reason in reasons.values() if reason
        ]


EXPERIMENTS: Registry[Experiment] = Registry("experiment")


def with_data(plan: Plan, bench: Workbench) -> tuple[Plan, dict[str, str]]:
    """Returns the plan without the data sets that cannot be read, and each one's reason.

    Raises:
        LookalikeError: If a data set or a network is unknown, or no data set can be read.
    """
    for network in plan.networks:
        rebuild(read_spec(network))
    for dataset in plan.datasets:
        is_dataset(dataset)
    failed: dict[str, str] = {}
    for dataset in plan.datasets:
        try:
            bench.data(plan.first_subject(dataset))
        except (LookalikeError, OSError) as error:
            failed[dataset] = str(error)
    readable = tuple(dataset for dataset in plan.datasets if dataset not in failed)
    if not readable:
        raise LookalikeError(next(iter(failed.values())))
    return replace(plan, datasets=readable), failed


def draw_findings(name: str, plan: Plan, findings: Findings, folder: Path, bench: Workbench, cells: Cells) -> list[str]:
    """Writes an experiment's figures as PNG and SVG. If one fails, ``cells`` has the reason, and the others go on.

    Returns:
        The figures' names, which are the names of their files without an ending.
    """
    experiment = EXPERIMENTS[name]
    draw_functions: dict[str, Callable[[], Figure]] = {}
    if experiment.draw is not None:
        draw_functions[name] = partial(experiment.draw, findings)
    if experiment.pictures is not None:
        draw_functions |= {f"{name}-{key}": draw for key, draw in experiment.pictures(plan, bench).items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [key for key, draw in draw_functions.items() if cells.attempt(f"figure {key}", _draw, draw, folder, key)]


def _draw(draw: "Callable[[], Figure]", folder: Path, key: str) -> list[Path]:
    figure, files = draw(), [folder / f"{key}.{ending}" for ending in _ENDINGS]
    for file in files:
        with replacing_file(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], dpi=150)
    return files


def write_findings(
    name: str,
    plan: Plan,
    findings: Findings,
    folder: Path,
    cells: Cells,
    figures: Sequence[str] = (),
    test_images: Mapping[str, int] | None = None,
) -> list[Path]:
    """Writes an experiment's Markdown (which shows its figures), CSV and JSON. Returns all files, figures included.

    Args:
        name: Name of the experiment.
        plan: What was run.
        findings: What was found.
        folder: Folder of the files.
        cells: Cells of the experiment, for dates, machines and failures.
        figures: Names of the figures that were drawn.
        test_images: Number of test images by data set, for the intervals of paired differences in accuracy.
    """
    title = EXPERIMENTS[name].title + (", a quick look" if plan.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    failures = [f"- {cell} failed: {reason}" for cell, reason in cells.failed.items()]
    images = [f"![{key}]({key}.png)" for key in figures]
    measured = _distinct([cell["made"] for cell in cells.provenance.values()])
    paired = findings.to_paired_markdown(name, len(plan.seeds), test_images or {})
    tables = [findings.to_markdown(), *([paired] if paired else [])]
    paragraphs = [f"# {title}", describe(measured, plan.seeds), *tables, *images, *findings.remarks]
    text = "\n\n".join([*paragraphs, *(["\n".join(failures)] if failures else [])])
    values = {
        "experiment": name,
        "plan": asdict(plan),
        "heads": list(findings.heads),
        "columns": [asdict(column) for column in findings.columns],
        "rows": [
            {"names": list(row.names), "values": {k: list(v) for k, v in row.values.items()}} for row in findings.rows
        ],
        "details": findings.details,
        "remarks": findings.remarks,
        "figures": [f"{key}.png" for key in figures],
        "test_images": dict(test_images or {}),
        "failed": cells.failed,
        "measured": measured,
        "cells": {cell_name: cell["options"] for cell_name, cell in cells.provenance.items()},
    }
    contents = {
        f"{name}.md": text + "\n",
        f"{name}.csv": as_csv(findings.heads, findings.columns, findings.rows),
        f"{name}.json": json.dumps(values, indent=1) + "\n",
    }
    for file, content in contents.items():
        write_whole(folder / file, content)
    return [folder / file for file in (*contents, *(f"{key}.{ending}" for key in figures for ending in _ENDINGS))]


def _distinct(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [value for position, value in enumerate(values) if value and value not in values[:position]]


def describe(measured: list[dict[str, Any]], seeds: tuple[int, ...] | list[int]) -> str:
    """Describes when an experiment was measured, on which machines, and with how many seeds.

    Example:
        >>> describe([{"date": "2026-01-02", "machine": "x86, 2 threads"}], [0, 1])
        '2026-01-02, x86, 2 threads, 2 seeds.'
    """
    dates = sorted({environment["date"] for environment in measured})
    machines = list(dict.fromkeys(environment["machine"] for environment in measured))
    when = [dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"] if dates else []
    return ", ".join([*when, *machines, f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]) + "."


def read_findings(path: str | Path) -> Findings:
    """Reads an experiment's findings from its JSON file.

    Raises:
        LookalikeError: If the file is not the JSON of an experiment.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return Findings(
            tuple(values["heads"]),
            tuple(Column(**column) for column in values["columns"]),
            [Row(tuple(row["names"]), row["values"]) for row in values["rows"]],
            values["details"],
            values["remarks"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LookalikeError(f"{str(path)!r} holds no experiment's findings: {error}") from error
