"""What an experiment is, and what all of them are told."""

import json
from collections.abc import Callable, Sequence
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
from lookalike.experiments.tables import Column, Row, as_csv, markdown
from lookalike.experiments.workbench import KMEX, MODELS, SMALL, Subject, Workbench, data_name, network_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = ("png", "svg")


@dataclass(frozen=True)
class Plan:
    """What to run an experiment on.

    Attributes:
        datasets: Data sets by name.
        networks: What black boxes and baselines are built on.
        seeds: Of training, conversion and measurement.
        models: Which prototype models.
        quick: A few epochs and images only, to see that all works.
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
            if not getattr(self, name):
                raise LookalikeError(f"an experiment needs {name}")
        for given, called in ((self.datasets, data_name), (self.networks, network_name)):
            shown: dict[str, str] = {}
            for one in given:
                other = shown.setdefault(called(one), one)
                if other != one:
                    raise LookalikeError(
                        f"{other!r} and {one!r} would both be called {called(one)!r} in tables; "
                        "run them one at a time, into different folders"
                    )

    def places(self) -> list[tuple[str, str]]:
        """Returns every data set with every network."""
        return [(dataset, network) for dataset in self.datasets for network in self.networks]

    def subjects(self, dataset: str, network: str, model: str) -> list[Subject]:
        """Returns a model on a data set, once per seed."""
        return [Subject(dataset, network, model, seed) for seed in self.seeds]

    def first_subject(self, dataset: str) -> Subject:
        """Returns KMEx on a data set, of the first network and seed: for what all models have in common."""
        return Subject(dataset, self.networks[0], KMEX, self.seeds[0])


def named(dataset: str, network: str) -> tuple[str, str]:
    """Returns what a data set and a network are called in tables."""
    return data_name(dataset), network_name(network)


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        heads: Headings of the table's first columns.
        columns: Its figures.
        rows: Its lines.
        details: What is needed beyond the table.
        remarks: Sentences that belong beneath it.
    """

    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """Returns the table."""
        return markdown(self.heads, self.columns, self.rows)


@dataclass(frozen=True)
class Experiment:
    """A registered experiment.

    Attributes:
        title: One line.
        source: Where in the paper.
        run: Does it.
        draw: Draws its figure from what it found, where the paper has one.
        pictures: More figures, by name, each drawn from the models themselves when it is called.
        lacking: Says what data lack that it needs, or None; it runs on any if it is None.
    """

    title: str
    source: str
    run: Callable[[Plan, Workbench, Cells], Findings]
    draw: "Callable[[Findings], Figure] | None" = None
    pictures: "Callable[[Plan, Workbench], dict[str, Callable[[], Figure]]] | None" = None
    lacking: Callable[[DataBundle], str | None] | None = None

    def suited(self, plan: Plan, bench: Workbench) -> tuple[tuple[str, ...], list[str]]:
        """Returns a plan's data sets that it can run on, and why it cannot on the others."""
        if self.lacking is None:
            return plan.datasets, []
        reasons = {dataset: self.lacking(bench.data(plan.first_subject(dataset))) for dataset in plan.datasets}
        return tuple(one for one in reasons if reasons[one] is None), [why for why in reasons.values() if why]


EXPERIMENTS: Registry[Experiment] = Registry("experiment")


def with_data(plan: Plan, bench: Workbench) -> tuple[Plan, dict[str, str]]:
    """Returns a plan without the data sets that cannot be read, and why each of these cannot.

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
    there = tuple(dataset for dataset in plan.datasets if dataset not in failed)
    if not there:
        raise LookalikeError(next(iter(failed.values())))
    return replace(plan, datasets=there), failed


def draw_findings(name: str, plan: Plan, found: Findings, folder: Path, bench: Workbench, cells: Cells) -> list[str]:
    """Writes an experiment's figures as PNG and SVG; one that fails is reported in ``cells``, and the others go on.

    Returns:
        The figures' names: their files without an ending.
    """
    experiment = EXPERIMENTS[name]
    drawing: dict[str, Callable[[], Figure]] = {}
    if experiment.draw is not None:
        drawing[name] = partial(experiment.draw, found)
    if experiment.pictures is not None:
        drawing |= {f"{name}-{key}": draw for key, draw in experiment.pictures(plan, bench).items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [key for key, draw in drawing.items() if cells.attempt(f"figure {key}", _draw, draw, folder, key)]


def _draw(draw: "Callable[[], Figure]", folder: Path, key: str) -> list[Path]:
    figure, files = draw(), [folder / f"{key}.{ending}" for ending in _ENDINGS]
    for file in files:
        with replacing_file(file) as aside:
            figure.savefig(aside, format=file.suffix[1:], dpi=150)
    return files


def write_findings(
    name: str, plan: Plan, found: Findings, folder: Path, cells: Cells, figures: Sequence[str] = ()
) -> list[Path]:
    """Writes an experiment's Markdown, CSV and JSON, which show its figures; returns the files of all."""
    title = EXPERIMENTS[name].title + (", a quick look" if plan.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    failures = [f"- {cell} failed: {reason}" for cell, reason in cells.failed.items()]
    shown = [f"![{key}]({key}.png)" for key in figures]
    measured = _distinct([one["made"] for one in cells.used.values()])
    parts = [f"# {title}", describe(measured, plan.seeds), found.to_markdown(), *shown, *found.remarks]
    text = "\n\n".join([*parts, *(["\n".join(failures)] if failures else [])])
    values = {
        "experiment": name,
        "plan": asdict(plan),
        "heads": list(found.heads),
        "columns": [asdict(column) for column in found.columns],
        "rows": [
            {"names": list(row.names), "values": {k: list(v) for k, v in row.values.items()}} for row in found.rows
        ],
        "details": found.details,
        "remarks": found.remarks,
        "figures": [f"{key}.png" for key in figures],
        "failed": cells.failed,
        "measured": measured,
        "cells": {cell: one["options"] for cell, one in cells.used.items()},
    }
    contents = {
        f"{name}.md": text + "\n",
        f"{name}.csv": as_csv(found.heads, found.columns, found.rows),
        f"{name}.json": json.dumps(values, indent=1) + "\n",
    }
    for file, content in contents.items():
        write_whole(folder / file, content)
    return [folder / file for file in (*contents, *(f"{key}.{ending}" for key in figures for ending in _ENDINGS))]


def _distinct(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [value for position, value in enumerate(values) if value and value not in values[:position]]


def describe(measured: list[dict[str, Any]], seeds: tuple[int, ...] | list[int]) -> str:
    """Says when and on what an experiment was measured, and with how many seeds.

    Example:
        >>> describe([{"date": "2026-01-02", "machine": "x86, 2 threads"}], [0, 1])
        '2026-01-02, x86, 2 threads, 2 seeds.'
    """
    dates = sorted({one["date"] for one in measured})
    machines = list(dict.fromkeys(one["machine"] for one in measured))
    when = [dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"] if dates else []
    return ", ".join([*when, *machines, f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]) + "."


def read_findings(path: str | Path) -> Findings:
    """Reads an experiment's JSON again.

    Raises:
        LookalikeError: If it is none.
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
