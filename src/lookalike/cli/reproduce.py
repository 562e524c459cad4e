"""``lookalike reproduce``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike._core.errors import LookalikeError
from lookalike.cli.completion import DATASETS, EXPERIMENTS, MODELS, completing
from lookalike.cli.console import err, guarded, out, print_json, print_table, say
from lookalike.cli.options import Json, accelerator_of

if TYPE_CHECKING:
    from lookalike.experiments import Cells, Plan, Workbench

_ALL = "all"


@guarded
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of an experiment, or all; without a name, they are listed.",
            autocompletion=completing((*EXPERIMENTS, "all")),
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help="Data sets, separated by commas: names, or folders with one sub-folder per class.",
            autocompletion=completing(DATASETS, several=True),
        ),
    ] = "digits",
    network: Annotated[
        str, typer.Option(help="Networks of all models, separated by commas, e.g. torchvision:resnet34.")
    ] = "lookalike:small-cnn",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, starting from 0.")] = 5,
    models: Annotated[
        str | None,
        typer.Option(
            help="Models, separated by commas; by default all. Some experiments use only KMEx.",
            autocompletion=completing(MODELS, several=True),
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", metavar="", help="One seed, few epochs and images, written to OUTPUT/quick.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for models, figures and tables; a repeated command resumes from it."
        ),
    ] = Path("experiments"),
    device: Annotated[
        str,
        typer.Option(
            help="Where models are trained: cpu, cuda, mps or auto. They are measured on the CPU.",
            rich_help_panel="Running",
        ),
    ] = "cpu",
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that train and measure at the same time; the run times that are kept are then longer than "
            "alone.",
            rich_help_panel="Running",
        ),
    ] = 1,
    json: Json = False,
) -> None:
    """Repeat an experiment of the paper. After an interruption, the same command resumes."""
    from lookalike._core.replacing import try_writing

    if name is not None:
        try_writing(output / "tables")
    from lookalike.experiments import EXPERIMENTS, MODELS, Cells, Plan, Workbench, measure_in_processes, with_data

    accelerator = accelerator_of(device)
    if name is None:
        _list_experiments(json)
        return
    runs_all = name == _ALL
    requested = Plan(
        _split(dataset),
        _split(network),
        (0,) if quick else tuple(range(seeds)),
        MODELS if models is None else _split(models),
        quick,
    )
    names = [key for key in EXPERIMENTS if not EXPERIMENTS[key].alone] if runs_all else [name]
    experiments = {key: EXPERIMENTS[key] for key in names}  # refuses an unknown name before any data are read
    models_folder = output / ("quick" if quick else "full") / "models"
    bench = Workbench(models_folder, quick, say=say, accelerator=accelerator)
    plan, failed = with_data(requested, bench)
    results_folder = output / "quick" if quick else output
    files: list[Path] = []
    for experiment_name, experiment in experiments.items():
        cells = Cells(bench.folder.with_name("cells"), say)
        suited, reasons = experiment.suited(plan, bench)
        if not suited and not runs_all:
            raise LookalikeError(reasons[0])
        for reason in reasons:
            say(f"{experiment_name}: {reason}")
        if not suited:
            continue
        suited_plan = replace(plan, datasets=suited)
        if jobs > 1:
            measure_in_processes(experiment, suited_plan, bench, cells, jobs)
        arguments = (experiment_name, suited_plan, bench, cells, results_folder, not json)
        written = cells.attempt(experiment_name, _run, *arguments) if runs_all else _run(*arguments)
        files += written or []
        failed |= cells.failed
        if not written and not cells.failed:
            message = f"{experiment_name} has nothing to show of {', '.join(plan.models)}"
            if not runs_all:
                raise LookalikeError(message)
            say(message)
    if json:
        print_json({"files": [str(file) for file in files], "failed": failed})
    for cell, reason in failed.items():
        err.print(f"failed: {cell}: {reason}", style="bold red", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _list_experiments(json: bool) -> None:
    """Prints all experiments, with their titles and places in the paper."""
    from lookalike.experiments import EXPERIMENTS

    rows = [[key, EXPERIMENTS[key].title, EXPERIMENTS[key].source] for key in EXPERIMENTS]
    if json:
        print_json([dict(zip(("name", "title", "source"), row, strict=True)) for row in rows])
    else:
        print_table("Experiments", ["name", "what", "in the paper"], rows)


def _run(name: str, plan: "Plan", bench: "Workbench", cells: "Cells", folder: Path, show: bool) -> list[Path]:
    """Runs one experiment and writes its findings. Without findings, earlier files stay as they are."""
    from lookalike.experiments import EXPERIMENTS, draw_findings, write_findings
    from lookalike.experiments.tables import figures_as_text
    from lookalike.experiments.workbench import data_name

    experiment = EXPERIMENTS[name]
    findings = experiment.run(plan, bench, cells)
    if not findings.rows:
        return []
    figures = draw_findings(name, plan, findings, folder, bench, cells)
    test_images = {data_name(dataset): len(bench.data(plan.first_subject(dataset)).test) for dataset in plan.datasets}
    test_images |= findings.test_images
    files = write_findings(name, plan, findings, folder, cells, figures, test_images)
    if show:
        print_table(
            experiment.title,
            [*findings.heads, *(column.title for column in findings.columns)],
            [
                [*row.names, *figures]
                for row, figures in zip(findings.rows, figures_as_text(findings.columns, findings.rows), strict=True)
            ],
        )
        out.print(f"Written: {', '.join(map(str, files))}", style="dim", markup=False)
    return files


def _split(text: str) -> tuple[str, ...]:
    """Splits names at commas, without repeats."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
