"""``lookalike reproduce``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike._core.errors import LookalikeError
from lookalike.cli.console import err, guarded, out, print_json, print_table, say
from lookalike.cli.options import Json

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
        str, typer.Option(help="What all models are built on, with commas, e.g. torchvision:resnet34.")
    ] = "lookalike:small-cnn",
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 5,
    models: Annotated[
        str | None, typer.Option(help="Which models, with commas; else all. Some experiments are about KMEx alone.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, few epochs and images, written to OUTPUT/quick.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for models, figures and tables; it is taken up again.")
    ] = Path("experiments"),
    json: Json = False,
) -> None:
    """Repeat an experiment of the paper. Interrupted, the same command goes on where it stopped."""
    from lookalike.experiments import EXPERIMENTS, MODELS, Cells, Plan, Workbench, with_data

    if name is None:
        rows = [[key, EXPERIMENTS[key].title, EXPERIMENTS[key].source] for key in EXPERIMENTS]
        if json:
            print_json([dict(zip(("name", "title", "source"), row, strict=True)) for row in rows])
        else:
            print_table("Experiments", ["name", "what", "in the paper"], rows)
        return
    every = name == _ALL
    asked = Plan(
        _split(dataset),
        _split(network),
        (0,) if quick else tuple(range(seeds)),
        MODELS if models is None else _split(models),
        quick,
    )
    names = tuple(EXPERIMENTS) if every else (name,)
    experiments = {each: EXPERIMENTS[each] for each in names}  # an unknown name is told before anything is read
    bench = Workbench(output / ("quick" if quick else "full") / "models", quick, say=say)
    plan, failed = with_data(asked, bench)
    where = output / "quick" if quick else output
    files: list[Path] = []
    for each, experiment in experiments.items():
        cells = Cells(bench.folder.with_name("cells"), say)
        suited, reasons = experiment.suited(plan, bench)
        if not suited and not every:
            raise LookalikeError(reasons[0])
        for reason in reasons:
            say(f"{each}: {reason}")
        if not suited:
            continue
        arguments = (each, replace(plan, datasets=suited), bench, cells, where, not json)
        written = cells.attempt(each, _run, *arguments) if every else _run(*arguments)
        files += written or []
        failed |= cells.failed
        if not written and not cells.failed:
            nothing = f"{each} has nothing to show of {', '.join(plan.models)}"
            if not every:
                raise LookalikeError(nothing)
            say(nothing)
    if json:
        print_json({"files": [str(file) for file in files], "failed": failed})
    for cell, reason in failed.items():
        err.print(f"failed: {cell}: {reason}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _run(name: str, plan: "Plan", bench: "Workbench", cells: "Cells", folder: Path, show: bool) -> list[Path]:
    """Runs one experiment and writes what it found, if anything; an earlier table is not replaced by none."""
    from lookalike.experiments import EXPERIMENTS, draw_findings, write_findings
    from lookalike.experiments.tables import cell

    experiment = EXPERIMENTS[name]
    found = experiment.run(plan, bench, cells)
    if not found.rows:
        return []
    figures = draw_findings(name, plan, found, folder, bench, cells)
    files = write_findings(name, plan, found, folder, cells, figures)
    if show:
        print_table(
            experiment.title,
            [*found.heads, *(column.title for column in found.columns)],
            [[*row.names, *(cell(column, row) for column in found.columns)] for row in found.rows],
        )
        out.print(f"Written: {', '.join(map(str, files))}", style="dim", markup=False)
    return files


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
