"""Models of parts beside models of whole images: accuracy, cost, and what their concepts are worth [ours].

The questions are those of the abstract of "Post-hoc Self-explanation of CNNs" (2026), of which only that is known here.
"""

import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.conversion.convert import convert
from lookalike.data import Batches, MaskedFiles
from lookalike.data.stamps import FOLDERS, object_of
from lookalike.encoder import Encoder
from lookalike.encoder.patches import PatchEncoder
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.paired import Pairing
from lookalike.experiments.part_stability import concept_figures, matched_overlap
from lookalike.experiments.part_subjects import (
    MOST_PATCHES,
    PartSubject,
    lacks_objects,
    plain_options,
    subjects_of,
)
from lookalike.experiments.photographs import CLASSES, ENCODERS, lacks_stamps, prepared
from lookalike.experiments.side_by_side import ACCURACY
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import Workbench
from lookalike.model import PrototypeModel

_WHOLE, _HEAD = "whole images", "the head's weights"
_B234 = "b234, vote"
_IN_FOLDS = (_WHOLE, "b4, vote", "b4, mean", "b4, linear", "b4, linear, shared", _B234)
SLOW_ENCODERS = ("EfficientNet-Lite0",)  # the measurements that take long are made on these photographs' encoders
_B4: dict[str, Any] = {"level": "patch", "layers": "b4"}
# name in the table → options of ``convert``
MODELS: dict[str, dict[str, Any]] = {
    _WHOLE: {},
    _HEAD: {"level": "head"},
    "b4, vote": _B4,
    "b4, mean": _B4 | {"decision": "mean"},
    "b4, linear": _B4 | {"decision": "linear"},
    "b4, linear, shared": _B4 | {"decision": "linear", "shared": True},
    _B234: {"level": "patch", "layers": "b234"},
}
CONCEPTS = {"b4": "b4, vote", "b4, shared": "b4, linear, shared", "b234": _B234}  # name → one of the models
_FOLDS = 5
_IMAGES = 100  # test images on which concepts are compared
_TIMED = 25  # images of a timed prediction
_SAMPLE = 32  # pictures that the layers' scales are measured on
_COLUMNS = (
    ACCURACY,
    Column("agreement", "agreement %", 100, 1),
    Column("seconds", "conversion, CPU s", 1, 1, least=True),
    Column("milliseconds", "prediction, CPU ms", 1, 1, least=True),
    Column("values", "values per image", 1, 0, least=True),
)
_TEN_COLUMNS = _COLUMNS[:2]
_CONCEPT_COLUMNS = (
    Column("separated", "on their side %", 100, 1),
    Column("by_chance", "by chance %", 100, 1),
    Column("on_object", "object found %", 100, 1),
    Column("reseeded", "reseeded, IoU"),
    Column("shifted", "shifted, same %", 100, 1),
    Column("noisy", "noise 5%, same %", 100, 1),
    Column("noise_place", "noise far away, same place %", 100, 1),
    Column("noise_activation", "its change"),
    Column("step_place", "step far away, same place %", 100, 1),
    Column("step_activation", "its change"),
)
_REMARKS = (
    f"5 prototypes per class, 3 on `stamps`; `shared`: as many for all classes together. At most {MOST_PATCHES:,} "
    "patches of a class are clustered. *agreement*: with the black box; on `stamps`, where nothing else has these "
    "classes, with the model of whole images. *conversion*: without fitting the temperature in models of patches. "
    f"*prediction*: of one image, in a batch of {_TIMED}. *values per image*: numbers in an embedding.",
    "`stamps`: photographs of six kinds of objects, encoders with ImageNet weights, nothing trained; 131 pictures in "
    f"{_FOLDS} folds that keep the pictures of one object together, drawn anew for each seed.",
)
_CONCEPT_REMARKS = (
    "*on their side*: share of the positions that are where most positions of their concept are, on an object or "
    "beside it; *by chance*: the larger of both sides' shares, which concepts without any relation to objects reach. "
    "*object found*: of the positions on an object, the share whose concept is mostly on objects. *reseeded*: "
    "intersection over union of concepts with those of another seed, matched one to one. *shifted* by 1/32 of the "
    "width; *same*: share of positions whose concept stays.",
    "*far away*: all pixels at least a quarter of the side away from the part that is most similar to the image's "
    "nearest prototype change by 20/255 of the value range, and stay within it: *noise* of random signs, or a *step* "
    "by the sign of the gradient, so that the similarity at the part falls. *same place*: the part stays the most "
    "similar one. *its change*: median change of its similarity, in standard deviations over the image's positions.",
)


_TEN_REMARK = (
    "3 prototypes per class, as many for all classes together where they are `shared`; *agreement*: with the model of "
    f"whole images. Photographs of ten kinds of objects in {_FOLDS} folds, as those of six in the table above."
)


def run_part_models(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures models of parts and of whole images on the same classifiers."""
    rows: list[Row] = []
    in_folds: dict[str, int] = {}
    for names, subjects in subjects_of(plan, bench):
        records = []
        for subject in subjects:
            measure = measure_models if subject.is_trained else measure_in_folds
            key = {**subject.key, "models": MODELS, "folds": _FOLDS}
            records.append(cells.get(f"parts-{subject.name}", key, measure, bench, subject))
        rows += _rows_by_model(names, records, _COLUMNS)
        if not subjects[0].is_trained:
            in_folds[names[0]] = len(_files(subjects[0].network, tuple(CLASSES))[1])
    return Findings(("data", "network", "prototypes"), _COLUMNS, rows, {}, list(_REMARKS), test_images=in_folds)


def run_all_photographs(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures models of parts and of whole images on all ten classes of the photographs."""
    classes = tuple(sorted(FOLDERS))
    measure = partial(measure_in_folds, classes=classes, timed=False)
    rows: list[Row] = []
    for names, subjects in subjects_of(plan, bench):
        records = []
        for subject in subjects:
            key = {**subject.key, "models": MODELS, "folds": _FOLDS, "classes": classes}
            records.append(cells.get(f"parts-ten-{subject.name}", key, measure, bench, subject))
        rows += _rows_by_model(names, records, _TEN_COLUMNS)
    images = {plan.datasets[0]: len(_files(next(iter(ENCODERS)), classes)[1])}
    return Findings(("data", "network", "prototypes"), _TEN_COLUMNS, rows, {}, [_TEN_REMARK], test_images=images)


def _rows_by_model(
    names: Sequence[str], records: Sequence[dict[str, Record] | None], columns: Sequence[Column]
) -> list[Row]:
    """Returns a row for each model, of its figures in the cells that were measured."""
    of_models: dict[str, list[Record]] = {}
    for record in records:
        for name, figures in (record or {}).items():
            of_models.setdefault(name, []).append(figures)
    return [Row((*names, name), gather(of_model, columns)) for name, of_model in of_models.items()]


def run_part_concepts(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures what concepts lie on, and whether they and their places stay."""
    rows: list[Row] = []
    for names, subjects in subjects_of(plan, bench, SLOW_ENCODERS):
        for name, model_name in CONCEPTS.items():
            records = []
            for subject in subjects:
                record = cells.get(
                    f"part-concepts-{subject.name}-{_file_name(name)}", {**subject.key, "options": MODELS[model_name]},
                    measure_concepts, bench, subject, MODELS[model_name],
                )  # fmt: skip
                records += [] if record is None else [record]
            rows += [Row((*names, name), gather(records, _CONCEPT_COLUMNS))] if records else []
    return Findings(("data", "network", "layers"), _CONCEPT_COLUMNS, rows, {}, list(_CONCEPT_REMARKS))


def _file_name(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").replace("'", "")


def measure_models(bench: Workbench, subject: PartSubject) -> Record:
    """Converts a classifier in every way, and measures the models on the test images."""
    record: Record = {}
    for name, options in MODELS.items():
        bench.say(f"{subject.name}: {name}")
        model, cost = _converted(subject, options)
        assert isinstance(model.encoder, Encoder)  # conversions make one
        correct, same, n = 0, 0, 0
        for batch in Batches(subject.bundle.test):
            assert isinstance(batch.inputs, Tensor)  # parts are of images
            predicted = model.predict(batch.inputs)
            with torch.no_grad():
                original = model.encoder.scores(batch.inputs).argmax(1)
            correct += int((predicted == torch.from_numpy(batch.labels)).sum())
            same, n = same + int((predicted == original).sum()), n + len(predicted)
        record[name] = cost | {"accuracy": correct / n, "agreement": same / n}
    return record


def _converted(subject: PartSubject, options: dict[str, Any]) -> tuple[PrototypeModel, Record]:
    """Converts a classifier; returns the model and what it costs."""
    started = time.process_time()
    model = subject.convert(options)
    seconds = time.process_time() - started
    x = subject.test_images(_TIMED)
    times = []
    for _ in range(3):
        started = time.process_time()
        model.predict(x)
        times.append(time.process_time() - started)
    milliseconds = 1000 * min(times[1:]) / len(x)  # the first run warms up
    return model, {"seconds": seconds, "milliseconds": milliseconds, "values": model.encoder.embedding_dim}


def measure_concepts(bench: Workbench, subject: PartSubject, options: dict[str, Any]) -> Record:
    """Converts a classifier twice, with two seeds, and measures the concepts."""
    bench.say(f"concepts of {subject.name}: {options}")
    model = subject.convert(options)
    x = subject.test_images(20 if bench.quick else _IMAGES)
    record = concept_figures(model, x, subject.object_masks(model, x), subject.seed)
    reseeded = subject.convert(options, subject.seed + 1000)
    record["reseeded"] = matched_overlap(model.segment(x).concepts, reseeded.segment(x).concepts)
    return record


class _OnMaps(nn.Module):
    """A network whose input is a feature map: what an encoder does after its layers, with outputs nobody reads."""

    def __init__(self, n_channels: int, n_classes: int) -> None:
        super().__init__()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(n_channels, n_classes)

    def forward(self, maps: Tensor) -> Tensor:
        scores: Tensor = self.head(self.flatten(self.pool(maps)))
        return scores


def measure_in_folds(
    bench: Workbench, subject: PartSubject, classes: tuple[str, ...] = tuple(CLASSES), timed: bool = True
) -> Record:
    """Predicts each photograph by models of the other folds; agreement is that with the models of whole images.

    The maps of all pictures are computed once, and converted in place of the pictures: the prototypes are the same.

    Args:
        bench: Says what is measured.
        subject: An encoder and photographs.
        classes: The classes of the photographs.
        timed: Whether what a model costs is measured, too, with the first seed.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    bench.say(f"{subject.name} in {_FOLDS} folds")
    files, labels = _files(subject.network, classes)
    objects = [f"{label} {object_of(file)}" for file, label in zip(files.files, labels, strict=True)]
    predicted = {name: np.zeros_like(labels) for name in _IN_FOLDS}
    if subject.network not in SLOW_ENCODERS or not timed:
        del predicted[_B234]
    folds = list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=subject.seed).split(labels, labels, objects))
    for name, values in predicted.items():
        number = subject.per_class * (len(classes) if MODELS[name].get("shared") else 1)
        for train, test in folds:
            maps = _maps(subject.network, classes, MODELS[name].get("layers", "b4"))
            of_map = {key: "last" if key == "layers" else value for key, value in MODELS[name].items()}
            model = convert(
                _OnMaps(maps.shape[1], len(classes)), (maps[train], torch.from_numpy(labels[train])), number,
                **plain_options(of_map), n_images=0, seed=subject.seed, progress=False,
            )  # fmt: skip
            values[test] = model.predict(maps[test]).numpy()
    costs = {name: _converted(subject, MODELS[name])[1] if timed and subject.seed == 0 else {} for name in predicted}
    whole = predicted[_WHOLE]
    return {
        name: costs[name] | {"accuracy": float((values == labels).mean()), "agreement": float((values == whole).mean())}
        for name, values in predicted.items()
    }


@cache
def _files(network: str, classes: tuple[str, ...]) -> tuple[MaskedFiles, np.ndarray]:
    """Returns all photographs of some classes, of both parts, and their labels."""
    _, bundle = prepared(network, 0, classes)
    assert isinstance(bundle.train, MaskedFiles)  # of load_stamps
    assert isinstance(bundle.test, MaskedFiles)
    files = bundle.train.joined(bundle.test)
    return files, np.asarray(files.labels)


_maps_of: dict[tuple[str, tuple[str, ...], str], Tensor] = {}  # the last one only: maps of three layers take 0.9 GB


@torch.no_grad()
def _maps(network: str, classes: tuple[str, ...], layers: str) -> Tensor:
    """Returns the joined feature maps of all photographs of some classes [N, D, h, w]."""
    key = network, classes, layers
    if key not in _maps_of:
        for other in [other for other in _maps_of if other[2] != "b4" or other[:2] != key[:2]]:
            del _maps_of[other]
        loaded, _ = prepared(network, 0, classes)
        files, _ = _files(network, classes)
        sample = torch.stack([files[row][0] for row in range(_SAMPLE)])
        encoder = PatchEncoder(Encoder(loaded.model, sample[:2], head=loaded.head, spec=loaded.spec), sample, layers)
        maps = torch.empty(len(files), encoder.patch_dim, *encoder.grid)
        for row in range(len(files)):
            maps[row] = encoder.maps(files[row][0][None])[0]
        _maps_of[key] = maps
    return _maps_of[key]


EXPERIMENTS.register("parts")(
    Experiment(
        "Models of parts",
        "open question",
        run_part_models,
        lacking=lacks_objects,
        pairing=Pairing(_WHOLE, (ACCURACY.name,)),
    )
)
EXPERIMENTS.register("parts-ten")(
    Experiment(
        "Models of parts on all ten classes of the stamps",
        "open question",
        run_all_photographs,
        lacking=lacks_stamps,
        pairing=Pairing(_WHOLE, (ACCURACY.name,)),
    )
)
EXPERIMENTS.register("part-concepts")(
    Experiment("Concepts of parts", "open question", run_part_concepts, lacking=lacks_objects)
)
