"""Twenty ImageNet photographs: an ImageNet network's answers beside those of prototypes from its own head [ours].

The network's thousand classes cannot be clustered from twenty photographs. Its head, however, already compares each
embedding with one vector per class: these vectors are prototypes without any training image (``level="head"``).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.conversion.convert import convert
from lookalike.data import DataBundle, ImageFiles
from lookalike.data.imagenet_photos import NAMES, load_imagenet_photos
from lookalike.encoder import LoadedClassifier
from lookalike.encoder.class_names import names_of_timm
from lookalike.encoder.packaged import load_efficientnet_lite0
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.tables import Column, Row
from lookalike.experiments.workbench import Workbench
from lookalike.metrics import explanation_correlation
from lookalike.model import PrototypeModel
from lookalike.relevance import PrpRule, lrp, prp

_BOX, _BOX_OF_SUBSET = "black box, 1,000 classes", "black box, the 19 classes' outputs"
_HEAD, _HEAD_OF_SUBSET = "head as 1,000 prototypes", "head as 19 prototypes, by name"
_SUMMARY = (
    Column("accuracy", "accuracy %", 100, 0),
    Column("agreement", "same answer as the black box %", 100, 0),
    Column("correlation_gradient", "correlation of heat-maps, `gradient`", 1, 3),
    Column("correlation", "`neuralized`", 1, 3),
)
_EACH = (
    Column("black_box_probability", "black box, probability", 1, 2),
    Column("probability", "among 19 prototypes, probability", 1, 2),
    Column("margin", "score above the next", 1, 1),
)


def run_imagenet_photos(_: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares the black box with its head as prototypes, of all classes and of those of the photographs."""
    record = _measured(bench, cells)
    rows = [] if record is None else [_row((name,), figures, _SUMMARY) for name, figures in record["summary"].items()]
    remarks = [
        "20 photographs of 19 classes. *Heat-maps*: PRP of the photograph's own class's prototype, and the black box's "
        "LRP of that class's score, by two rules: `gradient` explains the likeness alone, `neuralized`, the default, "
        "against the most similar prototype of another class. Nothing is trained, and no photograph chooses anything."
    ]
    return Findings(("what answers",), _SUMMARY, rows, {}, remarks)


def run_imagenet_photos_each(_: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Lists the answers to each photograph."""
    record = _measured(bench, cells)
    photos = [] if record is None else record["photos"]
    rows = [
        _row((photo["label"], photo["black_box"], photo["prototype"], photo["second"]), photo, _EACH)
        for photo in photos
    ]
    heads = ("photograph of", "black box", "most similar of 19 prototypes", "the next")
    return Findings(heads, _EACH, rows)


def _row(names: tuple[str, ...], figures: Record, columns: Sequence[Column]) -> Row:
    return Row(
        names, {column.name: [figures[column.name]] for column in columns if figures.get(column.name) is not None}
    )


def _measured(bench: Workbench, cells: Cells) -> Record | None:
    bench.say("imagenet-photos: EfficientNet-Lite0 and the weights of its head")
    key = {"data": load_imagenet_photos().fingerprint(), "rules": 2, "network": "EfficientNet-Lite0"}
    return cells.get("imagenet-photos", key, _measure)


def _measure() -> Record:
    network = load_efficientnet_lite0()
    names = names_of_timm(network.model)
    assert names is not None  # of a network of ImageNet
    network = replace(network, class_names=names)
    data = load_imagenet_photos(network.preprocessing)
    assert isinstance(data.train, ImageFiles)  # of load_imagenet_photos
    numbers = {name: number for number, name in NAMES.items()}
    outputs = torch.tensor([numbers[name] for name in data.class_names])  # output of each of the 19 classes
    x = torch.stack([data.train[i][0] for i in range(len(data.train))])
    labels = torch.from_numpy(np.asarray(data.train.labels))
    with torch.no_grad():
        logits = network.model(x)
    box_answers, truth = logits.argmax(1), outputs[labels]
    all_classes = convert(network, (x, truth), level="head", class_names=names, progress=False)
    subset = convert(network, (x, labels), level="head", class_names=[names[k] for k in outputs], progress=False)
    box_maps = lrp(network.model, x, target=truth).maps.sum(1)
    answers = {
        _BOX: box_answers,
        _HEAD: all_classes.predict(x),
        _BOX_OF_SUBSET: outputs[logits[:, outputs].argmax(1)],
        _HEAD_OF_SUBSET: outputs[subset.predict(x)],
    }
    correlations = {
        name: {rule: _correlation(model, x, rows, rule, box_maps) for rule in ("gradient", "neuralized")}
        for name, model, rows in ((_HEAD, all_classes, truth), (_HEAD_OF_SUBSET, subset, labels))
    }
    summary: dict[str, dict[str, Any]] = {
        name: {
            "accuracy": float((values == truth).double().mean()),
            "agreement": None if name == _BOX else float((values == box_answers).double().mean()),
            "correlation": correlations.get(name, {}).get("neuralized"),
            "correlation_gradient": correlations.get(name, {}).get("gradient"),
        }
        for name, values in answers.items()
    }
    return {"summary": summary, "photos": _photos(data, network, subset, x, logits)}


def _correlation(model: PrototypeModel, x: Tensor, prototypes: Tensor, rule: PrpRule, box_maps: Tensor) -> float:
    """Returns the mean correlation of the given prototypes' heat-maps with the black box's."""
    maps = prp(model, x, prototypes=prototypes[:, None], rule=rule).maps[:, 0].sum(1)
    return float(explanation_correlation(maps, box_maps).mean())


def _photos(
    data: DataBundle, network: LoadedClassifier, subset: PrototypeModel, x: Tensor, logits: Tensor
) -> list[Record]:
    """Returns the answers to each photograph."""
    assert isinstance(data.train, ImageFiles)  # of load_imagenet_photos
    assert network.class_names is not None  # they were set
    with torch.no_grad():
        scores, box_probabilities = subset(x), logits.softmax(1)
    best = scores.topk(2, 1)
    probabilities = scores.softmax(1)
    return [
        {
            "label": data.class_names[label],
            "black_box": _short(network.class_names[int(box_probabilities[i].argmax())]),
            "black_box_probability": float(box_probabilities[i].max()),
            "prototype": data.class_names[int(best.indices[i, 0])],
            "second": data.class_names[int(best.indices[i, 1])],
            "probability": float(probabilities[i].max()),
            "margin": float(best.values[i, 0] - best.values[i, 1]),
        }
        for i, label in enumerate(data.train.labels.tolist())
    ]


def _short(name: str) -> str:
    """Returns the first synonym of a class, without its WordNet number."""
    return name.partition(" ")[2].partition(",")[0]


def _lacking(bundle: DataBundle) -> str | None:
    return None if bundle.name == "imagenet-photos" else f"needs 'imagenet-photos', not {bundle.name!r}"


EXPERIMENTS.register("imagenet-photos")(
    Experiment(
        "ImageNet's own classes: a head as prototypes", "beyond the paper", run_imagenet_photos, lacking=_lacking
    )
)
EXPERIMENTS.register("imagenet-photos-each")(
    Experiment("The same, photograph by photograph", "beyond the paper", run_imagenet_photos_each, lacking=_lacking)
)
