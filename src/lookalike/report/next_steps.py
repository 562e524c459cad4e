"""What to do next: steps that follow from what this report found, with the commands to type."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lookalike._core.wording import counted
from lookalike.metrics.class_findings import joined
from lookalike.metrics.findings import Finding
from lookalike.report.material import Material
from lookalike.report.summary import FEWEST_DECISIONS, all_findings, often_wrong

_ENOUGH_IMAGES = 100  # on which heat-maps are tested; fewer give a hint
_MOST_NAMED_CLASSES = 12  # in a command; one that names more could not be read
_NAMED = 3
_WARNINGS = ("bad", "caution")


@dataclass(frozen=True)
class Shown:
    """Test images that a button shows.

    Attributes:
        kind: Which of them, as a filter of the page calls it, e.g. ``"unfamiliar"``.
        title: What they are.
        n: Number of them in the test data.
        labels: Their classes; none for all.
        text: Text of the button.
    """

    kind: str
    title: str
    n: int
    labels: tuple[int, ...] = ()
    text: str = "Show"


@dataclass(frozen=True)
class Step:
    """Something to do.

    Attributes:
        text: What to do, and why.
        commands: Commands to type, in order; None stands for one that there is not for these data.
        lead: What the commands do; it is left out without any.
        links: Places of the page to look at, as (anchor, text).
        shows: Test images that a button shows; None for none.
    """

    text: str
    commands: tuple[str | None, ...] = ()
    lead: str = ""
    links: tuple[tuple[str, str], ...] = ()
    shows: Shown | None = None


def next_steps(material: Material) -> dict[str, Any] | None:
    """Returns the values of the section; None where nothing follows from the findings."""
    by_topic: dict[str, Finding] = {}
    for finding in all_findings(material):
        by_topic.setdefault(finding.topic, finding)  # the weightiest of a topic comes first
    steps = [step for of_finding in _STEPS if (step := of_finding(material, by_topic)) is not None]
    if not steps:
        return None
    rows = [
        {
            "text": step.text,
            "lead": step.lead if any(step.commands) else "",
            "commands": [command.split(" ") for command in step.commands if command is not None],
            "links": step.links,
            "shows": step.shows,
        }
        for step in steps
    ]
    words = {word for step in steps for command in step.commands if command for word in shlex.split(command)}
    return {"steps": rows, "placeholders": [text for word, text in _PLACEHOLDERS.items() if word in words]}


_PLACEHOLDERS = {
    "MODEL": "MODEL is the folder of the model",
    "DATA": "DATA is the folder of images that it was converted with",
    "MORE_IMAGES": "MORE_IMAGES is a folder of labelled images that it has not seen",
}


def _copies(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    twins, commands = material.duplicates, material.commands
    n_pairs = 0 if twins is None else len(twins.twins)
    if not n_pairs and "leak" not in by_topic:
        return None
    if twins is None or not n_pairs:
        text = "Take the training images out of the test images, and measure again."
        audit = commands.audit()
        return Step(text, (audit, commands.evaluate()), "" if audit is None else _lists("them"))
    if twins.without is None:
        text = "Measure the model on other images: each of these test images is a copy."
        return Step(text, (commands.evaluate_on("MORE_IMAGES"),), links=(("duplicates", "the pairs"),))
    n_of_training, is_within = len(twins.of_training), any(not twin.is_training for twin in twins.twins)
    copies = [
        *([f"the {n_of_training:,} that are copies of training images"] if n_of_training else []),
        *(["all but one of each group that are alike"] if is_within else []),
    ]
    text = f"Take copies out of the test images ({', and '.join(copies)}), and measure again."
    audit, links = commands.audit(), (("duplicates", "the pairs"),)
    return Step(text, (audit, commands.evaluate()), "" if audit is None else _lists("all pairs"), links)


def _lists(what: str) -> str:
    return f"The first command lists {what}:"


def _other_data(material: Material, _: Mapping[str, Finding]) -> Step | None:
    if material.card.info.get("data_check", {}).get("training_data") != "other":
        return None
    return Step("Make this report again with the training images that the model was made from; others were given.")


def _mostly_wrong(material: Material) -> list[int]:
    """Returns the classes most of whose test images are wrong, the worst first."""
    decisions, k_classes = material.decisions, material.model.n_classes
    n = torch.bincount(decisions.labels, minlength=k_classes).tolist()
    n_wrong = torch.bincount(decisions.labels[decisions.wrong], minlength=k_classes).tolist()
    wrong = [k for k in range(k_classes) if n_wrong[k] > n[k] / 2]
    return sorted(wrong, key=lambda k: (-n_wrong[k] / n[k], k))


def _labels_of_wrong_classes(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    wrong = _mostly_wrong(material)
    if not wrong:
        return None
    decisions = material.decisions
    counts = []
    for k in wrong:
        is_of_class = decisions.labels == k
        n_wrong = int((decisions.wrong & is_of_class).sum())
        counts.append(f"{material.model.class_names[k]!r} ({n_wrong:,} of {int(is_of_class.sum()):,} wrong)")
    text = f"Look at the wrong images of {joined(counts, _NAMED)}: are they labelled correctly?"
    audit = material.commands.audit()
    if audit is not None and _copies(material, by_topic) is not None:  # the command is there already
        audit = None
        text += " The list of copies lists labels that are probably wrong, too."
    lead = "The command lists labels that are probably wrong:"
    if not any(entry["label"] in wrong and entry["predicted"] != entry["label"] for entry in material.examples.entries):
        return Step(text, (audit,), lead)
    names = joined([repr(material.model.class_names[k]) for k in wrong], _NAMED)
    n_wrong = sum(_errors(material, k) for k in wrong)
    shown = Shown("wrong", f"Wrong test images of {names}", n_wrong, tuple(wrong), "Show these images")
    return Step(text, (audit,), lead, shows=shown)


def _prototypes_of_wrong_classes(material: Material, _: Mapping[str, Finding]) -> Step | None:
    model, decisions = material.model, material.decisions
    wrong = _mostly_wrong(material)
    if not wrong:
        return None
    if decisions.original is not None:
        of_original = decisions.wrong & (decisions.original != decisions.labels)
        n_both = {k: int((of_original & (decisions.labels == k)).sum()) for k in wrong}
        lost = [k for k in wrong if n_both[k] * 2 <= _errors(material, k)]
        if not lost:
            names = joined([repr(model.class_names[k]) for k in wrong], _NAMED)
            counts = [f"{n_both[k]:,} of {_errors(material, k):,} of {model.class_names[k]!r}" for k in wrong]
            return Step(
                f"Train the original with more images of {names}: of their wrong test images it gets most wrong itself "
                f"({joined(counts, _NAMED)}), which more prototypes do not mend."
            )
        wrong = lost
    n_prototypes = torch.bincount(model.prototypes.labels.cpu(), minlength=model.n_classes).tolist()
    n_images = torch.zeros(model.n_classes, dtype=torch.long)
    n_images.index_add_(0, model.prototypes.labels.cpu(), model.prototypes.counts.cpu().long())
    more = {k: min(2 * n_prototypes[k], int(n_images[k]) // 2) for k in wrong}
    more = {k: number for k, number in more.items() if number > n_prototypes[k]}
    if not more:
        names = joined([repr(model.class_names[k]) for k in wrong], _NAMED)
        return Step(f"Add training images of {names}: there are too few for more prototypes.")
    numbers = {name: more.get(k, n_prototypes[k]) for k, name in enumerate(model.class_names)}
    command = _convert(material, "more-prototypes", n_prototypes=_as_option(numbers))
    names = joined([repr(model.class_names[k]) for k in more], _NAMED)
    return Step(f"Give {names} more prototypes" + (":" if command else "."), (command,))


def _errors(material: Material, label: int) -> int:
    return int((material.decisions.wrong & (material.decisions.labels == label)).sum())


def _as_option(numbers: Mapping[str, int]) -> str:
    """Returns a value of ``--n-prototypes``: by class where names can be written, or else the largest for all."""
    if len(numbers) > _MOST_NAMED_CLASSES or any("," in name or name != name.strip() for name in numbers):
        return str(max(numbers.values()))
    return ",".join(f"{name}={number}" for name, number in numbers.items())


def _convert(material: Material, output: str, **changes: str) -> str | None:
    """Returns the command that converts again with some options changed; None for models that are made otherwise."""
    provenance = material.model.provenance
    if material.model.has_patches or provenance.get("method") != "KMEx":
        return None
    usual = {"similarity": "l2", "n_prototypes": 5, "clusterer": "kmeans"}
    options: list[str] = []
    for name, default in usual.items():
        value = changes.get(name, provenance.get(name, default))
        if isinstance(value, Mapping):
            value = _as_option({str(key): int(number) for key, number in value.items()})
        if str(value) != str(default):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return material.commands.convert(*options, output=output)


def _lost_images(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    """Shows where accuracy was lost: images that the original gets right and the prototypes wrong."""
    decisions, loss = material.decisions, by_topic.get("accuracy")
    if decisions.original is None or loss is None or loss.level not in _WARNINGS:
        return None
    lost = decisions.wrong & (decisions.original == decisions.labels)
    counts = torch.bincount(decisions.labels[lost], minlength=material.model.n_classes).tolist()
    classes = sorted((k for k, n in enumerate(counts) if n), key=lambda k: (-counts[k], k))
    if not classes:
        return None
    names = material.model.class_names
    listed = joined([f"{names[k]!r} ({counts[k]:,})" for k in classes], _NAMED)
    n_lost, n_gained = int(lost.sum()), int((~decisions.wrong & (decisions.original != decisions.labels)).sum())
    text = (
        f"Look at what was lost: {counted(n_lost, 'test image')} that the original gets right and this model wrong, "
        f"of {listed}; the reverse is true of {n_gained:,}. Which prototype do they look like, and what misled it?"
    )
    is_shown = any(entry["original"] == entry["label"] != entry["predicted"] for entry in material.examples.entries)
    shown = Shown("lost", "Wrong test images that the original gets right", n_lost) if is_shown else None
    return Step(text, shows=shown)


def _other_choice(material: Material, _: Mapping[str, Finding]) -> Step | None:
    advice = material.model.provenance.get("advice")
    if not isinstance(advice, Mapping) or advice.get("best") is None:
        return None
    taken, best = advice["choices"][0], advice["choices"][advice["best"]]
    changes = {name: str(best[name]) for name in ("similarity", "n_prototypes") if str(best[name]) != str(taken[name])}
    command = _convert(material, "new-model", **changes)
    tried = (
        f"{best['accuracy']:.1%} instead of {taken['accuracy']:.1%} of {counted(advice['n_samples'], 'training image')}"
    )
    text = (
        f"Try the advice of the conversion: {tried} were classified correctly while a part of them was held out in "
        "turn. This is of training images alone; what it gives on test images is not known. It looks better than it is "
        "if the network was trained on these images, or some are nearly copies of each other. Convert again, and "
        "compare:"
    )
    return None if command is None else Step(text, (command,))


def _more_test_images(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    few = [by_topic[topic] for topic in ("agreement", "accuracy") if topic in by_topic]
    if not any(finding.level == "caution" and "too few images" in finding.claim for finding in few):
        return None
    text = (
        f"Collect more labelled test images: {len(material.decisions.labels):,} are too few to compare this model with "
        "the original. Then measure on all of them:"
    )
    return Step(text, (material.commands.evaluate_on("MORE_IMAGES"),))


def _heat_maps(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    """Asks for the tests of heat-maps that were not made, or were made on few images."""
    has_maps = any(entry["near"][0]["map"] for entry in material.examples.entries)
    if not has_maps and material.page.n_maps:
        return None  # none can be made; the notes say why
    pixels, n_test = by_topic.get("pixels"), len(material.decisions.labels)
    enough = min(_ENOUGH_IMAGES, n_test)
    sanity = () if "sanity" in by_topic else ("--sanity",)
    if pixels is None:
        text = "Test the heat-maps: whether they point to pixels that the model needs was not measured here."
        return Step(text, (material.commands.evaluate("--images", str(enough), *sanity),))
    n_images = pixels.n_images
    is_few = n_images is not None and n_images < enough
    if pixels.level == "bad":
        if material.explainer.rule == "gradient":
            return None
        text = "See whether heat-maps by another rule point to pixels that the model needs:"
        options = ("--rule", "gradient", "--only", "robustness", "--images", str(enough))
        return Step(text, (material.commands.evaluate(*options),))
    if not is_few and not sanity:
        return None
    parts = [
        *([f"on {counted(enough, 'image')} in place of {n_images:,}"] if is_few else []),
        *(["for whether they depend on what the network learned"] if sanity else []),
    ]
    text = f"Test the heat-maps {', and '.join(parts)}:"
    return Step(text, (material.commands.report("--images", str(enough), "--sanity"),))


def _unfamiliar(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    unfamiliar = material.decisions.unfamiliar
    n = 0 if unfamiliar is None else int(unfamiliar.sum())
    if not n:
        return None
    if n == 1:
        text = (
            "Look at the unfamiliar image: does it show what the model was made for? If so, add images like it to the "
            "training data; if not, take it out of the test images, and give the figures with it and without."
        )
    else:
        text = (
            f"Look at the {n:,} unfamiliar images: do they show what the model was made for? If so, add images like "
            "these to the training data; if not, take them out of the test images, and give the figures with them and "
            "without."
        )
    calibrate = None
    if "unfamiliar" in by_topic and material.model.doubt is None:
        calibrate = material.commands.calibrate("MORE_IMAGES")
    lead = "“Unfamiliar” is a hint here; a calibration makes a test of it, whose rate of false alarms is known:"
    is_shown = any(entry["unfamiliar"] for entry in material.examples.entries)
    shown = Shown("unfamiliar", "Unfamiliar test images, correct and wrong", n) if is_shown else None
    return Step(text, (calibrate,), lead, shows=shown)


def _wrong_prototypes(material: Material, _: Mapping[str, Finding]) -> Step | None:
    worst = often_wrong(material)
    if not worst:
        return None
    which = "the prototype that decides" if len(worst) == 1 else "the prototypes that decide"
    text = f"Look at {which} at least {FEWEST_DECISIONS} test images, and most of them wrongly:"
    lead = f"The studio removes or splits {'it' if len(worst) == 1 else 'them'}:"
    links = tuple((f"prototype-{j}", f"no. {j}") for j in worst[:_NAMED])
    return Step(text, (material.commands.studio(),), lead, links)


def _unused(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    if "unused" not in by_topic or by_topic["unused"].level not in _WARNINGS:
        return None
    command = _convert(material, "more-prototypes", n_prototypes="auto")
    text = "Convert again with as many prototypes as the images of each class need, so that none is unused:"
    return None if command is None else Step(text, (command,))


def _calibration(material: Material, by_topic: Mapping[str, Finding]) -> Step | None:
    if "calibration" not in by_topic or material.model.doubt is not None:
        return None
    text = "Calibrate the model on images that it has not seen, so that its probabilities can be read as chances:"
    return Step(text, (material.commands.calibrate("MORE_IMAGES"),))


_STEPS: tuple[Callable[[Material, Mapping[str, Finding]], Step | None], ...] = (
    _copies, _other_data, _lost_images, _labels_of_wrong_classes, _prototypes_of_wrong_classes, _other_choice,
    _more_test_images, _heat_maps, _unfamiliar, _wrong_prototypes, _unused, _calibration,
)  # fmt: skip
