"""``lookalike train``."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike._core.wording import counted
from lookalike.cli.completion import METHODS, completing
from lookalike.cli.console import err, fail, guarded, out, percent, print_facts, print_json, print_notes, say
from lookalike.cli.options import (
    AsStored,
    Device,
    Json,
    Labels,
    LargeImages,
    OnError,
    Overwrite,
    ScaledDecoding,
    Seed,
    SplitSeed,
    ValueRange,
    accelerator_of,
    note_unused_split_seed,
    read_pairs,
    read_range,
)

if TYPE_CHECKING:
    from lookalike.baselines import Trained
    from lookalike.data import DataBundle


@guarded
def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD", help="blackbox, protopnet, flint or protovae.", autocompletion=completing(METHODS)
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", "-d", help="A dataset's name, or a folder with a sub-folder per class or a table of labels."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the trained model to.")],
    preset: Annotated[
        Literal["paper", "reference-code"],
        typer.Option(help="Source of the hyper-parameters, where paper and reference code differ."),
    ] = "paper",
    network: Annotated[
        str | None, typer.Option(help="torchvision:NAME, timm:NAME or lookalike:small-cnn; by default the preset's.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A checkpoint to start from; read without running code.")] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which weights to take, if several sets in the checkpoint fit."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", metavar="", help="Start from random weights instead of published ones.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of epochs, of ProtoPNet without those of its last layer; by default the preset's."
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; by default the preset's.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other hyper-parameter; repeatable. --show lists them."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", metavar="", help="Show the hyper-parameters and exit.")] = False,
    precision: Annotated[
        str, typer.Option(help="Precision as Lightning names it: 32-true, bf16-mixed, 16-mixed.")
    ] = "32-true",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")] = 1,
    labels: Labels = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of processes that read images; 0 reads in the process that trains.",
            rich_help_panel="Running",
        ),
    ] = 0,
    on_error: OnError = "stop",
    value_range: ValueRange = None,
    as_stored: AsStored = False,
    scaled_decoding: ScaledDecoding = False,
    large_images: LargeImages = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", metavar="", help="Save no pixels of training images.")
    ] = False,
    no_names: Annotated[
        bool, typer.Option("--no-names", metavar="", help="Save no file names of training images.")
    ] = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a black box, or a prototype model to compare with. After an interruption, the same command resumes."""
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike._core.replacing import remove_folder, try_writing
    from lookalike._core.working_folder import alone, lock_beside
    from lookalike.baselines import METHODS, hyperparameters
    from lookalike.baselines import train as train_baseline
    from lookalike.baselines.training import remove_finished
    from lookalike.data import load_training_data
    from lookalike.saved import check_no_edits

    baseline = METHODS[method]
    title = baseline.title
    overrides = {"network": network, "epochs": epochs, "learning_rate": learning_rate}
    options = {name: value for name, value in overrides.items() if value is not None} | read_pairs("--set", option)
    options |= {"pretrained": False} if from_scratch else {}
    settings = hyperparameters(method, dataset, preset, options, defaults=baseline.defaults)
    if show:
        _show_settings(settings.to_dict(), f"{title} on {dataset}", json=json)
        return
    accelerator = accelerator_of(device)
    working_folder = output.resolve().with_name(f"{output.resolve().name}.training")
    try_writing(output)
    is_helper_process = os.environ.get("LOCAL_RANK", "0") != "0"  # Lightning runs the command once per device
    with nullcontext() if is_helper_process else alone(lock_beside(working_folder)):
        if not is_helper_process:
            remove_finished(working_folder, output)
        check_replaceable(output, overwrite=overwrite)
        check_no_edits(output)
        reading: Any = {"value_range": read_range(value_range), "as_stored": as_stored, "on_error": on_error}
        reading |= {"scaled_decoding": scaled_decoding, "large_images": large_images}
        bundle = load_training_data(dataset, settings.image_size, seed=split_seed or 0, labels=labels, **reading)
        if not is_helper_process:
            note_unused_split_seed(bundle, split_seed)
            _announce(f"{title} ({settings.network})", bundle, working_folder)
        try:
            trained = train_baseline(
                method,
                bundle,
                preset=preset,
                options=settings.to_dict(),
                weights=weights,
                weights_key=weights_key,
                seed=seed,
                working_folder=working_folder,
                num_workers=workers,
                precision=precision,
                accelerator=accelerator,
                devices=devices,
                on_epoch=_report_epoch,
            )
        except KeyboardInterrupt:
            fail(f"interrupted; the same command goes on after the last finished epoch, kept in {working_folder}", 130)
        trained.save(output, images=not no_images, names=not no_names, overwrite=overwrite)
        remove_folder(working_folder)
    if json:
        print_json(_record_of(trained, bundle, output))
    else:
        _show(trained, bundle.notes, output)


def _announce(subject: str, bundle: "DataBundle", working_folder: Path) -> None:
    """Says what is trained, before it takes long."""
    from lookalike.baselines.training import is_unfinished

    verb = "Going on to train" if is_unfinished(working_folder) else "Training"
    say(f"{verb} {subject} with {counted(len(bundle.train), 'training image')} of {len(bundle.class_names)} classes.")


def _record_of(trained: "Trained", bundle: "DataBundle", output: Path) -> dict[str, Any]:
    """Returns the result as plain values."""
    return {
        "output": str(output),
        "log": trained.log,
        "provenance": trained.provenance,
        "notes": list(bundle.notes),
        "passed_over": bundle.passed_over.to_dict(),
    }


def _show_settings(settings: dict[str, Any], title: str, *, json: bool) -> None:
    """Prints the hyper-parameters that a training would have."""
    if json:
        print_json(settings)
    else:
        print_facts(title, {name: str(value) for name, value in settings.items()})


def _report_epoch(row: dict[str, Any]) -> None:
    """Reports a finished epoch on standard error."""
    test_part = "" if row["test_accuracy"] is None else f", test {percent(row['test_accuracy'])}"
    err.print(
        f"epoch {row['epoch']} ({row['phase']}): loss {row['loss']:.4g}, training {percent(row['train_accuracy'])}"
        f"{test_part}, {row['seconds']:.1f} s",
        style="dim",
    )


def _show(trained: "Trained", notes: tuple[str, ...], output: Path) -> None:
    """Prints the result for people."""
    from lookalike.model import PrototypeModel

    last_epoch = trained.log[-1]
    facts = {"epochs": str(last_epoch["epoch"]), "trained in": f"{trained.seconds:.1f} s"}
    if last_epoch["test_accuracy"] is not None:
        facts["test accuracy"] = percent(last_epoch["test_accuracy"])
    facts["saved to"] = str(output)
    print_facts("", facts)
    print_notes(notes)
    next_command = "evaluate" if isinstance(trained.model, PrototypeModel) else "convert"
    out.print(f"Next: lookalike {next_command} {output} …", style="dim", markup=False)
