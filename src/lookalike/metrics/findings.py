"""Findings of a verdict: sentences with a level, in order of weight, and one sentence over all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ENOUGH_AGREEMENT = 0.97  # enough agreement even with a nearly perfect black box [ours]

Level = Literal["bad", "caution", "good", "info"]  # in order of weight

_LEVELS: tuple[Level, ...] = ("bad", "caution", "good", "info")
# in order of weight: what a reader must know before relying on anything else comes first
_TOPICS = (
    "leak",
    "data",
    "agreement",
    "accuracy",
    "original",
    "pixels",
    "attention",
    "objects",
    "sanity",
    "classes",
    "weakest",
    "calibration",
    "embedding",
    "unused",
    "variety",
)


@dataclass(frozen=True)
class Finding:
    """One sentence of a verdict.

    Attributes:
        topic: What it is about, e.g. ``"agreement"``; it orders findings of the same level.
        level: ``"bad"``: do not rely on this; ``"caution"``; ``"good"``; or ``"info"``.
        claim: What was found, in plain words.
        figures: The figures behind it; empty if they are in the claim.
    """

    topic: str
    level: Level
    claim: str
    figures: str = ""

    @property
    def text(self) -> str:
        """The whole sentence, with the figures behind it in brackets."""
        return f"{self.claim.removesuffix('.')} ({self.figures})." if self.figures else self.claim


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Sorts findings: the worst level first, and within a level in order of topic."""
    return sorted(findings, key=lambda finding: (_LEVELS.index(finding.level), _TOPICS.index(finding.topic)))


def overall(findings: Sequence[Finding], agreement: float | None, accuracy: float | None) -> Finding | None:
    """Sums findings up in one finding: can the model stand for its original, and can its heat-maps be relied on?

    Args:
        findings: All findings.
        agreement: Share of test images on which the model and its original agree; None if not measured.
        accuracy: Accuracy of the model; None if not measured.

    Returns:
        None if neither was measured.
    """
    by_topic = {finding.topic: finding for finding in findings}
    if "leak" in by_topic:
        return by_topic["leak"]
    sentences = [*_on_predictions(by_topic, agreement, accuracy), *_on_heat_maps(by_topic)]
    if not sentences:
        return None
    worst = min((finding.level for finding in sentences), key=_LEVELS.index)
    return Finding(sentences[0].topic, worst, " ".join(finding.text for finding in sentences))


def _on_predictions(by_topic: dict[str, Finding], agreement: float | None, accuracy: float | None) -> list[Finding]:
    correct = "" if accuracy is None else f", and {accuracy:.1%} of its answers are correct"
    if agreement is None or "agreement" not in by_topic:
        if accuracy is None:
            return []
        return [Finding("accuracy", "info", f"The model classifies {accuracy:.1%} of the test images correctly.")]
    level = by_topic["agreement"].level
    if level == "bad":
        text = f"This model cannot stand for the original: only {agreement:.1%} of their answers are the same{correct}."
    elif level == "caution":
        text = (
            "There are too few test images to tell whether this model can stand for the original: "
            f"{agreement:.1%} of their answers are the same{correct}."
        )
    elif agreement >= ENOUGH_AGREEMENT:
        text = f"This model can stand for the original: {agreement:.1%} of their answers are the same{correct}."
    else:
        text = (
            f"This model differs from the original no more than a second training of it might: {agreement:.1%} of "
            f"their answers are the same{correct}."
        )
    return [Finding("agreement", level, text)]


def _on_heat_maps(by_topic: dict[str, Finding]) -> list[Finding]:
    pixels, attention, sanity = (by_topic.get(topic) for topic in ("pixels", "attention", "sanity"))
    if pixels is None:
        return []
    if pixels.level == "bad" or (sanity is not None and sanity.level == "bad"):
        return [Finding("pixels", "bad", "Do not rely on its heat-maps.")]
    if attention is not None and attention.level != "good":
        text = "Its heat-maps show what it needs itself, but not what the original looks at."
        return [Finding("pixels", "caution", text)]
    return [Finding("pixels", "good", "Its heat-maps can be relied on: they show the pixels that it needs.")]
