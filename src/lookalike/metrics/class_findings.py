"""Findings about single classes: which lost accuracy, and which are the weakest."""

from collections.abc import Mapping, Sequence
from typing import Any

from lookalike._core.errors import listing
from lookalike._core.intervals import holm
from lookalike._core.wording import samples
from lookalike.metrics.findings import Finding
from lookalike.metrics.thresholds import Thresholds

_LEVEL = 0.05  # significance level
_NAMED = 5  # classes listed in a sentence
_TIED = 3  # classes listed where several tie
WEAKEST_NAMED = 8  # of the weakest classes, where several tie


def class_findings(details: Mapping[str, list[dict[str, Any]]], names: list[str], limits: Thresholds) -> list[Finding]:
    """Names classes with a loss above the threshold that is significant among so many classes (Holm)."""
    if "faithfulness" not in details:
        return []
    compared = [entry for entry in details["faithfulness"][0]["per_class"] if entry["difference"] is not None]
    lost = [entry for entry in compared if entry["difference"]["value"] < -limits.lost_points / 100]
    beyond_chance = _beyond_chance(compared)
    overlaps, plural = _overlaps(details)
    sentences = []
    for entry in lost:
        if entry["label"] not in beyond_chance:
            continue
        text = f"Class {names[entry['label']]!r} lost {-100 * entry['difference']['value']:.1f} points"
        near = overlaps.get(entry["label"])
        if near and near["rival"] is not None and near["overlap"] >= limits.overlap:
            text += f"; {_overlap(near, names, plural)}"
        elif entry["mistaken_for"] is not None:
            text += f"; it is taken most often for {_tied(entry, 'mistaken_for', names)}"
        sentences.append(text + ".")
    return [
        *(Finding("classes", "bad", sentence) for sentence in sentences),
        *_within_chance([entry for entry in lost if entry["label"] not in beyond_chance], names, len(compared)),
    ]


def _beyond_chance(compared: list[dict[str, Any]]) -> set[int]:
    """Returns the classes with a significant loss, corrected for the number of classes (Holm at 5%)."""
    with_p_value = [entry for entry in compared if entry.get("loss_p") is not None]
    if len(with_p_value) == len(compared):
        flags = holm([entry["loss_p"] for entry in compared], _LEVEL)
    else:  # a scorecard of an earlier version has intervals but no p-values
        flags = [entry["difference"]["high"] < 0 for entry in compared]
    return {entry["label"] for entry, significant in zip(compared, flags, strict=True) if significant}


def _within_chance(lost: list[dict[str, Any]], names: list[str], n_classes: int) -> list[Finding]:
    if not lost:
        return []
    worst = sorted(lost, key=lambda entry: entry["difference"]["value"])
    losses = [f"{names[entry['label']]!r} ({-100 * entry['difference']['value']:.1f} points)" for entry in worst]
    text = (
        f"Of single classes, {listing(losses, _NAMED)} lost accuracy. With so few images, that may be chance: among "
        f"{n_classes} classes, some lose as much without being worse (tested at 5%, with Holm's correction for so many "
        "classes)."
    )
    return [Finding("classes", "info", text)]


def weakest_labels(accuracies: Mapping[int, float]) -> list[int]:
    """Returns the classes with the lowest accuracy, of accuracies by class; all that tie, in order.

    Example:
        >>> weakest_labels({0: 0.9, 1: 0.5, 2: 0.5})
        [1, 2]
    """
    lowest = min(accuracies.values())
    return sorted(label for label, accuracy in accuracies.items() if accuracy == lowest)


def weakest(details: Mapping[str, list[dict[str, Any]]], names: list[str], limits: Thresholds) -> Finding | None:
    """Names the classes with the lowest accuracy, what they are taken for, and how far they overlap with others.

    An overlap depends on the prototypes: it is a reason in the network only where the original errs as often.
    """
    entries = [entry for entry in details.get("faithfulness", [{}])[0].get("per_class", []) if entry["accuracy"]]
    if len(entries) < 2:
        return None
    labels = weakest_labels({entry["label"]: entry["accuracy"]["value"] for entry in entries})
    worst = [entry for entry in entries if entry["label"] in labels]
    lowest = worst[0]["accuracy"]["value"]
    if worst[0]["mistaken_for"] is None:
        return None  # no class has a mistake
    overlaps, plural = _overlaps(details)
    if len(worst) == 1:
        name, n = names[worst[0]["label"]], worst[0]["n"]
        taken = f"taken for {_most_often(worst[0], names)}{_original(worst[0])}"
        if lowest == 0:
            wrong = "its only test image is wrong" if n == 1 else f"all {n:,} of its test images are wrong"
            text = f"Its weakest class is {name!r}: {wrong}, and {taken}"
        else:
            correct = f"{lowest:.1%} of its {n:,} test images are correct"
            text = f"Its weakest class is {name!r}: {correct}, and the others are {taken}"
    else:
        listed = joined([repr(names[entry["label"]]) for entry in worst], WEAKEST_NAMED)
        text = f"Its weakest classes are {listed}: {lowest:.1%} of the test images of each are correct"
        for entry in worst[:_TIED]:
            which = f"The others of the {entry['n']:,}" if lowest else f"The {entry['n']:,}"
            text += (
                f". {which} images of {names[entry['label']]!r} are taken for "
                f"{_most_often(entry, names)}{_original(entry)}"
            )
    for entry in worst[:_TIED]:
        near = overlaps.get(entry["label"])
        if near and near["rival"] is not None and near["overlap"] >= limits.overlap:
            text += f". W{_overlap(near, names, plural)[1:]}"
            box = entry.get("black_box_accuracy")
            if box and box["value"] <= lowest:
                text += ". The original is no better at this class, so the reason is in the network"
    return Finding("weakest", "info", text + ".")


def joined(words: Sequence[str], most: int = _TIED) -> str:
    """Joins names of classes by commas and *and*: at most so many of them, then how many more there are."""
    named = list(words[:most])
    if len(words) > most:
        n_more = len(words) - most
        named.append("another class" if n_more == 1 else f"{n_more} other classes")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def tied_labels(entry: Mapping[str, Any], key: str) -> list[int]:
    """Returns the class under a key and those that tie with it; scorecards of earlier versions have only the first."""
    return [] if entry.get(key) is None else [entry[key], *entry.get(f"also_{key}", [])]


def _tied(entry: Mapping[str, Any], key: str, names: list[str]) -> str:
    return joined([repr(names[label]) for label in tied_labels(entry, key)])


def _most_often(entry: Mapping[str, Any], names: list[str]) -> str:
    """Returns what a class is taken for; *most often* where it is taken for several and not for these equally often."""
    is_tied = len(tied_labels(entry, "mistaken_for")) > 1
    return f"{_tied(entry, 'mistaken_for', names)}{', equally often' if is_tied else ' most often'}"


def _original(entry: Mapping[str, Any]) -> str:
    box = entry.get("black_box_accuracy")
    return f" (the original: {box['value']:.1%} correct)" if box else ""


def _overlaps(details: Mapping[str, list[dict[str, Any]]]) -> tuple[dict[int, Mapping[str, Any]], str]:
    """Returns how well each class is separated, by its label, and what was compared: images, or patches."""
    measured = details.get("embedding", [{}])[0]
    return {entry["label"]: entry for entry in measured.get("classes", [])}, samples(measured.get("of_patches"))


def _overlap(near: Mapping[str, Any], names: list[str], plural: str) -> str:
    """Says how many training images, or patches, of a class overlap with others, by the prototypes that there are."""
    return (
        f"with these prototypes, {near['overlap']:.1%} of the training {plural} of {names[near['label']]!r} are "
        f"nearer to a prototype of another class, most often {_tied(near, 'rival', names)}"
    )
