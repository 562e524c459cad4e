"""What an experiment is, and what all of them are told."""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lookalike.errors import LookalikeError
from lookalike.experiments.cells import Cells
from lookalike.experiments.tables import Column, Row, as_csv, markdown
from lookalike.experiments.workbench import MODELS, SMALL, Subject, Workbench
from lookalike.provenance import versions
from lookalike.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        unknown = [model for model in self.models if model not in MODELS]
        if unknown:
            raise LookalikeError(f"no model is called {unknown[0]!r}; there are {', '.join(MODELS)}")
        for name in ("datasets", "networks", "seeds", "models"):
            if not getattr(self, name):
                raise LookalikeError(f"an experiment needs {name}")

    def places(self) -> list[tuple[str, str]]:
        """Returns every data set with every network."""
        return [(dataset, network) for dataset in self.datasets for network in self.networks]

    def subjects(self, dataset: str, network: str, model: str) -> list[Subject]:
        """Returns a model on a data set, once per seed."""
        return [Subject(dataset, network, model, seed) for seed in self.seeds]


def named(dataset: str, network: str) -> tuple[str, str]:
    """Returns what a data set and a network are called in tables: a folder by its own name alone."""
    return Path(dataset).name, network.partition(":")[2]


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
        pictures: Draws more, from the models themselves, by name.
    """

    title: str
    source: str
    run: Callable[[Plan, Workbench, Cells], Findings]
    draw: "Callable[[Findings], Figure] | None" = None
    pictures: "Callable[[Plan, Workbench], dict[str, Figure]] | None" = None


EXPERIMENTS: Registry[Experiment] = Registry("experiment")


def write_findings(
    name: str,
    plan: Plan,
    found: Findings,
    folder: Path,
    failed: Mapping[str, str],
    pictures: "Mapping[str, Figure] | None" = None,
) -> list[Path]:
    """Writes an experiment's Markdown, CSV and JSON, and its figure and pictures as PNG and SVG; returns the files."""
    experiment = EXPERIMENTS[name]
    figures = {f"{name}-{key}": figure for key, figure in (pictures or {}).items()}
    if experiment.draw is not None and found.rows:
        figures = {name: experiment.draw(found), **figures}
    folder.mkdir(parents=True, exist_ok=True)
    table = found.to_markdown()
    failures = [f"- {cell} failed: {reason}" for cell, reason in failed.items()]
    shown = [f"![{key}]({key}.png)" for key in figures]
    text = "\n\n".join(
        [f"# {experiment.title}", table, *shown, *found.remarks, *(["\n".join(failures)] if failures else [])]
    )
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
        "failed": dict(failed),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }
    contents = {
        f"{name}.md": text + "\n",
        f"{name}.csv": as_csv(found.heads, found.columns, found.rows),
        f"{name}.json": json.dumps(values, indent=1) + "\n",
    }
    for file, content in contents.items():
        (folder / file).write_text(content, encoding="utf-8")
    written = [folder / file for file in contents]
    for key, figure in figures.items():
        for ending in ("png", "svg"):
            written.append(folder / f"{key}.{ending}")
            figure.savefig(written[-1], dpi=150)
    return written


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


def machine() -> str:
    """Says what the experiment ran on."""
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
