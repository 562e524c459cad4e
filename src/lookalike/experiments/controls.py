"""Controls: which figures tell a converted model from models that decide by chance, or that are another network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lookalike.data import Batches
from lookalike.embedding import as_encoder, embed
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, named
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT, AUROC, DIVERGENCE, DIVERSITY, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics import accuracy, agreement, evaluate, range_of_another, with_permuted_labels, with_random_head
from lookalike.model import PrototypeModel

CORRELATION = Column("explanation_correlation", "signed correlation")
_COLUMNS = (ACCURACY, AGREEMENT, DIVERGENCE, CORRELATION, AUROC, DIVERSITY, GHOSTING)

# fewer noisy images than elsewhere: 20 for each image instead of 100, on which AUROC hardly depends
_ORDERING: dict[str, Any] = {"n_steps": 10, "n_draws": 2}

# controls know no nearest training images, which the attributes need
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
    rows, told = [], []
    for dataset, network in plan.places():
        found: dict[str, dict[int, Record]] = {kind: {} for kind in _KINDS}
        subjects = plan.subjects(dataset, network, KMEX)
        for subject, other in zip(subjects, _others(subjects), strict=True):
            measurer = _Measurer(bench, subject, other)
            for kind in _KINDS:
                key = bench.key(subject, kind=kind, other=other.seed, n_images=bench.n_images, **_ORDERING)
                record = cells.get(f"controls-{kind}-{subject.name}", key, measurer.measure, kind)
                if record is not None:
                    found[kind][subject.seed] = record
        place = named(dataset, network)
        rows += [
            Row((*place, _KINDS[kind]), gather(list(one.values()), _COLUMNS)) for kind, one in found.items() if one
        ]
        told.append(told_apart(", ".join(place), found))
    return Findings(("data", "network", "model"), _COLUMNS, rows, {}, [sentence for sentence in told if sentence])


def _others(subjects: Sequence[Subject]) -> list[Subject]:
    """Returns for each subject the one of the next seed: another training of the same network."""
    if len(subjects) == 1:
        return [replace(subjects[0], seed=subjects[0].seed + 1)]
    return [*subjects[1:], subjects[0]]


class _Measurer:
    """Makes and measures KMEx and its controls of one seed."""

    def __init__(self, bench: Workbench, subject: Subject, other: Subject) -> None:
        self.bench, self.subject, self.other = bench, subject, other
        self.converter = Converter(bench, subject)

    def measure(self, kind: str) -> Record:
        """Returns the figures of one kind of model."""
        self.bench.say(f"measuring {self.subject.name}: {_KINDS[kind]}")
        if kind == "another-box":
            return self._other_box()
        if kind == "another-training":
            card = evaluate(
                self.bench.model(self.other),
                self.bench.data(self.subject),
                black_box=self.converter.measured_box,
                only=_SECTIONS,
                n_images=self.bench.n_images,
                random_state=self.subject.seed,
                progress=self.bench.progress,
                **_ORDERING,
            )
        else:
            card = self.converter.evaluate(self._made(kind), _SECTIONS, **_ORDERING)
        return {name: card[name] for name in card.runs}

    def _made(self, kind: str) -> PrototypeModel:
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
        encoders = [as_encoder(self.bench.black_box(one).model, Batches(data)) for one in (self.other, self.subject)]
        stores = [embed(encoder, data, progress=self.bench.progress) for encoder in encoders]
        labels = torch.from_numpy(np.array(stores[0].labels))
        theirs, own = (torch.from_numpy(np.array(store.predictions)) for store in stores)
        return {"accuracy": accuracy(theirs, labels), "agreement": agreement(theirs, own)}


def told_apart(place: str, found: Mapping[str, Mapping[int, Record]]) -> str:
    """Says which figures tell KMEx from each control: differences of the same seed, beyond what one more would give.

    Args:
        place: Data set and network.
        found: Figures by kind of model and seed.
    """
    parts = []
    for kind in ("random-head", "shuffled-labels", "another-training"):
        seeds = [seed for seed in found["kmex"] if seed in found[kind]]
        apart = [c.title.removesuffix(" %") for c in _COLUMNS if _differs(found, kind, seeds, c.name)]
        if len(seeds) > 1:
            parts.append(f"{_KINDS[kind]}: {', '.join(apart) or 'none'}")
    text = "figures whose difference from KMEx excludes 0 for one more seed"
    return f"*{place}*, {text}: {'; '.join(parts)}." if parts else ""


def _differs(found: Mapping[str, Mapping[int, Record]], kind: str, seeds: Sequence[int], figure: str) -> bool:
    pairs: list[tuple[Any, Any]] = [(found["kmex"][s].get(figure), found[kind][s].get(figure)) for s in seeds]
    spread = range_of_another([[a - b] for a, b in pairs if a is not None and b is not None])
    return spread is not None and not spread.low <= 0 <= spread.high


EXPERIMENTS.register("controls")(Experiment("Controls", "beyond the paper", run_controls))
