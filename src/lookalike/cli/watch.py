"""``lookalike watch``."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike._core.errors import LookalikeError
from lookalike._core.names import json_text, visible
from lookalike._core.records import parse_json
from lookalike._core.wording import counted
from lookalike.cli.console import err, guarded, out, print_json, print_line, print_notes, print_result
from lookalike.cli.options import Device, Json, LargeImages, Network, OnError, SavedModel, open_model
from lookalike.cli.reading import ImageReader

if TYPE_CHECKING:
    from lookalike.data import Preprocessing
    from lookalike.watching import Watch


@guarded
def watch(
    model: SavedModel,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGES...]", help="Image files, or folders of them; none are needed with --labels."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps the state: the next call with it goes on from there.")
    ] = None,
    bound: Annotated[
        float, typer.Option(help="Largest probability of a false alarm over the whole life of the state.")
    ] = 0.01,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A table (CSV, TSV, JSON lines) with the files of images watched now or before, and their classes; "
            "in a third column, id, the images' ids where files repeat.",
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line per batch to this file.")] = None,
    modes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw new modes, by their images, into this PNG file.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images in a batch.")] = 100,
    network: Network = None,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Watch whether new images are still like those that the model was calibrated with. Exit code 1 is an alarm."""
    from dataclasses import replace

    from lookalike._core.files import check_writable
    from lookalike.data import list_images
    from lookalike.watching import Watch

    for place, begins in ((state, "{"), (modes, ""), (log, "{")):
        if place is not None and (place is not log or place.is_file() or not place.exists()):  # a log may be a device
            check_writable(place, overwrite=True, begins=begins)
    if not images and labels is None:
        raise LookalikeError(
            "there are no images to watch: give files or folders, or labels of earlier ones (--labels)"
        )
    if not images and (state is None or not state.exists()):
        raise LookalikeError("labels without images belong to images watched before: give the --state of that watch")
    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images) if images else ([], None)
    preprocessing = replace(preprocessing, large_images=large_images)
    watching = Watch(converted, bound=bound, state=state)
    if log is not None:
        _catch_up(log, watching.last_report)
    reader = ImageReader(files, preprocessing, batch_size, on_error)
    for names, inputs in reader.batches():
        report = watching.add(inputs, names=names)
        if log is not None:
            _append(log, report.to_dict())
        if json:
            print_result(json_text(report.to_dict(), ensure_ascii=True))
        else:
            for sentence in report.sentences():
                print_line(sentence)
    if labels is not None:
        _take_labels(watching, labels, as_json=json)
    if modes is not None:
        _draw_modes(watching, preprocessing, modes)
    if passed_over is not None:
        print_notes(passed_over.sentences(), as_error=json)
    reader.report()
    if watching.alarm:
        raise typer.Exit(1)


def _append(log: Path, report: dict[str, Any]) -> None:
    """Appends a report to the log as a line of JSON."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json_text({"time": time} | report) + "\n")


def _catch_up(log: Path, last: dict[str, Any] | None) -> None:
    """Appends the report of the last batch of an earlier run that was killed between its state and its log.

    A line that was cut off is removed first. Only the line that is next is appended: a new log may begin anywhere.
    """
    if last is None or (log.exists() and not log.is_file()):
        return
    content = log.read_bytes() if log.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    try:
        n_logged = parse_json(lines[-1])["batch"] if lines else 0
    except (LookalikeError, KeyError, TypeError):  # no line of ours
        return
    if n_logged == last["batch"] - 1:
        if len(whole) < len(content):
            os.truncate(log, len(whole))
        _append(log, last)


def _take_labels(watching: "Watch", table_file: Path, *, as_json: bool) -> None:
    """Adds the labels of a table: the file, the class, and perhaps a column of ids."""
    labels = _labels_of(watching, table_file)
    n_counted = watching.add_labels(labels)
    accuracy, n_unknown = watching.accuracy(), len(labels) - n_counted
    if as_json:
        print_json({"labels": n_counted, "labels_of_no_waiting_image": n_unknown, **accuracy})
    else:
        value, low, high = (accuracy[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        others = f" ({counted(n_unknown, 'other')} of no image that waits for its label)" if n_unknown else ""
        print_line(
            f"{counted(n_counted, 'label')} added{others}, {accuracy['n_labelled']:,} so far: {value:.1%} correct "
            f"({low:.1%} to {high:.1%}); {watching.expected_accuracy:.1%} of the validation images were"
        )


def _labels_of(watching: "Watch", table_file: Path) -> dict[str, str]:
    """Reads the classes of a table, by file, or by id where a row has one."""
    from lookalike.data.table_file import read_table

    table = read_table(table_file)
    header = table.header or []
    if not table.rows or len(table.rows[0]) < 2:
        raise LookalikeError(f"the table {str(table_file)!r} needs two columns: the image's file, and its class")
    if len(header) > 1 and header[1] in watching.model.class_names:
        raise LookalikeError(
            f"the first line of {str(table_file)!r} is read as its header and has the class {visible(header[1])!r}: "
            "begin the table with the line 'file,class'"
        )
    names, classes = table.column(0), table.column(1)
    ids = table.column(header.index("id")) if "id" in header else [""] * len(names)
    labels: dict[str, str] = {}
    for name, own_id, label, line in zip(names, ids, classes, table.lines, strict=True):
        if labels.setdefault(own_id or name, label) != label:
            raise LookalikeError(
                f"line {line} of {str(table_file)!r} gives {visible(own_id or name)!r} another class than a line before"
            )
    return labels


def _draw_modes(watching: "Watch", preprocessing: "Preprocessing", file: Path) -> None:
    """Draws the images nearest to each new mode's centre, a row per mode; nothing without modes or their files."""
    from matplotlib.figure import Figure

    from lookalike._core.replacing import replacing_file

    rows: list[list[Any]] = []
    modes = watching.modes()
    n_lost = 0
    for mode in modes[:_MOST_DRAWN]:
        pictures = [_picture(name, own_id, preprocessing) for name, own_id in zip(mode.names, mode.ids, strict=True)]
        n_lost += pictures.count(None)
        if any(picture is not None for picture in pictures):
            rows.append([counted(mode.count, "image"), *(picture for picture in pictures if picture is not None)])
    if n_lost:
        err.print(f"{counted(n_lost, 'image')} of new modes not drawn: the files are gone, or hold other images now.")
    if not rows:
        out.print("There are no new modes to draw.", style="dim")
        return
    columns = max(len(row) for row in rows) - 1
    figure = Figure(figsize=(1.3 * columns, 1.5 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (title, *pictures) in zip(grid, rows, strict=True):
        for ax in axes:
            ax.set_axis_off()
        axes[0].set_title(title, loc="left", fontsize=9)
        for ax, picture in zip(axes, pictures, strict=False):
            ax.imshow(picture, cmap="gray")
    with replacing_file(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _picture(name: str, own_id: str, preprocessing: "Preprocessing") -> Any:
    """Returns a watched image; None if its file is gone, or holds another image now, as a camera's does."""
    from lookalike.doubt.watched import image_id
    from lookalike.watching import content_of

    try:
        image = preprocessing.decode(Path(name))
        is_same = image_id(name, content_of(preprocessing(image)[None], 0)) == own_id
    except (LookalikeError, OSError, ValueError):  # no file, or none that can be read any more
        return None
    return image.convert("RGB") if is_same else None


_MOST_DRAWN = 8
