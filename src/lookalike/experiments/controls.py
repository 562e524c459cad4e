"""Controls: which figures distinguish a converted model from models that decide by chance or are another network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lookalike.data import Batches
from lookalike.embedding import as_encoder, embed
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT, AUROC, DIVERGENCE, DIVERSITY, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics import accuracy, agreement, range_of_another, with_permuted_labels, with_random_head
from lookalike.model import PrototypeModel

CORRELATION = Column("explanation_correlation", "signed correlation")
_COLUMNS = (ACCURACY, AGREEMENT, DIVERGENCE, CORRELATION, AUROC, DIVERSITY, GHOSTING)

# fewer noisy images than elsewhere: 20 for each image instead of 100, on which AUROC hardly depends
_ORDERING: dict[str, Any] = {"n_steps": 10, "n_draws": 2}

# without the attributes, which need nearest training images: controls have none
_SECTIONS = ("faithfulness", "transparency", "explanations", "robustness", "diversity")

# how a model is made → what it is called in the table
_KINDS = {
    "kmex": "KMEx",
    "random-head": "random head",
    "shuffled-labels": "shuffled labels",
    "another-training": "KMEx of another training",
    "another-box": "another training itself",
}


def run_controls(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures KMEx and its controls against the same black box."""
    rows, remarks = [], []
    for dataset, network in plan.places():
        records_by_kind: dict[str, dict[int, Record]] = {kind: {} for kind in _KINDS}
        subjects = plan.subjects(dataset, network, KMEX)
        for subject, other_subject in zip(subjects, _other_trainings(subjects), strict=True):
            measurement = _ControlMeasurement(bench, subject, other_subject)
            for kind in _KINDS:
                key = bench.key(subject, kind=kind, other=other_subject.seed, n_images=bench.n_images, **_ORDERING)
                record = cells.get(f"controls-{kind}-{subject.name}", key, measurement.measure, kind)
                if record is not None:
                    records_by_kind[kind][subject.seed] = record
        names = table_names(dataset, network)
        rows += [
            Row((*names, _KINDS[kind]), gather(list(records.values()), _COLUMNS))
            for kind, records in records_by_kind.items()
            if records
        ]
        remarks.append(distinguishing_figures(", ".join(names), records_by_kind))
    return Findings(("data", "network", "model"), _COLUMNS, rows, {}, [sentence for sentence in remarks if sentence])


def _other_trainings(subjects: Sequence[Subject]) -> list[Subject]:
    """Returns each subject's neighbour with the next seed: another training of the same network."""
    if len(subjects) == 1:
        return [replace(subjects[0], seed=subjects[0].seed + 1)]
    return [*subjects[1:], subjects[0]]


class _ControlMeasurement:
    """Makes and measures KMEx and its controls, for one seed."""

    def __init__(self, bench: Workbench, subject: Subject, other: Subject) -> None:
        self.bench, self.subject, self.other = bench, subject, other
        self.converter = Converter(bench, subject)

    def measure(self, kind: str) -> Record:
        """Measures one kind of model, a key of ``_KINDS``."""
        self.bench.say(f"measuring {self.subject.name}: {_KINDS[kind]}")
        # The last two kinds come from another seed. The very last is a black box, without prototypes to measure.
        if kind == "another-box":
            return self._other_box()
        if kind == "another-training":
            other, data = self.bench.model(self.other), self.bench.data(self.subject)
            card = self.bench.evaluate(
                self.subject, other, data, self.converter.measured_box, only=_SECTIONS, **_ORDERING
            )
        else:
            card = self.converter.evaluate(self._model(kind), _SECTIONS, **_ORDERING)
        return {name: card[name] for name in card.runs}

    def _model(self, kind: str) -> PrototypeModel:
        model = self.bench.model(self.subject)
        if kind == "shuffled-labels":
            return with_permuted_labels(model, self.subject.seed)
        if kind == "random-head":
            _, train, _ = self.converter.embedded()
            return with_random_head(model, torch.from_numpy(np.array(train.embeddings[:1000])), self.subject.seed)
        return model

    def _other_box(self) -> Record:
        """Compares the black box with another training of itself."""
        data = self.bench.data(self.subject).test
        encoders = [
            as_encoder(self.bench.black_box(subject).model, Batches(data)) for subject in (self.other, self.subject)
        ]
        stores = [embed(encoder, data, progress=self.bench.progress) for encoder in encoders]
        labels = torch.from_numpy(np.array(stores[0].labels))
        other_predictions, predictions = (torch.from_numpy(np.array(store.predictions)) for store in stores)
        return {"accuracy": accuracy(other_predictions, labels), "agreement": agreement(other_predictions, predictions)}


def distinguishing_figures(setting: str, figures: Mapping[str, Mapping[int, Record]]) -> str:
    """Describes which figures distinguish KMEx from each control.

    A figure distinguishes them if the differences between models of the same seed are so large that the prediction
    interval for one more seed excludes 0.

    Args:
        setting: Names of the data set and the network.
        figures: Figures by kind of model and seed.
    """
    sentences = []
    for kind in ("random-head", "shuffled-labels", "another-training"):
        seeds = [seed for seed in figures["kmex"] if seed in figures[kind]]
        differing = [c.title.removesuffix(" %") for c in _COLUMNS if _differs(figures, kind, seeds, c.name)]
        if len(seeds) > 1:
            sentences.append(f"{_KINDS[kind]}: {', '.join(differing) or 'none'}")
    text = "figures whose difference from KMEx excludes 0 for one more seed"
    return f"*{setting}*, {text}: {'; '.join(sentences)}." if sentences else ""


def _differs(figures: Mapping[str, Mapping[int, Record]], kind: str, seeds: Sequence[int], column: str) -> bool:
    pairs: list[tuple[Any, Any]] = [(figures["kmex"][s].get(column), figures[kind][s].get(column)) for s in seeds]
    interval = range_of_another([[a - b] for a, b in pairs if a is not None and b is not None])
    return interval is not None and not interval.low <= 0 <= interval.high


EXPERIMENTS.register("controls")(Experiment("Controls", "beyond the paper", run_controls))
