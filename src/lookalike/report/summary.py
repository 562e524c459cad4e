"""The first section of a report: the sentence over all, key figures, and findings in order of weight."""

from typing import Any

from lookalike.metrics.findings import Finding
from lookalike.report.material import Material

_WORDS = {"bad": "Do not rely on this", "caution": "Take care", "good": "Good", "info": "Good to know"}
_MANY_UNFAMILIAR = 0.1  # of the images shown: ten times the usual rate of false alarms


def summary(material: Material) -> dict[str, Any]:
    """Returns the values of the section."""
    card = material.card
    overall = card.overall()
    notes = [*card.notes, *(note for note in material.examples.notes if note not in card.notes)]
    return {
        "overall": overall,
        "key_figures": _key_figures(material),
        "findings": [(_WORDS[finding.level], finding) for finding in _findings(material)],
        "notes": [note[:1].upper() + note[1:] for note in notes],
    }


def _findings(material: Material) -> list[Finding]:
    """Returns the scorecard's findings, and one about unfamiliar images before the good ones if there are many."""
    found, unfamiliar = material.card.findings(), _unfamiliar(material)
    if unfamiliar is None:
        return found
    place = sum(finding.level in ("bad", "caution") for finding in found)
    return [*found[:place], unfamiliar, *found[place:]]


def _unfamiliar(material: Material) -> Finding | None:
    """Says how many of the images shown are unfamiliar, and how often answers on these are wrong; None if few are."""
    entries = material.examples.entries
    is_wrong: dict[bool, list[bool]] = {True: [], False: []}
    for entry in entries:
        is_wrong[bool(entry["unfamiliar"])].append(entry["predicted"] != entry["label"])
    if len(is_wrong[True]) <= _MANY_UNFAMILIAR * len(entries):
        return None
    wrong, wrong_others = sum(is_wrong[True]), sum(is_wrong[False])
    others = f", and {wrong_others:,} of the other {len(is_wrong[False]):,}" if is_wrong[False] else ""
    is_calibrated = material.model.doubt is not None
    by_hint = "farther from their nearest prototype than every training image behind it"
    meaning = "more so than nearly all images of the calibration" if is_calibrated else by_hint
    return Finding(
        "unfamiliar",
        "caution",
        f"{len(is_wrong[True]):,} of the {len(entries):,} test images shown are unfamiliar: {meaning}",
        f"{wrong:,} of these answers are wrong{others}",
    )


def _key_figures(material: Material) -> list[tuple[str, str]]:
    """Returns the figures that most readers look for, as title and value."""
    card, decisions = material.card, material.decisions
    n_test = len(decisions.labels)
    shares = [
        ("of its answers are correct", card.get("accuracy")),
        ("of the original's answers are correct", card.get("black_box_accuracy")),
        ("of their answers are the same", card.get("agreement")),
    ]
    return [
        *((title, f"{share:.1%}") for title, share in shares if share is not None),
        ("of the test images are wrong", f"{int(decisions.wrong.sum()):,} of {n_test:,}"),
        ("show what it decides by", f"{len(material.model.prototypes):,} prototypes"),
    ]
