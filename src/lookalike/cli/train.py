"""``lookalike train``."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike.cli.console import err, fail, guarded, out, percent, print_facts, print_json, print_notes, say
from lookalike.cli.options import (
    AsStored,
    Device,
    Json,
    Labels,
    LargeImages,
    OnError,
    Overwrite,
    Seed,
    SplitSeed,
    ValueRange,
    Workers,
    read_pairs,
    read_range,
)

if TYPE_CHECKING:
    from lookalike.baselines import Trained

_DEVICES = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "mps": "mps"}


@guarded
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="blackbox, protopnet, flint or protovae.")],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", "-d", help="A dataset's name, or a folder with a sub-folder per class or a table of labels."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the trained model to.")],
    preset: Annotated[
        Literal["paper", "reference-code"], typer.Option(help="Whose hyper-parameters, where the two differ.")
    ] = "paper",
    network: Annotated[
        str | None, typer.Option(help="torchvision:NAME, timm:NAME or lookalike:small-cnn; else the preset's.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint for the network to start from; read without running code.")
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which weights, where several sets in the checkpoint fit."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, not from published ones.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="How many; else the preset's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Else the preset's.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other hyper-parameter; repeatable. --show lists them."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show the hyper-parameters and stop.")] = False,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true, bf16-mixed, 16-mixed.")] = "32-true",
    devices: Annotated[int, typer.Option(min=1, help="On how many devices.")] = 1,
    labels: Labels = None,
    workers: Workers = 0,
    on_error: OnError = "stop",
    value_range: ValueRange = None,
    as_stored: AsStored = False,
    large_images: LargeImages = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="Save no pixel of any training image.")] = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a black box, or a prototype model to compare with. The same command goes on after an interruption."""
    from lookalike._core.errors import LookalikeError
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike._core.replacing import remove_folder
    from lookalike._core.working_folder import alone, lock_beside
    from lookalike.baselines import METHODS
    from lookalike.baselines import train as run
    from lookalike.baselines.hyperparameters import hyperparameters
    from lookalike.baselines.training import is_unfinished, remove_finished
    from lookalike.data import load_training_data

    made_by = METHODS[method]
    title = made_by.title
    own = {"network": network, "epochs": epochs, "learning_rate": learning_rate}
    given = {name: value for name, value in own.items() if value is not None} | read_pairs("--set", option)
    if from_scratch:
        given["pretrained"] = False
    chosen = hyperparameters(method, dataset, preset, given, defaults=made_by.defaults)
    if show:
        if json:
            print_json(chosen.to_dict())
        else:
            print_facts(f"{title} on {dataset}", {name: str(value) for name, value in chosen.to_dict().items()})
        return
    if device not in _DEVICES:
        raise LookalikeError(f"the device must be one of {', '.join(_DEVICES)}, not {device!r}")
    working = output.resolve().with_name(f"{output.resolve().name}.training")
    helper = os.environ.get("LOCAL_RANK", "0") != "0"  # Lightning runs the command once per device
    with nullcontext() if helper else alone(lock_beside(working)):
        if not helper:
            remove_finished(working, output)
        check_replaceable(output, overwrite=overwrite)
        bundle = load_training_data(
            dataset,
            chosen.image_size,
            seed=split_seed or 0,
            labels=labels,
            value_range=read_range(value_range),
            as_stored=as_stored,
            large_images=large_images,
            on_error=on_error,
        )
        going_on = is_unfinished(working)
        if not helper:
            doing = "Going on to train" if going_on else "Training"
            say(
                f"{doing} {title} ({chosen.network}) with {len(bundle.train):,} training images of "
                f"{len(bundle.class_names)} classes."
            )
        try:
            trained = run(
                method,
                bundle,
                preset=preset,
                options=chosen.to_dict(),
                weights=weights,
                weights_key=weights_key,
                seed=seed,
                working_folder=working,
                num_workers=workers,
                precision=precision,
                accelerator=_DEVICES[device],
                devices=devices,
                on_epoch=_tell,
            )
        except KeyboardInterrupt:
            fail(f"interrupted; the same command goes on after the last finished epoch, kept in {working}", 130)
        trained.save(output, images=not no_images, overwrite=overwrite)
        remove_folder(working)
    if json:
        passed_over = bundle.passed_over.to_dict()
        print_json(
            {"output": str(output), "log": trained.log, "provenance": trained.provenance}
            | {"notes": list(bundle.notes), "passed_over": passed_over}
        )
    else:
        _show(trained, bundle.notes, output)


def _tell(row: dict[str, Any]) -> None:
    tested = "" if row["test_accuracy"] is None else f", test {percent(row['test_accuracy'])}"
    err.print(
        f"epoch {row['epoch']} ({row['phase']}): loss {row['loss']:.4g}, training {percent(row['train_accuracy'])}"
        f"{tested}, {row['seconds']:.1f} s",
        style="dim",
    )


def _show(trained: "Trained", notes: tuple[str, ...], output: Path) -> None:
    from lookalike.model import PrototypeModel

    last = trained.log[-1]
    facts = {"epochs": str(last["epoch"]), "trained in": f"{trained.seconds:.1f} s"}
    if last["test_accuracy"] is not None:
        facts["test accuracy"] = percent(last["test_accuracy"])
    facts["saved to"] = str(output)
    print_facts("", facts)
    print_notes(notes)
    further = "evaluate" if isinstance(trained.model, PrototypeModel) else "convert"
    out.print(f"Next: lookalike {further} {output} …", style="dim", markup=False)
