"""The last section of a report: intended use, limits, date, command, data and versions."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lookalike._core.wording import counted
from lookalike.metrics import Scorecard
from lookalike.report.made import made_in_words
from lookalike.report.material import Material

_OPTIONS_TOLD = ("n_prototypes", "clusterer", "n_init", "seed", "precision", "epochs", "dataset")  # for a reader


def about(material: Material) -> dict[str, Any]:
    """Returns the values of the section."""
    return {
        "intended_use": material.page.intended_use,
        "limits": _limits(material),
        "facts": [("made on", _today()), *_command(material), *made_in_words(material)],
        "exactly": _provenance_facts(material.card),
    }


def _today() -> str:
    """Returns the date, in UTC; SOURCE_DATE_EPOCH fixes it, so that reports can be reproduced to the byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.strftime("%Y-%m-%d")


def _command(material: Material) -> list[tuple[str, str]]:
    return [] if material.page.command is None else [("command", material.page.command)]


def _familiarity(material: Material) -> str:
    """Says what “unfamiliar” means: a hint, or a test whose rate of false alarms is known."""
    doubt = material.model.doubt
    if doubt is None:
        return "“Unfamiliar” is a hint that this is so, not a guarantee."
    if doubt.facts.not_tested is not None:
        return f"Whether an image is unfamiliar is {doubt.facts.not_tested}."
    return (
        f"“Unfamiliar” is a test for that: it is wrong for at most {100 * doubt.facts.false_alarm:.4g}% of familiar "
        "images, but may miss strange ones."
    )


def _limits(material: Material) -> list[str]:
    """Returns what the reader must not conclude from this report."""
    card, decisions = material.card, material.decisions
    n_test, n_classes = len(decisions.labels), material.model.n_classes
    limits = [
        f"The figures hold for images like the {n_test:,} test images. Images from another place, device or time may "
        "be decided less well.",
        f"It knows {n_classes:,} {'class' if n_classes == 1 else 'classes'} and gives one of them to every image, also "
        f"to one that shows something else. {_familiarity(material)}",
        "“This looks like that” says what the model compared. It does not say that the likeness is a good reason.",
        "Heat-maps show which pixels mattered to the model, not where an object or a disease is.",
    ]
    if n_test < 30 * n_classes:
        limits.insert(1, "There are few test images of each class: differences of a few percent may be chance.")
    if "calibration_error" not in card.runs:
        limits.append("Whether its probabilities can be read as chances was not measured.")
    return limits


def _provenance_facts(card: Scorecard) -> list[tuple[str, str]]:
    """Returns the options by their names, and fingerprints and versions, for who wants to repeat it."""
    info = card.info
    options = dict(info["options"])
    provenance = info["model_provenance"]
    facts = [
        ("method", str(provenance.get("method", "–"))),
        ("options of the model", _one_line({k: v for k, v in provenance.items() if k in _OPTIONS_TOLD})),
        ("similarity", _one_line(info["similarity"])),
        ("classifier", _one_line(info["classifier"])),
        ("options of the evaluation", _one_line(options)),
        ("measured", f"{counted(info['n_runs'], 'time')}, with seed {', '.join(map(str, info['seeds']))}"),
        ("model (fingerprint)", str(info["model"])),
        ("the original (fingerprint)", str(info["black_box"] or "–")),
        ("test data (fingerprint)", str(info["test_data"] or "–")),
        ("training data (fingerprint)", str(info["train_data"] or "–")),
        ("versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items())),
    ]
    if info["samples"]:
        facts.append(("test images whose explanations were measured", ", ".join(map(str, info["samples"][0]))))
    return facts


def _one_line(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_one_line(v) if isinstance(v, dict) else v}" for name, v in values.items() if v != {})
