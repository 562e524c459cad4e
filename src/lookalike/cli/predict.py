"""``lookalike predict``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.cli.console import err, guarded, percent, print_json, print_notes, print_table
from lookalike.cli.options import BatchSize, Device, Images, Json, Network, OnError, SavedModel, open_model
from lookalike.names import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookalike.data import Preprocessing


@guarded
def predict(
    model: SavedModel,
    images: Images,
    network: Network = None,
    batch_size: BatchSize = 64,
    on_error: OnError = "stop",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict the class of images, with the prototype that each looks most like."""
    from lookalike.data import list_images
    from lookalike.errors import LookalikeError
    from lookalike.explanation import explain
    from lookalike.progress import progress_bar

    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images)
    skipped: list[str] = []
    rows: list[dict[str, Any]] = []
    with progress_bar("Predicting", len(files)) as advance:
        for names, inputs in read_batches(files, preprocessing, batch_size, on_error, skipped):
            for found in explain(converted, inputs, n_nearest=1, names=names):
                nearest = found.likenesses[0]
                rows.append(
                    {
                        "file": found.name,
                        "prediction": found.class_name,
                        "probability": found.probability,
                        "prototype": nearest.prototype,
                        "similarity": nearest.similarity,
                        "unfamiliar": found.unfamiliar,
                    }
                )
            advance(len(names))
    if json:
        print_json({"predictions": rows, "skipped": skipped, "passed_over": passed_over.to_dict()})
        return
    if not rows:
        raise LookalikeError(f"none of {len(files)} images could be read; the first: {skipped[0]}")
    columns = ["file", "prediction", "probability", "prototype", "similarity", ""]
    cells = [
        [
            row["file"],
            row["prediction"],
            percent(row["probability"]),
            str(row["prototype"]),
            f"{row['similarity']:.4g}",
            "unfamiliar" if row["unfamiliar"] else "",
        ]
        for row in rows
    ]
    print_table("Predictions", columns, cells)
    print_notes(passed_over.sentences())
    report_skipped(skipped)


def read_batches(
    files: list[Path], preprocessing: "Preprocessing", batch_size: int, on_error: str, skipped: list[str]
) -> "Iterator[tuple[list[str], Any]]":
    """Yields names and inputs of image files; fills ``skipped`` with what could not be read."""
    import torch

    from lookalike.data import read_image
    from lookalike.errors import BrokenImageError, LookalikeError

    if on_error not in ("stop", "skip"):
        raise LookalikeError(f"--on-error takes 'stop' or 'skip', not {on_error!r}")
    for start in range(0, len(files), batch_size):
        names, inputs = [], []
        for file in files[start : start + batch_size]:
            try:
                inputs.append(preprocessing(read_image(file)))
            except BrokenImageError as error:
                if on_error == "stop":
                    raise
                skipped.append(str(error))
                continue
            names.append(str(file))
        if names:
            yield names, torch.stack(inputs)


def report_skipped(skipped: list[str]) -> None:
    """Lists what could not be read."""
    if skipped:
        err.print(f"Skipped {len(skipped)} images that could not be read:", style="yellow")
        for message in skipped:
            err.print(f"  {visible(message)}", markup=False, soft_wrap=True)
