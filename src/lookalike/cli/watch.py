"""``lookalike watch``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike._core.names import json_text
from lookalike.cli.console import guarded, out, print_json, print_line, print_notes
from lookalike.cli.options import Device, Images, Json, LargeImages, Network, OnError, SavedModel, open_model
from lookalike.cli.predict import read_batches, report_remarks, report_skipped

if TYPE_CHECKING:
    from lookalike.doubt.watched import WatchReport
    from lookalike.watching import Watch


@guarded
def watch(
    model: SavedModel,
    images: Images,
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
            help="A table (CSV, TSV, JSON lines) with the files of images watched now or before, and their classes.",
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

    from lookalike._core.errors import LookalikeError
    from lookalike.data import list_images
    from lookalike.watching import Watch

    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images)
    preprocessing = replace(preprocessing, large_images=large_images)
    watching = Watch(converted, bound=bound, state=state)
    skipped: list[str] = []
    remarks: dict[str, str] = {}
    reports: list[WatchReport] = []
    for names, inputs in read_batches(files, preprocessing, batch_size, on_error, skipped, remarks):
        report = watching.add(inputs, names=names)
        reports.append(report)
        if log is not None:
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json_text(report.to_dict()) + "\n")
        if json:
            typer.echo(json_text(report.to_dict(), ensure_ascii=True))
        else:
            for sentence in report.sentences():
                print_line(sentence)
    if not reports:
        raise LookalikeError(f"none of {len(files)} images could be read; the first: {skipped[0]}")
    if labels is not None:
        _take_labels(watching, labels, as_json=json)
    if modes is not None:
        _draw_modes(reports[-1], modes)
    print_notes(passed_over.sentences(), as_error=json)
    report_skipped(skipped)
    report_remarks(remarks)
    if reports[-1].alarm:
        raise typer.Exit(1)


def _take_labels(watching: "Watch", table_file: Path, *, as_json: bool) -> None:
    """Adds the labels of a table, whose first column is the file and whose second column is the class."""
    from lookalike._core.errors import LookalikeError
    from lookalike.data.table_file import read_table

    table = read_table(table_file)
    if len(table.rows[0]) < 2:
        raise LookalikeError(f"the table {str(table_file)!r} needs two columns: the image's file, and its class")
    counted = watching.add_labels(dict(zip(table.column(0), table.column(1), strict=True)))
    accuracy = watching.accuracy()
    if as_json:
        print_json({"labels": counted, **accuracy})
    else:
        value, low, high = (accuracy[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        print_line(
            f"{counted:,} labels added, {accuracy['n_labelled']:,} so far: {value:.1%} correct "
            f"({low:.1%} to {high:.1%}); {watching.expected_accuracy:.1%} of the validation images were"
        )


def _draw_modes(report: "WatchReport", file: Path) -> None:
    """Draws the images nearest to each new mode's centre, a row per mode; nothing without modes or their files."""
    from matplotlib.figure import Figure
    from PIL import UnidentifiedImageError

    from lookalike._core.replacing import replacing_file
    from lookalike.data import read_image

    rows: list[list[Any]] = []
    for mode in report.modes[:_MOST_DRAWN]:
        pictures = []
        for name in mode.names:
            try:
                pictures.append(read_image(Path(name)))
            except (OSError, ValueError, UnidentifiedImageError):  # moved since it was watched
                continue
        if pictures:
            rows.append([f"{mode.count} images", *pictures])
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


_MOST_DRAWN = 8
