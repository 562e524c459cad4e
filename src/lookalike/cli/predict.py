"""``lookalike predict``."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lookalike._core.names import json_text
from lookalike._core.startup import import_torch
from lookalike.cli.console import guarded, percent, print_csv, print_json, print_line, print_notes, print_table
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
from lookalike.cli.reading import ImageReader

if TYPE_CHECKING:
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
    reader = ImageReader(files, preprocessing, batch_size, on_error)
    rows: list[dict[str, Any]] = []
    with progress_bar("Predicting", len(files)) as advance:
        for names, inputs in reader.batches():
            explanations = explainer.explain(InputBatch(inputs, [*names]), len(rows))
            rows += [_row(explanation, converted) for explanation in explanations]
            advance(len(names))
    if json:
        about_files = {"skipped": reader.skipped, "remarks": reader.remarks, "passed_over": passed_over.to_dict()}
        print_json({"predictions": rows, **about_files})
        return
    if csv:
        print_csv(*_as_csv(rows))
        print_notes(passed_over.sentences(), as_error=True)
        reader.report()
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
    reader.report()


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
