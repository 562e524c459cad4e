"""The first section of a report: the sentence over all, key figures, and findings in order of weight."""

from typing import Any

from lookalike.report.material import Material

_WORDS = {"bad": "Do not rely on this", "caution": "Take care", "good": "Good", "info": "Good to know"}


def summary(material: Material) -> dict[str, Any]:
    """Returns the values of the section."""
    card = material.card
    overall = card.overall()
    notes = [*card.notes, *(note for note in material.examples.notes if note not in card.notes)]
    return {
        "overall": overall,
        "key_figures": _key_figures(material),
        "findings": [(_WORDS[finding.level], finding) for finding in card.findings()],
        "notes": [note[:1].upper() + note[1:] for note in notes],
    }


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
