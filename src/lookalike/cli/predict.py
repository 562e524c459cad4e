"""``lookalike predict``."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike._core.names import json_text, visible
from lookalike._core.startup import import_torch
from lookalike._core.wording import counted
from lookalike.cli.console import err, guarded, percent, print_csv, print_json, print_line, print_notes, print_table
from lookalike.cli.options import (
    BatchSize,
    Csv,
    Device,
    Images,
    Json,
    LargeImages,
    Network,
    OnError,
    SavedModel,
    open_model,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookalike.data import Preprocessing
    from lookalike.explanation import Explanation
    from lookalike.model import PrototypeModel


@guarded
def predict(
    model: SavedModel,
    images: Images,
    network: Network = None,
    batch_size: BatchSize = 64,
    on_error: OnError = "stop",
    large_images: LargeImages = False,
    device: Device = "auto",
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Predict the class of images, with the prototype that each image looks most like."""
    import_torch()
    from lookalike._core.errors import LookalikeError
    from lookalike._core.progress import progress_bar
    from lookalike.data import InputBatch, list_images
    from lookalike.explanation import Explainer

    if json and csv:
        raise LookalikeError("choose one of --json and --csv")
    converted, preprocessing = open_model(model, network, device)
    files, passed_over = list_images(images)
    preprocessing = replace(preprocessing, large_images=large_images)
    explainer = Explainer(converted, n_nearest=1)
    skipped: list[str] = []
    remarks: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with progress_bar("Predicting", len(files)) as advance:
        for names, inputs in read_batches(files, preprocessing, batch_size, on_error, skipped, remarks):
            explanations = explainer.explain(InputBatch(inputs, [*names]), len(rows))
            rows += [_row(explanation, converted) for explanation in explanations]
            advance(len(names))
    if not rows:
        raise LookalikeError(f"none of {counted(len(files), 'image')} could be read; the first: {skipped[0]}")
    if json:
        print_json({"predictions": rows, "skipped": skipped, "remarks": remarks, "passed_over": passed_over.to_dict()})
        return
    if csv:
        print_csv(*_as_csv(rows))
        print_notes(passed_over.sentences(), as_error=True)
        report_skipped(skipped)
        report_remarks(remarks, len(rows))
        return
    columns = ["file", "prediction", "probability", "original network", "prototype", "percentile"]
    if rows[0]["doubt"] is not None:
        columns.append(f"set, coverage {rows[0]['doubt']['coverage']:g}")
    cells = [_cells(row) for row in rows]
    if any(_remarks(row) for row in rows):
        columns.append("doubt")
        cells = [[*row_cells, ", ".join(_remarks(row))] for row_cells, row in zip(cells, rows, strict=True)]
    print_table("Predictions", columns, cells)
    print_line(_said_of_probabilities(rows, converted))
    if converted.doubt is not None and converted.doubt.facts.not_tested is not None:
        print_line(f"Unfamiliar images: {converted.doubt.facts.not_tested}.")
    print_notes(passed_over.sentences())
    report_skipped(skipped)
    report_remarks(remarks, len(rows))


def _row(explanation: "Explanation", model: "PrototypeModel") -> dict[str, Any]:
    """Returns a prediction as plain values."""
    nearest = explanation.likenesses[0]
    return {
        "file": explanation.name,
        "prediction": explanation.class_name,
        "probability": explanation.probability,
        "prototype": nearest.prototype,
        "similarity": nearest.similarity,
        "percentile": None if math.isnan(nearest.percentile) else nearest.percentile,
        "calibrated": model.is_calibrated,
        "unfamiliar": explanation.unfamiliar,
        "doubt": None if explanation.doubt is None else explanation.doubt.to_dict(),
        "original": None if explanation.original is None else explanation.original.to_dict(),
        "probabilities": dict(zip(model.class_names, explanation.probabilities.tolist(), strict=True)),
    }


def _said_of_probabilities(rows: list[dict[str, Any]], model: "PrototypeModel") -> str:
    """Says what the probabilities are worth."""
    from lookalike.model.doubting import USUAL_ERROR

    if model.doubt is None:
        return (
            "The probabilities are not calibrated: nothing is promised about them. lookalike calibrate MODEL DATA "
            "makes a model that says when it may be relied on."
        )
    said = model.doubt.facts.sentence()
    n_unsure = sum(row["doubt"]["answered"] is False for row in rows)
    if n_unsure:
        said += (
            f" {n_unsure:,} of {len(rows):,} predictions are too unsure for an answer, if at most "
            f"{100 * USUAL_ERROR:g}% of the answers may be wrong."
        )
    return said


_CSV_COLUMNS = (
    "file",
    "prediction",
    "probability",
    "prototype",
    "similarity",
    "percentile",
    "unfamiliar",
    "calibrated",
)
_CSV_DOUBT = ("set", "coverage", "p_value", "answered")


def _as_csv(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Returns columns and rows of a table: a line per image, with a column of probability for each class."""
    classes = list(rows[0]["probabilities"])
    has_doubt = rows[0]["doubt"] is not None
    columns = [
        *_CSV_COLUMNS,
        *(_CSV_DOUBT if has_doubt else ()),
        "original",
        "original probability",
        *(f"probability of {name}" for name in classes),
    ]
    cells = [
        [
            *(row[name] for name in _CSV_COLUMNS),
            *(_doubt_cells(row["doubt"]) if has_doubt else ()),
            *((row["original"] or {}).get(name) for name in ("prediction", "probability")),
            *row["probabilities"].values(),
        ]
        for row in rows
    ]
    return columns, cells


def _doubt_cells(doubt: dict[str, Any]) -> list[Any]:
    """Returns the doubt of a row for a table; the set as a JSON list, since class names may hold any separator."""
    members = json_text([member["class"] for member in doubt["set"]])
    return [members, *(doubt[name] for name in _CSV_DOUBT[1:])]


def _cells(row: dict[str, Any]) -> list[str]:
    """Returns a prediction's cells: the original network's answer is named only where it is another."""
    original = row["original"]
    answer = "–"
    if original is not None:
        answer = ("agrees" if original["agrees"] else original["prediction"]) + f" ({percent(original['probability'])})"
    return [
        row["file"],
        row["prediction"],
        percent(row["probability"]),
        answer,
        str(row["prototype"]),
        "–" if row["percentile"] is None else f"{row['percentile']:.0f}",
        *([] if row["doubt"] is None else [_set_cell(row["doubt"]["set"])]),
    ]


def _remarks(row: dict[str, Any]) -> list[str]:
    """Says what speaks against relying on a prediction."""
    doubt = row["doubt"]
    remarks = {
        "unfamiliar": row["unfamiliar"],
        "like nothing known": doubt is not None and not doubt["set"],
        "too unsure": doubt is not None and doubt["answered"] is False,
    }
    return [remark for remark, speaks_against in remarks.items() if speaks_against]


def _set_cell(members: list[dict[str, Any]]) -> str:
    """Returns the classes of a set, each with its most similar prototype."""
    if not members:
        return "nothing I know"
    return " or ".join(f"{member['class']} ({member['prototype']})" for member in members)


def read_batches(
    files: list[Path],
    preprocessing: "Preprocessing",
    batch_size: int,
    on_error: str,
    skipped: list[str],
    remarks: dict[str, str],
) -> "Iterator[tuple[list[str], Any]]":
    """Yields the names and network inputs of image files, in batches.

    Adds messages about images that could not be read to ``skipped``, and remarks about unusual pixel values and dropped
    transparency to ``remarks``.
    """
    from itertools import groupby

    import torch

    from lookalike._core.errors import BrokenImageError, LookalikeError
    from lookalike.data.images import naming_file_in_errors

    if on_error not in ("stop", "skip"):
        raise LookalikeError(f"--on-error takes 'stop' or 'skip', not {on_error!r}")
    for start in range(0, len(files), batch_size):
        names, inputs = [], []
        for file in files[start : start + batch_size]:
            try:
                image = preprocessing.decode(file)
                with naming_file_in_errors(file):
                    remark = _remark_on(image, preprocessing)
                    inputs.append(preprocessing(image))
            except BrokenImageError as error:
                if on_error == "stop":
                    raise
                skipped.append(str(error))
                continue
            names.append(str(file))
            if remark is not None:
                remarks[str(file)] = remark
        # Without a fixed size, images have different shapes: each run of equal shapes is one batch.
        for _, same_shape in groupby(zip(names, inputs, strict=True), key=lambda pair: pair[1].shape):
            pairs = list(same_shape)
            yield [name for name, _ in pairs], torch.stack([image for _, image in pairs])


def _remark_on(image: Any, preprocessing: "Preprocessing") -> str | None:
    """Says what is unusual about an image for a model."""
    from lookalike.data import is_transparent, value_remark
    from lookalike.data.transparency import REMARK_ON_TRANSPARENCY

    drops = preprocessing.transparency == "dropped" and is_transparent(image)
    remarks = [value_remark(image, preprocessing), REMARK_ON_TRANSPARENCY if drops else None]
    return "; ".join(remark for remark in remarks if remark is not None) or None


def report_skipped(skipped: list[str]) -> None:
    """Lists the images that could not be read."""
    if skipped:
        err.print(f"Skipped {counted(len(skipped), 'image')} that could not be read:", style="yellow")
        for message in skipped:
            err.print(f"  {visible(message)}", markup=False, soft_wrap=True)


def report_remarks(remarks: dict[str, str], n_read: int) -> None:
    """Warns of images whose transparency is dropped or whose values do not fit the model's scale, a line for each.

    Args:
        remarks: The remarks of ``read_batches``, by file.
        n_read: Number of images that were read.
    """
    from lookalike.data.transparency import REMARK_ON_TRANSPARENCY, TransparentImages

    transparent = [file for file, remark in remarks.items() if REMARK_ON_TRANSPARENCY in remark]
    sentence = TransparentImages(n_read, len(transparent), next(iter(transparent), None)).sentence()
    lines = [] if sentence is None else [sentence]
    of_values = {file: text for file, remark in remarks.items() if (text := remark.split(REMARK_ON_TRANSPARENCY)[0])}
    if of_values:
        file, remark = next(iter(of_values.items()))
        like_it = f" (and {counted(len(of_values) - 1, 'more image')} like it)" if len(of_values) > 1 else ""
        lines.append(f"{visible(file)}: {remark.removesuffix('; ')}{like_it}")
    for line in lines:
        err.print(f"warning: {line}", style="yellow", markup=False, soft_wrap=True)
