"""KMEx of photographs with one thing varied: the clusterer, the number of prototypes, patches for images [ours]."""

from collections.abc import Mapping
from typing import Any

import torch

from lookalike.conversion.clustering import CLUSTERERS
from lookalike.conversion.convert import convert
from lookalike.data import Batches, MaskedFiles
from lookalike.embedding import as_encoder, embed
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.parts import accuracy_by_patches
from lookalike.experiments.photograph_attributes import attributes_of
from lookalike.experiments.photograph_boxes import black_box
from lookalike.experiments.photographs import lacks_stamps, rows_by_backbone
from lookalike.experiments.tables import Column
from lookalike.experiments.variants import ATTRIBUTE_COLUMNS, ATTRIBUTE_SECTIONS, with_ghost_counts
from lookalike.experiments.workbench import Workbench
from lookalike.metrics import BlackBox, evaluate

_PER_CLASS = 3
_NUMBERS = (1, 2, 3, 5, 10)
_ACCURACY = Column("accuracy", "accuracy %", 100, 1)
_CLUSTERED = (
    _ACCURACY,
    Column("agreement", "agreement %", 100, 1),
    Column("ghosting", "D_tsp"),
    Column("diversity", "D_dvs"),
)
_PATCHES = (_ACCURACY, Column("single", "single patches %", 100, 1))
_BLACK_BOX, _WHOLE = "black box", "KMEx, whole images"


def run_photographs_clusterers(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures conversions by each clusterer (paper, Table 13)."""
    settings = {"per_class": _PER_CLASS, "clusterers": list(CLUSTERERS)}
    rows = rows_by_backbone("photographs-clusterers", settings, _CLUSTERED, plan, bench, cells, _measure_clusterers)
    remark = f"`l2`, {_PER_CLASS} prototypes per class. One split into some 105 and 26 photographs per seed."
    return Findings(("backbone", "clusterer"), _CLUSTERED, rows, {}, [remark])


def run_photographs_attributes(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Counts the attributes that KMEx's prototypes show, against their number (paper, Figure 5)."""
    settings = {"numbers": _NUMBERS}
    rows = rows_by_backbone(
        "photographs-attributes", settings, ATTRIBUTE_COLUMNS, plan, bench, cells, _measure_attributes
    )
    remark = (
        "Thirteen attributes, measured on the pixels and masks of the cut-out objects: colours, brightness, size and "
        "shape. `l2`; some 105 training photographs per seed."
    )
    return Findings(("backbone", "per class"), ATTRIBUTE_COLUMNS, rows, {}, [remark])


def run_photographs_patches(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures KMEx of patches beside KMEx of images and the black box (paper, Table 14)."""
    rows = rows_by_backbone(
        "photographs-patches", {"per_class": _PER_CLASS}, _PATCHES, plan, bench, cells, _measure_patches
    )
    remark = (
        f"{_PER_CLASS} prototypes per class in both. Single patches: share of patches classified correctly, each alone."
    )
    return Findings(("backbone", "model"), _PATCHES, rows, {}, [remark])


def _measure_clusterers(name: str, seed: int) -> Record:
    variants = {clusterer: {"clusterer": clusterer} for clusterer in CLUSTERERS}
    return _measure_conversions(name, seed, variants, ("faithfulness", "transparency", "diversity"))


def _measure_attributes(name: str, seed: int) -> Record:
    variants = {str(number): {"n_prototypes": number} for number in _NUMBERS}
    records = _measure_conversions(name, seed, variants, ATTRIBUTE_SECTIONS)
    return {variant: with_ghost_counts(record) for variant, record in records.items()}


def _measure_conversions(name: str, seed: int, variants: Mapping[str, Mapping[str, Any]], only: Any) -> Record:
    """Converts a black box once for each variant, from one pass over the photographs, and measures each."""
    box, data = black_box(name, seed)
    assert isinstance(data.train, MaskedFiles)  # of load_stamps
    measured_box, batches = BlackBox.of(box, Batches(data.test)), Batches(data.train)
    encoder = as_encoder(box, batches)
    train, test = (embed(encoder, part, progress=False) for part in (batches, data.test))
    attributes = torch.from_numpy(attributes_of(data.train)) if "attributes" in only else None
    record = {}
    for variant, options in variants.items():
        clustering = {"n_prototypes": _PER_CLASS, **options}
        model = convert(encoder, batches, seed=seed, embeddings=train, progress=False, **clustering)
        card = evaluate(
            model, data.test, black_box=measured_box, train=train, test_embeddings=test, attributes=attributes,
            only=only, seed=seed, noise="mersenne", progress=False,
        )  # fmt: skip
        record[variant] = {name: card[name] for name in card.runs} | {"n_prototypes": float(len(model.prototypes))}
    return record


def _measure_patches(name: str, seed: int) -> Record:
    box, data = black_box(name, seed)
    of_patches = convert(box, data.train, _PER_CLASS, level="patch", n_images=1, seed=seed, progress=False)
    whole = convert(box, data.train, _PER_CLASS, seed=seed, progress=False)
    card = evaluate(
        whole, data.test, black_box=box, only=("faithfulness",), seed=seed, noise="mersenne", progress=False
    )
    return {
        _BLACK_BOX: {"accuracy": card["black_box_accuracy"]},
        _WHOLE: {"accuracy": card["accuracy"]},
        "KMEx, patches": accuracy_by_patches(of_patches, Batches(data.test, 32)),
    }


for _name, _title, _run in (
    ("photographs-clusterers", "Photographs: clusterers", run_photographs_clusterers),
    ("photographs-attributes", "Photographs: attributes that prototypes show", run_photographs_attributes),
    ("photographs-patches", "Photographs: KMEx on patches", run_photographs_patches),
):
    EXPERIMENTS.register(_name)(Experiment(_title, "on photographs", _run, lacking=lacks_stamps))
