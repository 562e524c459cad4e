"""The verdict in plain sentences: what did the conversion lose, and can the explanations be trusted?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lookalike._core import checks
from lookalike.metrics.controls import CONTROLS, margin_over
from lookalike.metrics.faithfulness import independent_agreement
from lookalike.metrics.intervals import Range, holm
from lookalike.metrics.sanity import first_change

_ENOUGH_AGREEMENT = 0.97  # enough agreement even with a nearly perfect black box [ours]
_LEVEL = 0.05  # significance level
_NAMED = 5  # classes listed in a sentence
_NOT_SHOWN = "It is not shown that it looks where the original looks"


@dataclass(frozen=True)
class Thresholds:
    """The values at which a sentence of the verdict turns from good to bad. All are ours.

    Attributes:
        agreement: With at least this share of equal predictions, the model can stand for its black box. None takes the
            agreement of two trainings of the black box that err independently, at most 0.97.
        lost_points: A loss of this many points of accuracy is mentioned, overall and for a class.
        overlap: With at least this share of training samples nearer to another class's prototype, classes overlap.
        auroc_gain: The area under the relevance-ordering curve must exceed the random order's by this much.
        calibration: With at least this expected calibration error, probabilities should not be read as chances.
        unchanged: With at least this rank correlation, maps of a randomised model count as unchanged.
        alike: With at least this D_dvs, prototypes are nearly alike to the model itself.
    """

    agreement: float | None = None
    lost_points: float = 1.0
    overlap: float = 0.05
    auroc_gain: float = 0.02
    alike: float = 0.98
    calibration: float = 0.05
    unchanged: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "agreement" or value is not None:
                checks.number(name, value)


def verdict(
    figure: Callable[[str], float | None],
    details: Mapping[str, list[dict[str, Any]]],
    class_names: list[str],
    thresholds: Thresholds,
) -> list[str]:
    """Returns the sentences about the measured figures.

    Args:
        figure: Returns a figure by name, or None if it was not measured.
        details: Details of the sections.
        class_names: Names of the K classes.
        thresholds: Values at which sentences turn from good to bad.
    """
    sentences = [
        *details.get("data", [{}])[0].get("sentences", []),
        _agreement(figure("agreement"), details, len(class_names), thresholds),
        _accuracy(figure, details, thresholds),
        *_black_box(details),
        *_classes(details, class_names, thresholds),
        _calibration(figure("calibration_error"), details, thresholds),
        _ghosts(figure("ghosting"), details),
        _likenesses(figure("auroc"), figure("auroc_random"), thresholds),
        _explanations(figure, details),
        _sanity(details, thresholds),
        _variety(figure("diversity"), thresholds),
        _embedding(figure("overlap"), thresholds),
    ]
    return [sentence for sentence in sentences if sentence]


def _agreement(
    agreement: float | None, details: Mapping[str, list[dict[str, Any]]], n_classes: int, limits: Thresholds
) -> str:
    if agreement is None:
        return ""
    faithfulness = details.get("faithfulness", [{}])[0]
    interval, box = faithfulness.get("agreement"), faithfulness.get("black_box_accuracy")
    text = f"It agrees with the original on {agreement:.1%} of the test images"
    if interval is not None:
        text += f" (95% interval {interval['low']:.1%} to {interval['high']:.1%})"
    high = agreement if interval is None else interval["high"]
    if limits.agreement is not None:
        threshold, reason = limits.agreement, f"{limits.agreement:.1%} are asked for"
    else:
        threshold, reason = _ENOUGH_AGREEMENT, f"{_ENOUGH_AGREEMENT:.0%} are asked for"
        if box is not None and (expected := independent_agreement(1 - box["value"], n_classes)) < threshold:
            threshold, reason = (
                expected,
                f"two trainings of the original that err independently would agree on {expected:.1%}",
            )
    if high < threshold:
        return f"{text}: too few to stand for it; {reason}."
    if agreement < threshold:
        return f"{text}: these are too few images to tell whether it stands for it; {reason}."
    return text + "."


def _accuracy(
    figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> str:
    accuracy, difference = figure("accuracy"), figure("accuracy_difference")
    if accuracy is None:
        return ""
    if difference is None:
        return f"It classifies {accuracy:.1%} of the test images correctly."
    paired_interval = details["faithfulness"][0]["difference"]
    interval = f"95% interval {100 * paired_interval['low']:+.1f} to {100 * paired_interval['high']:+.1f}".replace(
        "-", "−"
    )
    points = f"{abs(100 * difference):.1f} points"
    if difference < -limits.lost_points / 100:
        return f"It lost {points} of accuracy ({interval}): {accuracy:.1%}."
    if abs(difference) < 0.0005:  # 0.0 points as it would be shown
        return f"It lost no accuracy: {accuracy:.1%} ({interval} points)."
    side = "above" if difference > 0 else "below"
    return f"Its accuracy of {accuracy:.1%} is {points} {side} the original's ({interval})."


def _black_box(details: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Returns sentences on a black box whose output order is in doubt, or that is no better than chance."""
    standing = details.get("faithfulness", [{}])[0].get("black_box")
    return list(standing["said"]) if standing else []


def _classes(details: Mapping[str, list[dict[str, Any]]], names: list[str], limits: Thresholds) -> list[str]:
    """Names classes with a loss above the threshold that is significant among so many classes (Holm)."""
    if "faithfulness" not in details:
        return []
    compared = [entry for entry in details["faithfulness"][0]["per_class"] if entry["difference"] is not None]
    lost = [entry for entry in compared if entry["difference"]["value"] < -limits.lost_points / 100]
    beyond_chance = _beyond_chance(compared)
    overlaps = {entry["label"]: entry for entry in details.get("embedding", [{}])[0].get("classes", [])}
    sentences = []
    for entry in lost:
        if entry["label"] not in beyond_chance:
            continue
        text = f"Class {names[entry['label']]!r} lost {-100 * entry['difference']['value']:.1f} points"
        near = overlaps.get(entry["label"])
        if near and near["rival"] is not None and near["overlap"] >= limits.overlap:
            text += f": its embedding overlaps with {names[near['rival']]!r}"
        elif entry["mistaken_for"] is not None:
            text += f"; it is taken most often for {names[entry['mistaken_for']]!r}"
        sentences.append(text + ".")
    return [
        *sentences,
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


def _within_chance(lost: list[dict[str, Any]], names: list[str], n_classes: int) -> list[str]:
    if not lost:
        return []
    worst = sorted(lost, key=lambda entry: entry["difference"]["value"])
    listed = ", ".join(
        f"{names[entry['label']]!r} ({-100 * entry['difference']['value']:.1f})" for entry in worst[:_NAMED]
    )
    ending = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return [
        f"Of single classes, {listed}{ending} lost points, within what chance does to {n_classes} classes "
        "of so few images (Holm, 5%)."
    ]


def _calibration(error: float | None, details: Mapping[str, list[dict[str, Any]]], limits: Thresholds) -> str:
    """Warns of uncalibrated probabilities, if the error exceeds twice that of a calibrated model on as few images."""
    if error is None or error < max(limits.calibration, 2 * details["calibration"][0]["model"]["by_chance"]):
        return ""
    return f"Its probabilities are off by {error:.3f} on average (ECE): do not read them as chances."


def _ghosts(share: float | None, details: Mapping[str, list[dict[str, Any]]]) -> str:
    if share is None:
        return ""
    if share == 0:
        return "No prototype is unused."
    counts = details["transparency"][0][
        "activations" if details["transparency"][0]["scope"] == "class" else "activations_among_all"
    ]
    ghosts = [str(j) for j, count in enumerate(counts) if not count]
    listed = ", ".join(ghosts[:8]) + (" and more" if len(ghosts) > 8 else "")
    return f"{len(ghosts)} of {len(counts)} prototypes are never used ({listed}): do not read anything into them."


def _likenesses(auroc: float | None, chance: float | None, limits: Thresholds) -> str:
    if auroc is None or chance is None:
        return ""
    figures = f"(AUROC {auroc:.3f}, in random order {chance:.3f})"
    if auroc >= chance + limits.auroc_gain:
        return f"The pixels that it points to are those that it needs {figures}."
    return f"The pixels that it points to matter hardly more than any others {figures}: do not rely on its heat-maps."


def _explanations(figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]]) -> str:
    """Says whether the model's maps are closer to the black box's than the controls' maps are, beyond their spread."""
    divergence = figure("explanation_divergence")
    if divergence is None:
        return ""
    runs = [run["controls"] for run in details.get("explanations", []) if "controls" in run]
    names = [name for name in CONTROLS if runs and all(name in run for run in runs)]
    margins = {name: margin_over([run[name] for run in runs], "divergence") for name in names}
    if not any(margins.values()):
        return f"Whether it looks where the original looks cannot be said without controls (D_fth {divergence:.2f})."
    figures = "; ".join(_control(name, figure, divergence, margin) for name, margin in margins.items() if margin)
    correlation = figure("explanation_correlation")
    signed = "" if correlation is None else f"; signed correlation {correlation:.2f}"
    figures = f"(D_fth {divergence:.2f}; {figures}{signed})"
    failed = [name for name, margin in margins.items() if margin and margin.low <= 0]
    if "mismatched" in failed:
        return f"It does not look where the original looks {figures}."
    if failed:
        listed = " or ".join(CONTROLS[name] for name in failed)
        return (
            f"{_NOT_SHOWN}: its maps are no nearer to the original's, beyond chance, than those of {listed} {figures}."
        )
    return f"It looks where the original looks {figures}."


def _control(name: str, figure: Callable[[str], float | None], divergence: float, margin: Range) -> str:
    """Returns a control's D_fth with the range expected for one more draw of it."""
    value = figure(f"explanation_divergence_{name}")
    control_divergence = divergence + margin.mean if value is None else value
    low, high = max(0.0, divergence + margin.low), divergence + margin.high
    return f"{CONTROLS[name]} {control_divergence:.2f}, 95% {low:.2f} to {high:.2f}"


def _sanity(details: Mapping[str, list[dict[str, Any]]], limits: Thresholds) -> str:
    """Says how far down the network must be randomised until its heat-maps change."""
    if "sanity" not in details:
        return ""
    check = details["sanity"][0]
    changed = first_change(check, limits.unchanged)
    if changed is None:
        last = check["likenesses"][-1]["rank"]["likeness"]
        figures = f"(rank correlation {last:.2f})"
        return f"Its heat-maps hardly change when all its layers are randomised {figures}: do not rely on them."
    name, value = changed
    return f"Its heat-maps change once it is randomised from the head down to {name!r} (rank correlation {value:.2f})."


def _variety(value: float | None, limits: Thresholds) -> str:
    if value is None or value < limits.alike:
        return ""
    return f"By its own similarity its prototypes are nearly alike (D_dvs {value:.3f})."


def _embedding(overlap: float | None, limits: Thresholds) -> str:
    if overlap is None or overlap < limits.overlap:
        return ""
    return (
        f"{overlap:.1%} of the training images lie nearer to another class's prototype than to any of their own: "
        "the embedding is not well separated; a learned similarity or more prototypes may help."
    )
