"""Models of parts beside models of whole images, and maps without gradients beside PRP and LRP [ours].

The questions are those of the abstract of "Post-hoc Self-explanation of CNNs" (2026), of which only that is known here.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike.conversion.convert import convert
from lookalike.data import Batches
from lookalike.encoder import Encoder
from lookalike.encoder.patches import PatchEncoder
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.pictures import evenly_spaced_images
from lookalike.experiments.prp_rules import foreground, no_plain_background, order_figures, value_range_of_model
from lookalike.experiments.side_by_side import ACCURACY
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics.localisation import relevance_mass
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.parts import contributions
from lookalike.relevance import lrp, prp

# name in the table → options of ``convert``
MODELS: dict[str, dict[str, Any]] = {
    "whole images": {},
    "the head's weights": {"level": "head"},
    "b4, vote": {"level": "patch", "layers": "b4"},
    "b4, mean": {"level": "patch", "layers": "b4", "decision": "mean"},
    "b4, linear": {"level": "patch", "layers": "b4", "decision": "linear"},
    "b4, linear, shared": {"level": "patch", "layers": "b4", "decision": "linear", "shared": True},
    "b234, vote": {"level": "patch", "layers": "b234"},
}
_PER_CLASS = 5
_MOST_PATCHES = 5_000  # of a class that are clustered
_IMAGES = 500  # test images on which concepts are compared
_FAR = 0.25  # of the image's side: pixels at least so far from a part are changed, beyond its receptive field or not
_NOISE = 0.05  # of the value range, for stability
_STRONG_NOISE = 20 / 255  # of the value range, far from a part
_COLUMNS = (
    ACCURACY,
    Column("agreement", "agreement %", 100, 1),
    Column("seconds", "CPU seconds", 1, 1, least=True),
    Column("on_object", "concepts on objects %", 100, 1),
    Column("reseeded", "reseeded, IoU"),
    Column("shifted", "shifted by a pixel, same %", 100, 1),
    Column("noisy", "noise 5%, same %", 100, 1),
    Column("far", "changed far away, same place %", 100, 1),
)
_MAP_COLUMNS = (
    Column("deletion", "deletion"),
    Column("insertion", "insertion"),
    Column("auroc", "AUROC"),
    Column("inside", "inside the object"),
    Column("passes", "forward passes", 1, 2, least=True),
)
_REMARKS = (
    f"{_PER_CLASS} prototypes per class; `shared`: as many for all classes together. At most {_MOST_PATCHES:,} patches "
    "of a class are clustered. *CPU seconds*: of the conversion. *concepts on objects*: share of the positions whose "
    "concept is mostly on objects and which lie on one, of all positions on an object. *reseeded*: intersection over "
    "union of concepts with those of another seed, matched one to one. *same*: share of positions whose concept is the "
    f"same after the change. *changed far away*: noise of 20/255 on all pixels at least {_FAR:.0%} of the side away "
    "from the position most similar to the nearest prototype; its position must stay.",
)


def run_part_models(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures models of parts and of whole images on the same black boxes."""
    rows: list[Row] = []
    for dataset, network in plan.places():
        records: dict[str, list[Record]] = {name: [] for name in MODELS}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, per_class=_PER_CLASS, most=_MOST_PATCHES, images=_IMAGES)
            for name, options in MODELS.items():
                cell = f"parts-{subject.name}-{name.replace(', ', '-').replace(' ', '-')}"
                record = cells.get(cell, {**key, "options": options}, measure_model, bench, subject, options)
                records[name] += [] if record is None else [record]
        rows += [
            Row((*table_names(dataset, network), name), gather(of_model, _COLUMNS))
            for name, of_model in records.items()
            if of_model
        ]
    return Findings(("data", "network", "prototypes"), _COLUMNS, rows, {}, list(_REMARKS))


def measure_model(bench: Workbench, subject: Subject, options: dict[str, Any]) -> Record:
    """Converts a black box in one way, and measures the model."""
    bench.say(f"converting the parts of {subject.name}: {options or 'whole images'}")
    started = time.process_time()
    model = _converted(bench, subject, options, subject.seed)
    seconds = time.process_time() - started
    assert isinstance(model.encoder, Encoder)  # noqa: S101 - conversions make one
    correct, same, n = 0, 0, 0
    for batch in Batches(bench.data(subject).test):
        assert isinstance(batch.inputs, Tensor)  # noqa: S101 - parts are of images
        predicted = model.predict(batch.inputs)
        with torch.no_grad():
            original = model.encoder.scores(batch.inputs).argmax(1)
        correct += int((predicted == torch.from_numpy(batch.labels)).sum())
        same, n = same + int((predicted == original).sum()), n + len(predicted)
    record: Record = {"accuracy": correct / n, "agreement": same / n, "seconds": seconds}
    if model.has_patches:
        x = evenly_spaced_images(bench, subject, 20 if bench.quick else _IMAGES)
        record |= concept_figures(model, x, subject.seed)
        reseeded = _converted(bench, subject, options, subject.seed + 1000)
        record["reseeded"] = matched_overlap(model.segment(x).concepts, reseeded.segment(x).concepts)
    return record


def _converted(bench: Workbench, subject: Subject, options: dict[str, Any], seed: int) -> PrototypeModel:
    if options.get("level") == "head":
        return convert(bench.black_box(subject), Batches(bench.data(subject).train), **options, progress=False)
    number = _PER_CLASS * (len(bench.data(subject).class_names) if options.get("shared") else 1)
    more: dict[str, Any] = {"max_patches": _MOST_PATCHES} if options.get("level") == "patch" else {}
    train = Batches(bench.data(subject).train)
    return convert(bench.black_box(subject), train, number, **options, **more, seed=seed, progress=False)


def concept_figures(model: PrototypeModel, x: Tensor, seed: int) -> Record:
    """Measures where concepts lie, and whether they stay when images change a little."""
    low, high = value_range_of_model(model)
    span = (high - low)[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    concepts = model.segment(x).concepts
    noisy = x + _NOISE * span * (2 * torch.rand(x.shape, generator=generator) - 1)
    pixels = model.to_pixels(x)
    assert pixels is not None  # noqa: S101 - data sets of images alone are suited
    grid = int(concepts.shape[1]), int(concepts.shape[2])
    on_object = torch.nn.functional.adaptive_avg_pool2d(foreground(pixels).float(), grid) > 0.5
    n_of_concept = torch.bincount(concepts.flatten(), minlength=len(model.prototypes))
    n_on_object = torch.bincount(concepts[on_object], minlength=len(model.prototypes))
    is_object = n_on_object > n_of_concept / 2
    return {
        "on_object": float(is_object[concepts][on_object].float().mean()),
        "shifted": float((model.segment(x.roll(1, 3)).concepts == concepts).float().mean()),
        "noisy": float((model.segment(noisy).concepts == concepts).float().mean()),
        "far": same_place(model, x, span, generator),
    }


@torch.no_grad()
def same_place(model: PrototypeModel, x: Tensor, span: Tensor, generator: torch.Generator) -> float:
    """Returns the share of images whose most similar position stays when pixels far from it change."""
    evidence = model.evidence_of(model.embed(x))  # [N, S, P]
    prototypes = evidence.amax(1).argmax(1)
    rows = torch.arange(len(x))
    places = evidence[rows, :, prototypes].argmax(1)
    assert isinstance(model.encoder, PatchEncoder)  # noqa: S101 - a model of patches has one
    boxes = model.encoder.boxes(places)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    down = (torch.arange(x.shape[2]) + 0.5) / x.shape[2]
    across = (torch.arange(x.shape[3]) + 0.5) / x.shape[3]
    distance = torch.maximum(
        (down[None, :, None] - centre[:, :1, None]).abs(), (across[None, None] - centre[:, 1:, None]).abs()
    )
    change = _STRONG_NOISE * span * torch.randint(0, 2, x.shape, generator=generator).mul(2).sub(1)
    changed = model.evidence_of(model.embed(x + change * (distance > _FAR)[:, None]))
    return float((changed[rows, :, prototypes].argmax(1) == places).float().mean())


def matched_overlap(concepts: Tensor, others: Tensor) -> float:
    """Returns the mean intersection over union of two segmentations' concepts, matched one to one to maximise it.

    Example:
        >>> matched_overlap(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[5, 5, 3, 3]]]))
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    first, second = (np.unique(values.numpy(), return_inverse=True)[1].ravel() for values in (concepts, others))
    together = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(together, (first, second), 1)
    union = together.sum(1, keepdims=True) + together.sum(0) - together
    overlap = together / union
    return float(overlap[linear_sum_assignment(-overlap)].sum() / max(together.shape))


def run_part_maps(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares maps of contributions with PRP, LRP and a random order, on models of whole images."""
    rows: list[Row] = []
    for dataset, network in plan.places():
        records: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, n_images=bench.n_images, maps="contributions")
            record = cells.get(f"part-maps-{subject.name}", key, measure_maps, bench, subject)
            for name, figures in (record or {}).items():
                records.setdefault(name, []).append(figures)
        rows += [
            Row((*table_names(dataset, network), name), gather(figures, _MAP_COLUMNS))
            for name, figures in records.items()
        ]
    remark = (
        "Deletion, insertion and AUROC follow KMEx's own probability. *inside the object*: share of the absolute "
        "relevance on pixels that differ from the background. *forward passes*: CPU time of one map in batches of 50, "
        "divided by that of one forward pass."
    )
    return Findings(("data", "network", "maps"), _MAP_COLUMNS, rows, {}, [remark])


def measure_maps(bench: Workbench, subject: Subject) -> Record:
    """Measures every kind of map on the same images."""
    bench.say(f"comparing maps on {subject.name}")
    model, box = bench.model(subject), bench.black_box(subject).model
    x = evenly_spaced_images(bench, subject, bench.n_images)
    pixels = model.to_pixels(x)
    assert pixels is not None  # noqa: S101 - data sets of images alone are suited
    objects, predicted = foreground(pixels), model.predict(x)
    assert isinstance(model.encoder, Encoder)  # noqa: S101 - conversions make one
    kinds: dict[str, Callable[[Tensor, slice], Tensor]] = {
        "contributions": lambda images, _: contributions(model, images).upsampled(),
        "PRP, nearest prototype": lambda images, _: prp(model, images).pixels[:, 0],
        "LRP of the black box": lambda images, rows: lrp(box, images, predicted[rows]).pixels,
    }
    with torch.no_grad():
        forward = _seconds(lambda images, _: model.encoder(images), x)
    record: Record = {}
    for name, explain in kinds.items():
        maps = torch.cat([explain(x[start : start + 50], slice(start, start + 50)) for start in range(0, len(x), 50)])
        record[name] = {
            **order_figures(model, x, maps, subject.seed),
            "inside": mean_of_finite(relevance_mass(maps, objects)),
            "passes": _seconds(explain, x) / forward,
        }
    record["random order"] = order_figures(model, x, None, subject.seed)
    return record


def _seconds(run: Callable[[Tensor, slice], Tensor], x: Tensor) -> float:
    """Returns the CPU time of a run over images in batches of 50: the minimum of three, after one to warm up."""
    times = []
    for _ in range(4):
        started = time.process_time()
        for start in range(0, len(x), 50):
            run(x[start : start + 50], slice(start, start + 50))
        times.append(time.process_time() - started)
    return min(times[1:])


EXPERIMENTS.register("parts")(
    Experiment("Models of parts", "open question", run_part_models, lacking=no_plain_background)
)
EXPERIMENTS.register("part-maps")(
    Experiment("Maps without gradients", "open question", run_part_maps, lacking=no_plain_background)
)
