"""Findings of a verdict: sentences with a level, in order of weight, and one sentence over all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lookalike._core.wording import counted

ENOUGH_AGREEMENT = 0.97  # enough agreement even with a nearly perfect black box [ours]

Level = Literal["bad", "caution", "hint", "good", "info"]  # in order of weight

_LEVELS: tuple[Level, ...] = ("bad", "caution", "hint", "good", "info")
_WARNINGS: tuple[Level, ...] = ("bad", "caution")
# in order of weight: what a reader must know before relying on anything else comes first
_TOPICS = (
    "leak",
    "data",
    "duplicates",
    "groups",
    "agreement",
    "accuracy",
    "original",
    "pixels",
    "attention",
    "objects",
    "sanity",
    "classes",
    "weakest",
    "wrong prototypes",
    "unfamiliar",
    "calibration",
    "embedding",
    "unused",
    "variety",
)

_ON_HEAT_MAPS = ("pixels", "attention", "sanity", "objects")
_ONLY_A_HINT = "So few images give a hint, no proof."


@dataclass(frozen=True)
class Finding:
    """One sentence of a verdict.

    Attributes:
        topic: What it is about, e.g. ``"agreement"``; it orders findings of the same level.
        level: ``"bad"``: do not rely on this; ``"caution"``; ``"hint"``: good, on too few images for a proof;
            ``"good"``; or ``"info"``.
        claim: What was found, in plain words.
        figures: The figures behind it; empty if they are in the claim.
        headline: What it says in the sentence over all; empty if that has other words for it.
        n_images: Number of images of the sample that it rests on; None if it rests on no sample.
    """

    topic: str
    level: Level
    claim: str
    figures: str = ""
    headline: str = ""
    n_images: int | None = None

    @property
    def text(self) -> str:
        """The whole sentence, with the figures behind it in brackets."""
        return f"{self.claim.removesuffix('.')} ({self.figures})." if self.figures else self.claim


def on_sample(finding: Finding, n_images: int | None, enough: int) -> Finding:
    """Says in a finding on how many images it rests; what is good on fewer than enough of them is only a hint.

    Args:
        finding: A finding that was measured on a sample of the test images.
        n_images: Number of images in the sample; None if nobody knows, which leaves the finding as it is.
        enough: Number of images from which it is more than a hint.
    """
    if n_images is None:
        return finding
    claim = f"On {counted(n_images, 'image')}, {finding.claim[:1].lower()}{finding.claim[1:]}"
    if finding.level != "good" or n_images >= enough:
        return replace(finding, claim=claim, n_images=n_images)
    return replace(finding, level="hint", claim=f"{claim} {_ONLY_A_HINT}", n_images=n_images)


def by_weight(findings: Iterable[Finding]) -> list[Finding]:
    """Sorts findings: the worst level first, and within a level in order of topic."""
    return sorted(findings, key=lambda finding: (_LEVELS.index(finding.level), _TOPICS.index(finding.topic)))


def overall(findings: Sequence[Finding], accuracy: float | None, n_test: int | None = None) -> Finding | None:
    """Sums findings up in one finding, which begins with the weightiest: no reassuring sentence comes before a warning.

    Args:
        findings: All findings.
        accuracy: Accuracy of the model; None if not measured.
        n_test: Number of test images; None gives the accuracy as a share alone.

    Returns:
        None if there is no warning, and neither predictions nor heat-maps were measured.
    """
    by_topic = {finding.topic: finding for finding in by_weight(findings)[::-1]}
    if "leak" in by_topic:
        leak = by_topic["leak"]
        return replace(leak, claim=leak.headline, figures="") if leak.headline else leak
    sentences = [*_on_predictions(by_topic, accuracy, n_test), *_on_heat_maps(by_topic)]
    warning = next((finding for finding in by_weight(findings) if finding.level in _WARNINGS), None)
    if warning is None and not sentences:
        return None
    if warning is not None:
        sentences = _begun_with(warning, sentences)
    groups = by_topic.get("groups")
    if groups is not None and groups.headline and sentences[0].topic != "groups":
        sentences.append(replace(groups, claim=groups.headline))
    worst = min((finding.level for finding in sentences), key=_LEVELS.index)
    return Finding(sentences[0].topic, worst, " ".join(finding.claim for finding in sentences))


def _begun_with(warning: Finding, sentences: list[Finding]) -> list[Finding]:
    """Puts a warning first: in the words of the sentence that is about it, if one says it as gravely."""
    about = _ON_HEAT_MAPS if warning.topic in _ON_HEAT_MAPS else (warning.topic,)
    own = [sentence for sentence in sentences if sentence.topic in about and sentence.level == warning.level]
    others = [sentence for sentence in sentences if sentence not in own]
    return [*(own or [Finding(warning.topic, warning.level, warning.claim)]), *others]


def _on_predictions(by_topic: dict[str, Finding], accuracy: float | None, n_test: int | None) -> list[Finding]:
    errs = "" if accuracy is None or n_test is None else f"it errs in {round((1 - accuracy) * n_test):,} of {n_test:,}"
    if "agreement" not in by_topic:
        if accuracy is None:
            return []
        text = f"The model classifies {accuracy:.1%} of the test images correctly"
        level = by_topic["accuracy"].level if "accuracy" in by_topic else "info"
        return [Finding("accuracy", level, f"{text}: {errs}." if errs else f"{text}.")]
    text, level = by_topic["agreement"].headline, by_topic["agreement"].level
    if accuracy is not None:
        text += f", and {errs or f'{accuracy:.1%} of its answers are correct'}"
    compared = by_topic.get("accuracy")
    if level == "good" and compared is not None and compared.level in _WARNINGS:
        doubt = "it is less accurate than the original, beyond chance"
        doubt = doubt if compared.level == "bad" else "how much accuracy it lost, if any, so few images cannot tell"
        return [Finding("agreement", "caution", f"{text}; {doubt}.")]
    return [Finding("agreement", level, f"{text}.")]


def _on_heat_maps(by_topic: dict[str, Finding]) -> list[Finding]:
    pixels, attention, sanity, objects = (by_topic.get(topic) for topic in _ON_HEAT_MAPS)
    if pixels is None:
        return []
    if pixels.level == "bad" or (sanity is not None and sanity.level == "bad"):
        return [Finding("pixels", "bad", "Do not rely on its heat-maps.")]
    images = "" if pixels.n_images is None else counted(pixels.n_images, "image")
    if pixels.level == "caution":
        too_few = f"{images} {'is' if pixels.n_images == 1 else 'are'}" if images else "There are"
        few = "too few" if images else "too few images"
        return [Finding("pixels", "caution", f"{too_few} {few} to say whether its heat-maps can be relied on.")]
    on_images = f" on {images}" if images else ""
    show = "seem to show" if pixels.level == "hint" else "show"
    if attention is not None and attention.level in _WARNINGS:
        shown = "but not" if attention.level == "bad" else "and are not shown to be"
        text = f"Its heat-maps {show} what it needs itself{on_images}, {shown} what the original looks at."
        return [Finding("pixels", attention.level, text)]
    if objects is not None and objects.level in _WARNINGS:
        text = f"Its heat-maps {show} pixels that it needs{on_images}. {objects.claim}"
        return [Finding("pixels", objects.level, text)]
    tests = [finding for finding in (pixels, attention, sanity) if finding is not None]
    level = min((finding.level for finding in tests), key=_LEVELS.index)
    hint = f" {_ONLY_A_HINT}" if level == "hint" else ""
    if len(tests) < 3:  # one test alone does not show that they can be relied on
        return [Finding("pixels", level, f"Its heat-maps show pixels that it needs{on_images}.{hint}")]
    shown = "show pixels that it needs, look where the original looks, and depend on what it learned"
    if hint:
        return [Finding("pixels", level, f"Its heat-maps {shown}, as far as they were tested{on_images}.{hint}")]
    if level == "caution":  # the sanity check warns; warnings of the other tests have returned before
        text = (
            f"Its heat-maps show pixels that it needs and look where the original looks{on_images}, but depend little"
        )
        return [Finding("pixels", level, f"{text} on its prototypes.")]
    return [Finding("pixels", level, f"Its heat-maps can be relied on{on_images}: they {shown}.")]
