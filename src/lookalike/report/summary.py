"""The first section of a report: the sentence over all, key figures, and findings in order of weight."""

from dataclasses import replace
from typing import Any

from lookalike._core.wording import counted
from lookalike.metrics.findings import Finding, by_weight, overall
from lookalike.report.material import Material
from lookalike.report.weakness import weakest

_WORDS = {
    "bad": "Do not rely on this",
    "caution": "Take care",
    "hint": "Good so far",
    "good": "Good",
    "info": "Good to know",
}
FEWEST_DECISIONS = 3  # of a prototype that is called wrong
_NAMED = 3
_LINKS = {
    "weakest": "weakest",
    "duplicates": "duplicates",
    "leak": "duplicates",
}  # sections that say more of a finding, by its topic


def summary(material: Material) -> dict[str, Any]:
    """Returns the values of the section."""
    card = material.card
    found = all_findings(material)
    whole = overall(found, card.get("accuracy"), len(material.decisions.labels))
    twins = material.duplicates
    own_notes = [*material.examples.notes, *([twins.note] if twins is not None and twins.note else [])]
    notes = [*card.notes, *(note for note in own_notes if note not in card.notes)]
    return {
        "overall": whole,
        "word": None if whole is None else _WORDS[whole.level],
        "key_figures": _key_figures(material),
        "titles": _titles(material),
        "findings": [(_WORDS[finding.level], finding) for finding in found],
        "links": _links(material),
        "notes": [note[:1].upper() + note[1:] for note in notes],
    }


def _titles(material: Material) -> dict[str, tuple[str, int]]:
    """Returns the title and number of the images that a key figure opens, where it counts only some of these."""
    unfamiliar = material.decisions.unfamiliar
    n = 0 if unfamiliar is None else int(unfamiliar.sum())
    return {"unfamiliar": (f"All {n:,} unfamiliar test images, correct and wrong", n)} if n > 1 else {}


def _links(material: Material) -> dict[str, str]:
    """Returns the sections that say more of a finding, by its topic, of those that this page has."""
    has_twins = material.duplicates is not None and bool(material.duplicates.twins)
    is_there = {"weakest": weakest(material) is not None, "duplicates": has_twins}
    return {topic: section for topic, section in _LINKS.items() if is_there[section]}


def all_findings(material: Material) -> list[Finding]:
    """Returns the scorecard's findings and the page's own, in order of weight."""
    copies = material.duplicates
    twins, groups = (None, None) if copies is None else (copies.finding(), copies.of_groups())
    if groups is not None and twins is not None and twins.level == "info":  # that there are none is no news then
        twins = None
    of_card = material.card.findings()
    if twins is not None and twins.topic == "leak":  # the same images: they are counted once
        first = next((finding for finding in of_card if finding.topic == "leak"), None)
        of_card = [finding for finding in of_card if finding is not first]
    found = [*(_with_decisions(finding, material) for finding in of_card), twins, groups, _often_wrong(material)]
    return by_weight(finding for finding in found if finding is not None)


def often_wrong(material: Material) -> list[int]:
    """Returns the prototypes whose decisions on test images are mostly wrong, most errors first.

    None of patches: all patches of an image decide together.
    """
    if material.model.has_patches:
        return []
    decisions, n_prototypes = material.decisions, len(material.model.prototypes)
    decided, wrong = decisions.decided_by(n_prototypes), decisions.wrongly_decided_by(n_prototypes)
    often = [j for j, n in enumerate(decided) if n >= FEWEST_DECISIONS and wrong[j] > n / 2]
    return sorted(often, key=lambda j: (-wrong[j], j))


def _often_wrong(material: Material) -> Finding | None:
    """Names the prototypes whose decisions on test images are mostly wrong."""
    decisions, prototypes = material.decisions, material.model.prototypes
    worst = often_wrong(material)
    if not worst:
        return None
    decided = decisions.decided_by(len(prototypes))
    wrong = decisions.wrongly_decided_by(len(prototypes))
    listed = [f"no. {j} of class {prototypes.class_of(j)!r}, {wrong[j]:,} of {decided[j]:,}" for j in worst[:_NAMED]]
    more = f"; and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    which = "one decides" if len(worst) == 1 else f"{len(worst)} decide"
    text = (
        f"Of the prototypes that decide at least {FEWEST_DECISIONS} test images, {which} most of them wrongly: "
        f"{'; '.join(listed)}{more}."
    )
    return Finding("wrong prototypes", "info", text)


def _with_decisions(finding: Finding, material: Material) -> Finding:
    """Adds to the finding on use, which is about training images, how many prototypes decide no test image."""
    if finding.topic != "unused" or material.model.has_patches:  # no prototype of patches decides alone
        return finding
    decided = material.decisions.decided_by(len(material.model.prototypes))
    n_idle = decided.count(0)
    if not n_idle:
        return finding
    decides = "decides" if n_idle == 1 else "decide"
    text = f"{finding.claim} {n_idle:,} of the {counted(len(decided), 'prototype')} {decides} no test image here."
    return replace(finding, claim=text)


def _key_figures(material: Material) -> list[tuple[str, str, str | None]]:
    """Returns the figures that most readers look for: title, value, and which images to show for it."""
    card, decisions = material.card, material.decisions
    n_test, n_prototypes = len(decisions.labels), len(material.model.prototypes)
    shares = [
        ("of its answers are correct", card.get("accuracy"), None),
        ("of the original's answers are correct", card.get("black_box_accuracy"), None),
        ("of their answers are the same", card.get("agreement"), "disagreeing"),
    ]
    entries = material.examples.entries
    differs = any(entry["original"] not in (None, entry["predicted"]) for entry in entries)
    is_wrong = any(entry["label"] != entry["predicted"] for entry in entries)
    return [
        *(
            (title, f"{share:.1%}", kind if kind and differs else None)
            for title, share, kind in shares
            if share is not None
        ),
        (
            "answers are wrong",
            f"{int(decisions.wrong.sum()):,} of {n_test:,}",
            "wrong" if is_wrong else None,
        ),
        *_unfamiliar_figure(material),
        (
            "prototype shows what it decides by" if n_prototypes == 1 else "prototypes show what it decides by",
            f"{n_prototypes:,}",
            None,
        ),
    ]


def _unfamiliar_figure(material: Material) -> list[tuple[str, str, str | None]]:
    """Returns how many answers on unfamiliar images are wrong, or that there are none; nothing if it is not tested."""
    decisions = material.decisions
    if decisions.unfamiliar is None:
        return []
    n, n_test = int(decisions.unfamiliar.sum()), len(decisions.labels)
    if not n:
        return [
            ("test images is unfamiliar" if n_test == 1 else "test images are unfamiliar", f"0 of {n_test:,}", None)
        ]
    n_wrong = int((decisions.wrong & decisions.unfamiliar).sum())
    n_others_wrong = int(decisions.wrong.sum()) - n_wrong
    others = f"; of the others, {n_others_wrong:,} of {n_test - n:,}" if n < n_test else ""
    is_shown = any(entry["unfamiliar"] for entry in material.examples.entries)
    title = f"answers on unfamiliar images are wrong{others}"
    return [(title, f"{n_wrong:,} of {n:,}", "unfamiliar" if is_shown else None)]
