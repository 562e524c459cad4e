"""How a report and its model were made, in words: data, number of images, options."""

from collections.abc import Mapping
from typing import Any

import torch

from lookalike._core.wording import counted
from lookalike.metrics import Scorecard
from lookalike.metrics.sections import SECTIONS
from lookalike.report.material import Material

CLUSTERERS_IN_WORDS = {
    "kmeans": "found by k-means",
    "faiss": "found by k-means, with faiss",
    "minibatch": "found by k-means on small batches",
    "bisecting": "found by k-means that divides in two, again and again",
    "kmedoids": "each the image in the middle of its group (k-medoids)",
    "gmm": "found by a mixture of normal distributions",
}
SIMILARITIES_IN_WORDS = {
    "l2": "the nearer their embeddings, the more alike two images are",
    "sqeuclidean": "by the squared distance between embeddings",
    "l1": "by the sum of the differences between the numbers of two embeddings",
    "log": "by the logarithm of the squared distance between embeddings",
    "log-l2": "by the logarithm of the distance between embeddings",
    "rbf": "by a bell curve of the distance between embeddings",
    "dot": "by the product of two embeddings",
    "cosine": "by the angle between two embeddings",
    "ned": "by the distance between embeddings, as a share of their spread",
    "mahalanobis": "by the distance between embeddings, where directions in which classes spread count less",
    "head": "by the distance between embeddings, where directions that the original tells classes by count more",
}
_CLASSIFIERS = {
    "nearest-prototype": "the class of the prototype that the image is most like",
    "linear": "each prototype votes for or against each class, as much as the image is like it",
    "rectified-linear": "each prototype votes for classes, as much as the image is like it",
}
_PRECISIONS = {
    "float32": "numbers of 32 bits (float32)",
    "bfloat16": "numbers of 16 bits (bfloat16)",
    "float16": "numbers of 16 bits (float16)",
}


def made_in_words(material: Material) -> list[tuple[str, str]]:
    """Returns names and values of what a reader may ask about: data, prototypes, how it decides, what was measured."""
    info = material.card.info
    provenance = info["model_provenance"]
    facts: list[tuple[str, str | None]] = [
        ("test images", _test_images(material)),
        ("training images", _training_images(info, provenance)),
        ("images as", str(info.get("images_as") or "given, ready for the network")),
        ("prototypes", _prototypes(material, provenance)),
        ("likeness", _with_name(SIMILARITIES_IN_WORDS, info["similarity"])),
        ("answer", _answer(info["classifier"])),
        ("heat-maps", _heat_maps(material)),
        ("measured on", _measured(material.card)),
        ("calculated in", _PRECISIONS.get(str(info["options"].get("precision")))),
        ("made with", f"lookalike {info['versions'].get('lookalike', '')}".strip()),
    ]
    return [(name, value) for name, value in facts if value]


def _test_images(material: Material) -> str:
    info, data = material.card.info, material.commands.data
    of_data = "" if data == "DATA" else f" of {data}"
    skipped = f"; {info['skipped']:,} more could not be read" if info["skipped"] else ""
    return f"{counted(info['n_test'], 'image')}{of_data}{skipped}"


def _training_images(info: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    n_made, n_read = provenance.get("n_samples"), info["n_train"]
    made = "" if n_made is None else f"the prototypes were made from {counted(n_made, 'image')}"
    if n_read is None:
        return f"{made}; they were not read for this report" if made else "not read for this report"
    if n_made in (None, n_read):
        return f"{counted(n_read, 'image')}, from which the prototypes were made" if made else counted(n_read, "image")
    return f"{made}; {counted(n_read, 'image')} were given for this report"


def _prototypes(material: Material, provenance: Mapping[str, Any]) -> str:
    model = material.model
    counts = torch.bincount(model.prototypes.labels.cpu(), minlength=model.n_classes).tolist()
    least, most = min(counts), max(counts)
    of_each = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    chosen = ", a number that was chosen for each class" if provenance.get("n_prototypes") == "auto" else ""
    text = f"{counted(len(model.prototypes), 'prototype')}, {of_each} for each class{chosen}"
    clusterer, method = provenance.get("clusterer"), provenance.get("method")
    if clusterer in CLUSTERERS_IN_WORDS:
        text += f"; centres of groups of training images, {CLUSTERERS_IN_WORDS[clusterer]}"
    if method:
        text += f" ({method})"
    if provenance.get("epochs") is not None:
        text += f"; trained in {counted(provenance['epochs'], 'pass', 'passes')} over the data"
    if provenance.get("seed") is not None:
        text += f"; what was left to chance was drawn with seed {provenance['seed']}"
    return text


def _with_name(sayings: Mapping[str, str], part: Mapping[str, Any]) -> str:
    """Returns what a part does, with its name in brackets and the options that are numbers or words."""
    name = str(part["name"])
    options = [
        f"{option} {value:.3g}" if isinstance(value, float) else f"{option} {value}"
        for option, value in dict(part.get("options") or {}).items()
        if isinstance(value, int | float | str) and not isinstance(value, bool)
    ]
    said = sayings.get(name)
    named = ", ".join([name, *options])
    return f"{said} ({named})" if said else named


def _answer(classifier: Mapping[str, Any]) -> str:
    options = dict(classifier.get("options") or {})
    said = _CLASSIFIERS.get(str(classifier["name"]), str(classifier["name"]))
    temperature = options.get("temperature")
    return said if temperature is None else f"{said}; probabilities with a temperature of {temperature:.3g}"


def _heat_maps(material: Material) -> str | None:
    composite = material.card.info["options"].get("composite")
    if not any(entry["near"][0]["map"] for entry in material.examples.entries):
        return None
    through = "" if composite is None else f", and pass through the network by the composite {composite}"
    return f"start by the rule {material.explainer.rule}{through}"


def _measured(card: Scorecard) -> str:
    """Returns on how many images the figures rest, and how often explanations were measured, if they were."""
    info, measured = card.info, set(card.details)
    text = f"answers on all {counted(info['n_test'], 'test image')}"
    if not info["samples"] or not any(SECTIONS[name].per_run for name in measured & set(SECTIONS)):
        return text
    options = info["options"]
    n_images = len(info["samples"][0])
    runs = "" if info["n_runs"] == 1 else f", {counted(info['n_runs'], 'time')} with other images"
    text += f"; explanations on {n_images:,} of them{runs}"
    if "robustness" in measured:
        orders = counted(options["n_draws"], "random order")
        text += f", whose pixels turn to noise in {counted(options['n_steps'], 'step')}, compared with {orders}"
    return text
