"""The verdict: what was lost, and can it be trusted, in plain sentences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lookalike import checks


@dataclass(frozen=True)
class Thresholds:
    """Where a sentence turns from good to bad. All are ours.

    Attributes:
        agreement: From this share of equal predictions on, the model stands for its black box.
        lost_points: So many points of accuracy less are a loss to speak of, overall and for a class.
        overlap: From this share of training samples on that lie nearer to another class's prototype, classes overlap.
        auroc_gain: By so much the area under the relevance-ordering curve must exceed the random order's.
        divergence_ratio: Up to this ratio of D_fth to that between maps of different images, explanations are alike.
        calibration: From this expected calibration error on, probabilities are not to be read as chances.
        alike: From this D_dvs on, prototypes are nearly alike to the model itself.
    """

    agreement: float = 0.97
    lost_points: float = 1.0
    overlap: float = 0.05
    auroc_gain: float = 0.02
    divergence_ratio: float = 0.75
    alike: float = 0.98
    calibration: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            checks.number(name, value)


def verdict(
    figure: Callable[[str], float | None],
    details: Mapping[str, list[dict[str, Any]]],
    class_names: list[str],
    thresholds: Thresholds,
) -> list[str]:
    """Returns the sentences, for what was measured.

    Args:
        figure: Returns a figure by name, or None.
        details: The sections' details.
        class_names: K names.
        thresholds: Where sentences turn.
    """
    said = [
        *details.get("data", [{}])[0].get("sentences", []),
        _agreement(figure("agreement"), thresholds),
        _accuracy(figure, details, thresholds),
        *_black_box(details),
        *_classes(details, class_names, thresholds),
        _calibration(figure("calibration_error"), details, thresholds),
        _ghosts(figure("ghosting"), details),
        _likenesses(figure("auroc"), figure("auroc_random"), thresholds),
        _explanations(figure("explanation_divergence"), figure("explanation_divergence_mismatched"), thresholds),
        _variety(figure("diversity"), thresholds),
        _embedding(figure("overlap"), thresholds),
    ]
    return [sentence for sentence in said if sentence]


def _agreement(agreement: float | None, limits: Thresholds) -> str:
    if agreement is None:
        return ""
    text = f"It agrees with the original on {agreement:.1%} of the test images"
    return text + ("." if agreement >= limits.agreement else ": too few to stand for it.")


def _accuracy(
    figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> str:
    accuracy, difference = figure("accuracy"), figure("accuracy_difference")
    if accuracy is None:
        return ""
    if difference is None:
        return f"It classifies {accuracy:.1%} of the test images correctly."
    found = details["faithfulness"][0]["difference"]
    interval = f"95% interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}".replace("-", "−")
    points = f"{abs(100 * difference):.1f} points"
    if difference < -limits.lost_points / 100:
        return f"It lost {points} of accuracy ({interval}): {accuracy:.1%}."
    if abs(difference) < 0.0005:
        return f"It lost no accuracy: {accuracy:.1%} ({interval} points)."
    side = "above" if difference > 0 else "below"
    return f"Its accuracy of {accuracy:.1%} is {points} {side} the original's ({interval})."


def _black_box(details: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Says whether the black box's outputs are in doubt, or it is no better than chance."""
    found = details.get("faithfulness", [{}])[0].get("black_box")
    return list(found["said"]) if found else []


def _classes(details: Mapping[str, list[dict[str, Any]]], names: list[str], limits: Thresholds) -> list[str]:
    """Names classes that lost more than the threshold, and what they are mistaken for."""
    if "faithfulness" not in details:
        return []
    overlaps = {one["label"]: one for one in details.get("embedding", [{}])[0].get("classes", [])}
    said = []
    for one in details["faithfulness"][0]["per_class"]:
        difference = one["difference"]
        if difference is None or difference["value"] >= -limits.lost_points / 100:
            continue
        text = f"Class {names[one['label']]!r} lost {-100 * difference['value']:.1f} points"
        if difference["high"] >= 0:
            text += f", within what chance does to {one['n']} images"
        near = overlaps.get(one["label"])
        if near and near["rival"] is not None and near["overlap"] >= limits.overlap:
            text += f": its embedding overlaps with {names[near['rival']]!r}"
        elif one["mistaken_for"] is not None:
            text += f"; it is taken most often for {names[one['mistaken_for']]!r}"
        said.append(text + ".")
    return said


def _calibration(error: float | None, details: Mapping[str, list[dict[str, Any]]], limits: Thresholds) -> str:
    """Warns of probabilities that are no chances, where that is not what so few test images do to any."""
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


def _explanations(divergence: float | None, mismatched: float | None, limits: Thresholds) -> str:
    if divergence is None or mismatched is None:
        return ""
    figures = f"(D_fth {divergence:.2f}; between different images {mismatched:.2f})"
    if divergence <= limits.divergence_ratio * mismatched:
        return f"It looks where the original looks {figures}."
    return f"It does not look where the original looks {figures}."


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
