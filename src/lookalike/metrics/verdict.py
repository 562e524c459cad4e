"""The verdict in plain sentences: what did the conversion lose, and can the explanations be trusted?"""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from lookalike._core.intervals import Range, mean_with_interval
from lookalike._core.wording import counted, samples
from lookalike.metrics.class_findings import class_findings, weakest
from lookalike.metrics.controls import CONTROLS, margin_over
from lookalike.metrics.faithfulness import independent_agreement
from lookalike.metrics.familiarity import familiarity_finding
from lookalike.metrics.findings import ENOUGH_AGREEMENT, Finding, by_weight, on_sample
from lookalike.metrics.sanity import SANITY_IMAGES, first_change
from lookalike.metrics.thresholds import Thresholds

_PLAIN = {
    "logistic_regression": "logistic regression",
    "nearest_neighbour": "the nearest training image (1-NN)",
    "nearest_mean": "the nearest class mean",
}
_PLAIN_CONTROLS = {
    "random_head": "a network whose last layer is random",
    "permuted_labels": "the same prototypes with their classes mixed up",
    "mismatched": "other images",
}
_NAMED = 5  # classes listed in a sentence
_WIDE = 0.2  # a wider interval of the agreement leaves open whether the models are alike [ours]
_NOT_SHOWN = "It is not shown that it looks where the original looks"


def verdict(
    figure: Callable[[str], float | None],
    details: Mapping[str, list[dict[str, Any]]],
    class_names: list[str],
    thresholds: Thresholds,
    advice: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Returns the findings about the measured figures, in order of weight.

    Args:
        figure: Returns a figure by name, or None if it was not measured.
        details: Details of the sections.
        class_names: Names of the K classes.
        thresholds: Values at which sentences turn from good to bad.
        advice: What other choices would have given when the model was converted; None if none were tried.
    """
    findings = [
        *_data(details),
        _agreement(figure("agreement"), details, len(class_names), thresholds),
        _accuracy(figure, details, thresholds),
        _same_embedding(details),
        *_black_box(details),
        *class_findings(details, class_names, thresholds),
        weakest(details, class_names, thresholds),
        familiarity_finding(details.get("faithfulness", [{}])[0].get("unfamiliar")),
        _calibration(figure("calibration_error"), details, thresholds),
        _ghosts(figure("ghosting"), details),
        _likenesses(figure("auroc"), figure("auroc_random"), details, thresholds),
        _explanations(figure, details, thresholds),
        *_objects(figure, details, thresholds),
        _sanity(details, thresholds),
        _variety(figure("diversity"), thresholds),
        _embedding(figure("overlap"), details, advice, thresholds),
    ]
    return by_weight(finding for finding in findings if finding is not None)


def _data(details: Mapping[str, list[dict[str, Any]]]) -> list[Finding]:
    """Returns warnings of test images that the model has seen, and of other training data than its own."""
    check = details.get("data", [{}])[0]
    return [
        Finding("leak" if number == 0 and check.get("n_leaked") else "data", "bad", text)
        for number, text in enumerate(check.get("sentences", []))
    ]


def _agreement(
    agreement: float | None, details: Mapping[str, list[dict[str, Any]]], n_classes: int, limits: Thresholds
) -> Finding | None:
    if agreement is None:
        return None
    faithfulness = details.get("faithfulness", [{}])[0]
    interval, box = faithfulness.get("agreement"), faithfulness.get("black_box_accuracy")
    text = f"It agrees with the original on {agreement:.1%} of the test images"
    if interval is not None:
        text += f" (95% interval {interval['low']:.1%} to {interval['high']:.1%})"
    same = f"{agreement:.1%} of their answers are the same"
    high = agreement if interval is None else interval["high"]
    bar, reason = _least_agreement(None if box is None else 1 - box["value"], n_classes, limits)
    good = limits.good_agreement if limits.agreement is None else limits.agreement
    if high < bar:
        text = f"{text}: too few to stand for it; {reason}."
        return Finding("agreement", "bad", text, headline=f"This model cannot stand for the original: only {same}")
    is_wide = interval is not None and interval["high"] - interval["low"] > _WIDE
    if high >= good and (agreement < bar or (is_wide and agreement < ENOUGH_AGREEMENT)):
        reason = reason if agreement < bar else f"a model is called good if at least {good:.0%} are the same"
        text = f"{text}: these are too few images to tell whether it stands for it; {reason}."
        headline = "There are too few test images to tell whether this model can stand for the original: "
        return Finding("agreement", "caution", text, headline=headline + same)
    if agreement < good:
        differing = f"{1 - agreement:.1%} of the answers differ"
        text = f"{text}: {differing}; a model is called good if at most {1 - good:.0%} do."
        return Finding("agreement", "caution", text, headline=f"{differing} from the original's")
    if agreement >= ENOUGH_AGREEMENT:
        headline = "This model can stand for the original"
    elif limits.agreement is not None:
        headline = "This model agrees with the original as often as was asked for"
    else:
        headline = "This model mostly answers as the original does"
    return Finding("agreement", "good", f"{text}.", headline=f"{headline}: {same}")


def _least_agreement(box_error: float | None, n_classes: int, limits: Thresholds) -> tuple[float, str]:
    """Returns the share of equal predictions below which a model cannot stand for its original, and why.

    The agreement of two trainings that err independently is necessary and not sufficient: where the original often
    errs, it is low, and a model that changes most of the answers is above it.
    """
    if limits.agreement is not None:
        return limits.agreement, f"{limits.agreement:.1%} are asked for"
    expected = 1.0 if box_error is None else independent_agreement(box_error, n_classes)
    if limits.least_agreement < expected < ENOUGH_AGREEMENT:
        return expected, f"two trainings of the original that err independently would agree on {expected:.1%}"
    bar = limits.least_agreement if expected < ENOUGH_AGREEMENT else ENOUGH_AGREEMENT
    return bar, f"{bar:.0%} are asked for"


def _accuracy(
    figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> Finding | None:
    accuracy, difference = figure("accuracy"), figure("accuracy_difference")
    if accuracy is None:
        return None
    if difference is None and figure("agreement") is not None:  # whose sentence says how often it errs
        return Finding("accuracy", "info", f"It classifies {accuracy:.1%} of the test images correctly.")
    if difference is None:
        return _accuracy_alone(accuracy, details.get("faithfulness", [{}])[0].get("accuracy"), limits)
    paired = details["faithfulness"][0]["difference"]
    low, high = (f"{100 * paired[end]:+.1f}".replace("-", "−") for end in ("low", "high"))
    points, margin = f"{abs(100 * difference):.1f} points", limits.lost_points / 100
    is_lost = difference < -margin
    if is_lost and paired["high"] < 0:
        text = f"It lost {points} of accuracy (95% interval {low} to {high}): {accuracy:.1%}."
        return Finding("accuracy", "bad", text)
    if paired["low"] < -margin:  # what the interval leaves open is not shown, whatever the measured value is
        is_equal = abs(difference) < 0.0005  # 0.0 points as it would be shown
        side = "the same as" if is_equal else f"{points} {'above' if difference > 0 else 'below'}"
        text = (
            f"Its accuracy of {accuracy:.1%} is {side} the original's (95% interval of the difference: {low} to {high} "
            "points)."
        )
        if paired["high"] < 0:
            text += f" So it lost accuracy; whether more than {_counted(limits.lost_points)}, these images cannot tell."
        else:
            text += " These are too few images to tell whether it is better or worse than the original."
        return Finding("accuracy", "caution", text)
    if abs(difference) < 0.0005:  # 0.0 points as it would be shown
        return Finding(
            "accuracy", "good", f"It lost no accuracy: {accuracy:.1%} (95% interval {low} to {high} points)."
        )
    side = "above" if difference > 0 else "below"
    text = f"Its accuracy of {accuracy:.1%} is {points} {side} the original's (95% interval {low} to {high})."
    return Finding("accuracy", "good", text)


def _accuracy_alone(accuracy: float, interval: Mapping[str, float] | None, limits: Thresholds) -> Finding:
    """Judges the accuracy of a model without an original to compare it with."""
    text = f"It classifies {accuracy:.1%} of the test images correctly"
    if interval is not None:
        text += f" (95% interval {interval['low']:.1%} to {interval['high']:.1%})"
    if accuracy < limits.least_accuracy:
        return Finding("accuracy", "bad", f"{text}: it errs more often than not.")
    if accuracy < limits.good_accuracy:
        return Finding("accuracy", "caution", f"{text}: {1 - accuracy:.0%} of its answers are wrong.")
    return Finding("accuracy", "info", f"{text}.")


def _counted(points: float) -> str:
    return f"{points:g} {'point' if points == 1 else 'points'}"


def _same_embedding(details: Mapping[str, list[dict[str, Any]]]) -> Finding | None:
    """Compares a model without a black box with plain classifiers on the same embedding."""
    compared = details.get("same_embedding", [{}])[0]
    if not compared:
        return None
    figures = "; ".join(
        f"{_PLAIN[name]} {entry['accuracy']:.1%}, {_signed(entry['difference'])}" for name, entry in compared.items()
    )
    better = [name for name, entry in compared.items() if entry["difference"]["high"] < 0]
    if better:
        listed = " and ".join(_PLAIN[name] for name in better)
        claim = f"On the same embedding, {listed} would classify more images correctly."
        return Finding("accuracy", "caution", claim, figures)
    claim = "No plain classifier on the same embedding is more accurate beyond chance."
    return Finding("accuracy", "good", claim, figures)


def _signed(difference: Mapping[str, float]) -> str:
    """Formats the model's accuracy minus another's, in points."""
    low, value, high = (f"{100 * difference[key]:+.1f}".replace("-", "−") for key in ("low", "value", "high"))
    return f"{value} points for the prototypes, 95% {low} to {high}"


def _black_box(details: Mapping[str, list[dict[str, Any]]]) -> list[Finding]:
    """Returns findings on a black box whose output order is in doubt, or that is no better than chance."""
    standing = details.get("faithfulness", [{}])[0].get("black_box")
    return [Finding("original", "caution", sentence) for sentence in standing["said"]] if standing else []


def _calibration(
    error: float | None, details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> Finding | None:
    """Warns of uncalibrated probabilities, if the error exceeds twice that of a calibrated model on as few images."""
    if error is None or error < max(limits.calibration, 2 * details["calibration"][0]["model"]["by_chance"]):
        return None
    text = f"Its probabilities are off by {error:.3f} on average (ECE): do not read them as chances."
    return Finding("calibration", "caution", text)


def _ghosts(share: float | None, details: Mapping[str, list[dict[str, Any]]]) -> Finding | None:
    if share is None:
        return None
    of_patches = details.get("transparency", [{}])[0].get("of_patches", False)
    if share == 0:
        claim = f"No prototype is unused: each has training {samples(of_patches)} of its class that look most like it."
        return Finding("unused", "good", claim)
    is_used = used_prototypes(details)
    assert is_used is not None  # as their share is known
    ghosts = [str(j) for j, used in enumerate(is_used) if not used]
    listed = ", ".join(ghosts[:8]) + (" and more" if len(ghosts) > 8 else "")
    are, their, them, stand = (
        ("is", "its", "it", "it stands") if len(ghosts) == 1 else ("are", "their", "them", "they stand")
    )
    text = (
        f"{len(ghosts)} of {counted(len(is_used), 'prototype')} {are} never used ({listed}): no training "
        f"{'patch' if of_patches else 'image'} of {their} class looks most like {them}, so {stand} for none of them."
    )
    return Finding("unused", "caution", text)


def used_prototypes(details: Mapping[str, list[dict[str, Any]]]) -> list[bool] | None:
    """Says of each prototype whether it is used: whether some training image looks most like it.

    "Used" is about training images alone, by the scope of the scorecard. What a prototype decides are test images.

    Returns:
        None if it was not measured.
    """
    if "transparency" not in details:
        return None
    measured = details["transparency"][0]
    counts = measured["activations" if measured["scope"] == "class" else "activations_among_all"]
    return [count > 0 for count in counts]


def _likenesses(
    auroc: float | None, chance: float | None, details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> Finding | None:
    """Says whether the pixels of its heat-maps matter more than pixels in random order, beyond the spread of images."""
    if auroc is None or chance is None:
        return None
    figures = (
        f"mean probability of its answer while the other pixels turn to noise first: {auroc:.3f}; while pixels turn to "
        f"noise in random order: {chance:.3f}"
    )
    gain, n_images = _gain_over_random(details.get("robustness", []))
    if gain is None or n_images < limits.least_images:
        figures = f"{figures}; {n_images} of at least {limits.least_images} images"
        return Finding("pixels", "caution", _too_few_for_pixels(n_images), figures, n_images=n_images)
    low, high = (f"{value:+.3f}".replace("-", "−") for value in (gain.low, gain.high))
    figures += f"; 95% interval of the difference {low} to {high}, {counted(n_images, 'image')}"
    if gain.high < limits.auroc_gain:
        claim = (
            "The pixels that its heat-maps point to matter hardly more than any others: do not rely on its heat-maps."
        )
        return on_sample(Finding("pixels", "bad", claim, figures), n_images, limits.enough_images)
    if gain.mean < limits.auroc_gain or gain.low <= 0:
        return Finding("pixels", "caution", _too_few_for_pixels(n_images), figures, n_images=n_images)
    claim = (
        "Its heat-maps point to pixels that it needs: with these left to the last, it keeps its answer longer than by "
        "chance."
    )
    return on_sample(Finding("pixels", "good", claim, figures), n_images, limits.enough_images)


def _too_few_for_pixels(n_images: int) -> str:
    are = "is" if n_images == 1 else "are"
    return (
        "Whether the pixels that its heat-maps point to are those that it needs cannot be said: "
        f"{counted(n_images, 'image')} {are} too few."
    )


def _gain_over_random(runs: list[dict[str, Any]]) -> tuple[Range | None, int]:
    """Returns by how much areas under the curves exceed those in random order, and of how many images per run.

    The areas are paired by image. Runs may draw the same images again, so their intervals are averaged, not narrowed.
    """
    gains = [
        [ours - random for ours, random in zip(run["areas"]["model"], run["areas"]["random"], strict=True)]
        for run in runs
        if {"model", "random"} <= run.get("areas", {}).keys()
    ]
    intervals = [interval for values in gains if (interval := mean_with_interval(values)) is not None]
    n_images = min((len(values) for values in gains), default=0)
    if not intervals or len(intervals) < len(gains):
        return None, n_images
    return Range(*(fmean(ends) for ends in zip(*intervals, strict=True))), n_images


def _explanations(
    figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> Finding | None:
    """Says whether the model's maps are closer to the black box's than the controls' maps are, beyond their spread."""
    finding = _attention(figure, details)
    samples = [run["per_image"] for run in details.get("explanations", []) if "per_image" in run]
    n_images = min(map(len, samples), default=None)
    return None if finding is None else on_sample(finding, n_images, limits.enough_images)


def _attention(figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]]) -> Finding | None:
    divergence = figure("explanation_divergence")
    if divergence is None:
        return None
    runs = [run["controls"] for run in details.get("explanations", []) if "controls" in run]
    names = [name for name in CONTROLS if runs and all(name in run for run in runs)]
    margins = {name: margin_over([run[name] for run in runs], "divergence") for name in names}
    if not any(margins.values()):
        claim = "Whether it looks where the original looks cannot be said without controls."
        return Finding("attention", "caution", claim, f"the maps differ by {_two_digits(divergence)}")
    figures = "; ".join(_control(name, figure, divergence, margin) for name, margin in margins.items() if margin)
    correlation = figure("explanation_correlation")
    signed = "" if correlation is None else f"; signed correlation {correlation:.2f}"
    figures = f"the maps differ by {_two_digits(divergence)}; {figures}{signed}"
    failed = [name for name, margin in margins.items() if margin and margin.low <= 0]
    different = margins.get("mismatched")
    if different is not None and different.high <= 0:  # further from the original's than maps of other images are
        return Finding("attention", "bad", "It does not look where the original looks.", figures)
    if failed:
        listed = " or ".join(_PLAIN_CONTROLS[name] for name in failed)
        claim = f"{_NOT_SHOWN}: its heat-maps are not clearly closer to the original's than heat-maps of {listed}."
        return Finding("attention", "caution", claim, figures)
    return Finding("attention", "good", "It looks where the original looks.", figures)


def _control(name: str, figure: Callable[[str], float | None], divergence: float, margin: Range) -> str:
    """Returns by how much a control's maps differ, with the range expected for one more draw of it."""
    value = figure(f"explanation_divergence_{name}")
    control_divergence = divergence + margin.mean if value is None else value
    low, high = max(0.0, divergence + margin.low), divergence + margin.high
    return f"{CONTROLS[name]} {_two_digits(control_divergence)}, 95% {_two_digits(low)} to {_two_digits(high)}"


def _two_digits(value: float) -> str:
    """Formats a figure by two decimals, or by two digits that are not zero: small figures are compared, too."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.095 else f"{value:.2g}"


def _objects(
    figure: Callable[[str], float | None], details: Mapping[str, list[dict[str, Any]]], limits: Thresholds
) -> list[Finding]:
    """Says whether relevance is on the objects, and names prototypes that look at the background."""
    mass, chance = figure("relevance_mass"), figure("object_share")
    if mass is None or chance is None:
        return []
    on_objects = _on_objects(f"{mass:.1%} of the relevance, on {chance:.1%} of the image", details["localisation"])
    n_images = min((run["n_images"] for run in details["localisation"] if "n_images" in run), default=None)
    findings = [on_sample(on_objects, n_images, limits.enough_images)]
    named: dict[int, dict[str, Any]] = {
        entry["prototype"]: entry for run in details["localisation"] for entry in run["background"]
    }
    if named:
        listed = "; ".join(
            f"no. {j} of class {entry['class']!r}: {entry['on_object']:.0%} of its relevance on the object, which "
            f"covers {entry['by_chance']:.0%}, over {counted(entry['n_images'], 'image')}"
            for j, entry in list(named.items())[:_NAMED]
        )
        classes = sorted({entry["class"] for entry in named.values()})
        claim = f"Prototypes of {', '.join(map(repr, classes[:_NAMED]))} look at the background, not at the object."
        findings.append(Finding("objects", "bad", claim, listed))
    return findings


def _on_objects(figures: str, runs: list[dict[str, Any]]) -> Finding:
    """Compares relevance on the objects with their size, by the mean interval over images of the runs."""
    intervals = [run["above_chance"] for run in runs if run.get("above_chance")]
    if not intervals:
        claim = "Whether more of its relevance is on the objects than their size alone would get cannot be said."
        return Finding("objects", "caution", claim, f"{figures}; too few images for an interval")
    low, high = (100 * fmean(interval[end] for interval in intervals) for end in ("low", "high"))
    figures = f"{figures}; 95% interval of the difference {low:+.1f} to {high:+.1f} points"
    if low > 0:
        claim = "More of its relevance is on the objects than their size alone would get."
        return Finding("objects", "good", claim, figures)
    if high < 0:
        claim = "Less of its relevance is on the objects than their size alone would get."
        return Finding("objects", "bad", claim, figures)
    claim = "It is not shown that more of its relevance is on the objects than their size alone would get."
    return Finding("objects", "caution", claim, figures)


def _sanity(details: Mapping[str, list[dict[str, Any]]], limits: Thresholds) -> Finding | None:
    """Says how far down the network must be randomised until its heat-maps change.

    Maps that change only when more than half of the layers are randomised show what early layers see [ours: Adebayo et
    al. name no threshold].
    """
    if "sanity" not in details:
        return None
    check = details["sanity"][0]
    changed = first_change(check, limits.unchanged)
    if changed is None:
        last = check["likenesses"][-1]["rank"]["likeness"]
        figures = f"(rank correlation {last:.2f})"
        text = f"Its heat-maps hardly change when all its layers are randomised {figures}: do not rely on them."
        finding = Finding("sanity", "bad", text)
    else:
        name, value = changed
        depth = f"from the head down to {name!r} (rank correlation {value:.2f})"
        n_steps = len(check["depths"]) - 1  # the first depth is the model as it was trained
        finding = Finding("sanity", "good", f"Its heat-maps change once it is randomised {depth}.")
        if check["depths"].index(name) > max(1, n_steps / 2):
            alike = check["likenesses"][1]["rank"]["likeness"]
            text = (
                f"Its heat-maps depend little on its prototypes and last layers: with mixed-up prototypes they stay "
                f"alike (rank correlation {alike:.2f}), and they change only once it is randomised {depth}."
            )
            finding = Finding("sanity", "caution", text)
    return on_sample(finding, check.get("options", {}).get("n_images"), min(SANITY_IMAGES, limits.enough_images))


def _variety(value: float | None, limits: Thresholds) -> Finding | None:
    if value is None or value < limits.alike:
        return None
    text = f"By its own similarity its prototypes are nearly alike ({value:.3f}, where 1 is no difference at all)."
    return Finding("variety", "caution", text)


def _embedding(
    overlap: float | None,
    details: Mapping[str, list[dict[str, Any]]],
    advice: Mapping[str, Any] | None,
    limits: Thresholds,
) -> Finding | None:
    """Says how many training samples overlap with another class, and what the conversion found would help."""
    if overlap is None or overlap < limits.overlap:
        return None
    tried = (
        f"When it was converted: {advice['sentence']}"
        if advice
        else "A learned similarity or more prototypes may help."
    )
    plural = samples(details.get("embedding", [{}])[0].get("of_patches"))
    text = (
        f"With these prototypes, {overlap:.1%} of the training {plural} lie nearer to another class's prototype than "
        f"to any of their own. {tried}"
    )
    return Finding("embedding", "caution", text)
