"""Sections about classes: the mistakes, a table of classes, and which classes are taken for which."""

from typing import Any

import torch
from torch import Tensor

from lookalike.metrics import Scorecard
from lookalike.metrics.class_findings import joined, tied_labels
from lookalike.report.material import Material
from lookalike.report.words import NO_CLASS

_LARGEST_MATRIX = 20  # classes; a confusion matrix of more does not fit on the page
_MOST_MISTAKES = 60  # rows in the table of mistakes
_MOST_PAIRS = 20


def mistakes(material: Material) -> dict[str, Any]:
    """Returns the wrong test images: what they are, what they were taken for, and what the original says."""
    n_wrong, names = int(material.decisions.wrong.sum()), material.model.class_names
    wrong = [entry for entry in material.examples.entries if entry["predicted"] != entry["label"]]
    rows = [
        {
            "row": entry["row"],
            "name": entry["name"],
            "label": names[entry["label"]],
            "predicted": names[entry["predicted"]],
            "probability": entry["probability"],
            "original": _name(names, entry["original"]),
            "unfamiliar": entry["unfamiliar"],
            "prototype": entry["near"][0]["prototype"],
        }
        for entry in wrong[:_MOST_MISTAKES]
    ]
    return {
        "rows": rows,
        "n_wrong": n_wrong,
        "n_test": len(material.decisions.labels),
        "has_original": material.has_original,
    }


def classes(material: Material) -> dict[str, Any] | None:
    """Returns a row for each class, and who is taken for whom; None if predictions were not measured."""
    card, decisions = material.card, material.decisions
    rows = _class_rows(card)
    if not rows:
        return None
    matrices = [
        _matrix("It is", "the model says", decisions.labels, decisions.predicted, card.class_names, kind="label")
    ]
    if decisions.original is not None:
        matrices.append(
            _matrix(
                "The original says",
                "the model says",
                decisions.original,
                decisions.predicted,
                card.class_names,
                kind="original",
            )
        )
    return {
        "rows": rows,
        "matrices": matrices,
        "has_original": material.has_original,
        "of_patches": material.model.has_patches,
    }


def _class_rows(card: Scorecard) -> list[dict[str, Any]]:
    """Returns a row of the table of classes for each class: its accuracy, agreement and separability."""
    if "faithfulness" not in card.details:
        return []
    separations_by_label = {
        figures["label"]: figures for figures in card.details.get("embedding", [{}])[0].get("classes", [])
    }
    rows = []
    for figures in card.details["faithfulness"][0]["per_class"]:
        separation = separations_by_label.get(figures["label"], {})
        rows.append(
            {
                "name": card.class_names[figures["label"]],
                "n": figures["n"],
                **{
                    key: figures[key] and figures[key]["value"]
                    for key in ("accuracy", "black_box_accuracy", "agreement")
                },
                "low": figures["accuracy"] and figures["accuracy"]["low"],
                "high": figures["accuracy"] and figures["accuracy"]["high"],
                "mistaken_for": _names(card.class_names, tied_labels(figures, "mistaken_for")),
                "overlap": separation.get("overlap"),
                "rival": _names(card.class_names, tied_labels(separation, "rival")),
            }
        )
    return rows


def _matrix(
    row_title: str, column_title: str, rows: Tensor, columns: Tensor, names: list[str], *, kind: str
) -> dict[str, Any]:
    """Counts pairs of classes: as a matrix if there are few classes, else as the most frequent unequal pairs."""
    k = len(names)
    is_known_class = (rows >= 0) & (rows < k)  # the original may predict a class that the model does not have
    counts = torch.bincount(rows[is_known_class] * k + columns[is_known_class], minlength=k * k).view(k, k)
    off_diagonal = counts.clone().fill_diagonal_(0)
    order = off_diagonal.flatten().argsort(descending=True, stable=True)[:_MOST_PAIRS].tolist()
    pairs = [
        {"row": i // k, "column": i % k, "n": int(off_diagonal.flatten()[i])}
        for i in order
        if off_diagonal.flatten()[i] > 0
    ]
    return {
        "kind": kind,
        "row_title": row_title,
        "column_title": column_title,
        "names": names,
        "counts": counts.tolist() if k <= _LARGEST_MATRIX else None,
        "pairs": pairs,
        "n_elsewhere": int((~is_known_class).sum()),
    }


def _names(names: list[str], labels: list[int]) -> str | None:
    """Returns the names of classes that tie; None for none."""
    return joined([names[label] for label in labels]) if labels else None


def _name(names: list[str], label: int | None) -> str | None:
    """Returns the name of a class; None for no class."""
    if label is None:
        return None
    return names[label] if 0 <= label < len(names) else NO_CLASS
