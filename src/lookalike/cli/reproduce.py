"""``lookalike reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.console import err, guarded, out, print_json, print_table, say
from lookalike.cli.options import Json
from lookalike.errors import LookalikeError

if TYPE_CHECKING:
    from lookalike.experiments import Cells, Plan, Workbench

_ALL = "all"


@guarded
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="An experiment, or all; without one, they are listed.")
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="Data sets, with commas; a folder with one sub-folder per class.")
    ] = "digits",
    network: Annotated[
        str, typer.Option(help="What models are built on, with commas, e.g. torchvision:resnet34.")
    ] = "lookalike:small-cnn",
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 5,
    models: Annotated[str | None, typer.Option(help="Which models, with commas; else all.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, few epochs and images: to see that it works.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for models, figures and tables; it is taken up again.")
    ] = Path("experiments"),
    json: Json = False,
) -> None:
    """Repeat an experiment of the paper. Interrupted, the same command goes on where it stopped."""
    from lookalike.experiments import EXPERIMENTS, MODELS, Cells, Plan, Workbench

    if name is None:
        rows = [[key, EXPERIMENTS[key].title, EXPERIMENTS[key].source] for key in EXPERIMENTS]
        if json:
            print_json([dict(zip(("name", "title", "source"), row, strict=True)) for row in rows])
        else:
            print_table("Experiments", ["name", "what", "in the paper"], rows)
        return
    names = tuple(EXPERIMENTS) if name == _ALL else (name,)
    plan = Plan(
        _split(dataset),
        _split(network),
        (0,) if quick else tuple(range(seeds)),
        MODELS if models is None else _split(models),
        quick,
    )
    kept = output / ("quick" if quick else "full")
    bench = Workbench(kept / "models", quick, say=say)
    files: list[Path] = []
    failed: dict[str, str] = {}
    for each in names:
        cells = Cells(kept / "cells")
        try:
            files += _run(each, plan, bench, cells, output, show=not json)
        except LookalikeError as error:
            if name != _ALL:
                raise
            failed[each] = str(error)
        failed |= cells.failed
    if json:
        print_json({"files": [str(file) for file in files], "failed": failed})
    for cell, reason in failed.items():
        err.print(f"failed: {cell}: {reason}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _run(name: str, plan: "Plan", bench: "Workbench", cells: "Cells", output: Path, show: bool) -> list[Path]:
    """Runs one experiment and writes what it found."""
    from lookalike.experiments import EXPERIMENTS, write_findings
    from lookalike.experiments.experiment import read_findings

    experiment = EXPERIMENTS[name]
    found = experiment.run(plan, bench, cells)
    pictures = {}
    if experiment.pictures is not None and found.rows:
        try:
            pictures = experiment.pictures(plan, bench)
        except LookalikeError as error:  # the table is not lost for it
            cells.failed[f"{name}: pictures"] = str(error)
    files = write_findings(name, plan, found, output, cells.failed, pictures)
    if show:
        shown = read_findings(output / f"{name}.json")
        print_table(
            experiment.title,
            [*shown.heads, *(column.title for column in shown.columns)],
            [line.strip("| ").split(" | ") for line in shown.to_markdown().splitlines()[2:]],
        )
        out.print(f"Written: {', '.join(map(str, files))}", style="dim", markup=False)
    return files


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
