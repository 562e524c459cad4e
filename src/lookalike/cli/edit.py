"""``lookalike edit``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike._core.wording import counted
from lookalike.cli.console import guarded, out, print_json, print_line, print_table
from lookalike.cli.options import (
    Corrections,
    Device,
    Json,
    Labels,
    Network,
    OnError,
    Overwrite,
    SavedModel,
    build_network,
    load_corrected,
    load_with_roles,
    naming_network_option,
    open_model,
    pick_device,
    split_seed_of,
)
from lookalike.cli.reading import report_skipped

if TYPE_CHECKING:
    from lookalike.editing import EditSession

TrainingData = Annotated[
    str | None,
    typer.Option(
        "--data", help="The folder or data set that the model was converted with; most edits need its images."
    ),
]
Validation = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Images to judge edits on, that the model was not made from; by default every fifth training image.",
    ),
]
Who = Annotated[str | None, typer.Option(help="Who edits, for the log; by default the login name.")]


@dataclass(frozen=True)
class EditedData:
    """The data of a session.

    Attributes:
        data: The data of the conversion, or None.
        validation: Data to judge edits on, or None.
        labels: Table of the classes of ``data``'s image files, or None.
        corrections: Corrected training labels that the conversion was given, or None.
        on_error: What to do about an image that cannot be read, ``"stop"`` or ``"skip"``.
    """

    data: str | None
    validation: str | None = None
    labels: str | None = None
    corrections: Path | None = None
    on_error: Literal["stop", "skip"] = "stop"


@guarded
def edit(
    model: SavedModel,
    script: Annotated[
        Path | None, typer.Argument(metavar="[SCRIPT]", help="A YAML or JSON list of edits; without it, show the log.")
    ] = None,
    data: TrainingData = None,
    validation: Validation = None,
    labels: Labels = None,
    corrections: Corrections = None,
    on_error: OnError = "stop",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the edited model here; by default to MODEL itself.")
    ] = None,
    undo: Annotated[int, typer.Option(min=0, help="Number of edits to undo, before the script.")] = 0,
    redo: Annotated[int, typer.Option(min=0, help="Number of edits to redo, before the script.")] = 0,
    go_to: Annotated[
        int | None, typer.Option("--go-to", min=0, help="Number of the edit in the log to go to; 0 is before all.")
    ] = None,
    open_test: Annotated[
        str | None,
        typer.Option(
            "--open-test", metavar="WHY", help="Also measure on DATA's test part. Each time is counted in the log."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Show the effects and write nothing.")] = False,
    who: Who = None,
    network: Network = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Change a model's prototypes by a script of edits, undo them, or show their log."""
    from lookalike._core.errors import LookalikeError
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike._core.replacing import try_writing
    from lookalike.editing import read_script, run_step

    if dry_run and open_test is not None:
        raise LookalikeError("--open-test is counted in the log, and --dry-run writes none; leave one of them out")
    if output is not None and not dry_run:
        check_replaceable(output, overwrite=overwrite)
    elif not dry_run and (script is not None or undo or redo or go_to is not None or open_test is not None):
        try_writing(model)
    steps = [] if script is None else read_script(script)
    session = open_for_editing(
        model, EditedData(data, validation, labels, corrections, on_error), network=network, device=device, who=who
    )
    revision = session.history.revision
    for _ in range(undo):
        session.undo()
    for _ in range(redo):
        session.redo()
    if go_to is not None:
        session.go_to(go_to)
    entries = [
        run_step(session, step, number, None if script is None else script.parent)
        for number, step in enumerate(steps, 1)
    ]
    opened = None
    if open_test is not None:
        if data is None:
            raise LookalikeError("--open-test measures on the test part of DATA: give --data DATA")
        opened = session.open_test(open_test)
    if not dry_run and (session.history.revision != revision or output is not None):
        session.save(output or model, overwrite=output is None or overwrite)
    if json:
        print_json(
            {
                "log": session.log(),
                "head": session.history.head,
                "test": None if opened is None else opened.to_dict(),
                "test_opened": len(session.history.openings),
                "prototypes": len(session.state),
            }
        )
        return
    _print_entries(session, [entry.number for entry in entries] if entries else None)
    if opened is not None:
        print_line(f"Test part, before all edits and now: {opened.sentence()}.")
    if session.history.openings:
        print_line(f"The test part was looked at {counted(len(session.history.openings), 'time')}.")
    if dry_run:
        out.print("Nothing was written (--dry-run).", style="dim")


def open_for_editing(
    model: Path, given: EditedData, *, network: str | None, device: str, who: str | None
) -> "EditSession":
    """Opens a saved model for editing, with its training, validation and test data.

    Raises:
        LookalikeError: If the model or the data cannot be read, or do not fit each other.
    """
    from lookalike._core.errors import LookalikeError
    from lookalike.data import Batches, with_roles
    from lookalike.editing import open_session
    from lookalike.model.hub import is_address

    if is_address(model):
        raise LookalikeError(
            f"{str(model)!r} is not on this machine, and edits are saved beside the model: keep a copy first, in "
            f"Python: lookalike.load({str(model)!r}).save('FOLDER')"
        )
    for option, value in (("--labels", given.labels), ("--corrections", given.corrections)):
        if value is not None and given.data is None:
            raise LookalikeError(f"{option} is about the training images: give them, too (--data DATA)")
    built = None if network is None else build_network(network, model)
    options: dict[str, Any] = {"who": who}
    train = None
    if given.data is not None or given.validation is not None:
        converted, preprocessing = open_model(model, network, device)
    if given.validation is not None:
        bundle = load_with_roles(converted, given.validation, preprocessing, labels=None, split_seed=None)
        options["validation"] = Batches(bundle.test, on_error=given.on_error)
    if given.data is not None:
        seed = split_seed_of(converted, None)
        bundle = load_corrected(
            given.data, preprocessing, given.corrections, seed=seed, labels=given.labels, min_classes=1
        )
        train = Batches(bundle.train, on_error=given.on_error)
        options["test"] = lambda: Batches(with_roles(bundle, converted.training_record).test, on_error=given.on_error)
    with naming_network_option(network):
        session = open_session(model, train, network=built, device=pick_device(device), **options)
    read = [batches for batches in (train, options.get("validation")) if batches is not None]
    report_skipped([message for batches in read for message in batches.skipped.values()])
    return session


def _print_entries(session: "EditSession", numbers: list[int] | None) -> None:
    """Prints edits with their effects: those of the given numbers, or all of the log."""
    entries = [entry for entry in session.history.entries[1:] if numbers is None or entry.number in numbers]
    if not entries:
        print_line("There are no edits.")
        return
    present = {0, *(entry.number for entry in session.history.path())}
    rows = []
    for entry in entries:
        accuracy = "–"
        changed = "–"
        if entry.effect is not None:
            before, after, _ = entry.effect["accuracy"]
            accuracy = f"{before['value']:.1%} → {after['value']:.1%}"
            changed = f"{entry.effect['n_changes']:,}"
        state = "" if entry.number in present else " (undone)"
        rows.append([f"{entry.number} {entry.sentence}{state}", entry.note, entry.who, accuracy, changed])
    print_table("Edits", ["edit", "why", "who", "accuracy", "changed predictions"], rows)
    judged_parts = {entry.effect["part"] for entry in entries if entry.effect is not None}
    if judged_parts:
        print_line(f"Measured on {' and '.join(sorted(judged_parts))} images.")
    print_line(f"The model is at edit {session.history.head}; --undo, --redo and --go-to move it.")
