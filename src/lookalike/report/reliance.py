"""The section on how far the model may be relied on; only for calibrated models."""

import functools
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
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
    if measured:
        bins = measured[0]["model"]
        draw = functools.partial(_draw_reliability, bins)
        charts["reliability"] = figure(draw, "Share of correct test predictions by the probability that was stated.")
    return {
        "facts": facts,
        "coverage": f"{100 * facts.coverage:.4g}%",
        "false_alarm": f"{100 * facts.false_alarm:.4g}%",
        "rows": rows,
        "abstention": sentence,
        "charts": charts,
        "notes": [visible(note[:1].upper() + note[1:]) for note in facts.notes],
    }


def _draw_reliability(bins: dict[str, Any], ax: Any) -> Any:
    return plot_reliability(bins["confidence"], bins["accuracy"], bins["counts"], ax=ax)


def _row(figures: CalibrationFigures) -> list[str]:
    return [
        f"{figures.ece:.3f} ({figures.ece_low:.3f} to {figures.ece_high:.3f})",
        f"{figures.log_loss:.3f}",
        f"{figures.brier:.3f}",
    ]
