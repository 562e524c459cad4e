"""The section on how far the model may be relied on; only for calibrated models."""

import functools
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.records import from_json
from lookalike.doubt import CalibrationFigures, accuracy_rejection
from lookalike.plots import plot_rejection, plot_reliability
from lookalike.report.material import Material
from lookalike.report.pictures import figure


def reliance(material: Material) -> dict[str, Any] | None:
    """Returns the values of the section; None if the model is not calibrated."""
    doubt = material.model.doubt
    if doubt is None:
        return None
    facts, values = doubt.facts, doubt.arrays()
    rows = [("before the calibration", _row(facts.before)), ("after it", _row(facts.after))]
    if facts.black_box is not None:
        rows.append(("the original, with a temperature fitted likewise", _row(facts.black_box)))
    shares, accuracy = accuracy_rejection(values["confidences"], values["correct"])
    try:
        abstention = material.model.abstention()
    except LookalikeError as error:  # too few validation images for the bound
        sentence, answered_share = f"{str(error)[:1].upper()}{str(error)[1:]}.", None
    else:
        sentence, answered_share = abstention.sentence(), abstention.share
    charts = {
        "rejection": figure(
            lambda ax: plot_rejection(shares.tolist(), accuracy.tolist(), answered_share, ax=ax),
            f"Accuracy on the validation images if only the surest are answered; {accuracy[-1]:.1%} if all are.",
        )
    }
    measured = material.card.details.get("calibration")
    on_test: list[tuple[str, list[str]]] = []
    if measured:
        kinds = measured[0].get("probabilities", {})
        on_test = [(title, _row(_figures(kinds[kind]))) for kind, title in _KINDS.items() if kind in kinds]
        bins = measured[0]["model"]
        draw = functools.partial(_draw_reliability, bins)
        charts["reliability"] = figure(draw, "Share of correct test predictions by the probability that was stated.")
    return {
        "facts": facts,
        "coverage": f"{100 * facts.coverage:.4g}%",
        "not_tested": facts.not_tested,
        "false_alarm": f"{100 * facts.false_alarm:.4g}%",
        "rows": rows,
        "on_test": on_test,
        "n_test": len(material.decisions.labels),
        "abstention": sentence,
        "charts": charts,
        "notes": [visible(note[:1].upper() + note[1:]) for note in facts.notes],
    }


def _draw_reliability(bins: dict[str, Any], ax: Any) -> Any:
    return plot_reliability(bins["confidence"], bins["accuracy"], bins["counts"], ax=ax)


_KINDS = {
    "model": "this model, test images",
    "black_box_with_temperature": "the original with its temperature, test images",
}


def _figures(values: dict[str, Any]) -> CalibrationFigures:
    figures: CalibrationFigures = from_json(CalibrationFigures, values, "probabilities")
    return figures


def _row(figures: CalibrationFigures) -> list[str]:
    return [
        _with_interval(figures.ece, figures.ece_low, figures.ece_high),
        _with_interval(figures.log_loss, figures.log_loss_low, figures.log_loss_high),
        _with_interval(figures.brier, figures.brier_low, figures.brier_high),
    ]


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
