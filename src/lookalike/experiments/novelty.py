"""Which score tells unfamiliar images best? Those from prototypes beside four of others, on one embedding [ours]."""

from typing import NamedTuple

import numpy as np
import torch

from lookalike.doubt import NOVELTIES
from lookalike.doubt.novelty import DEFAULT_NOVELTY, fit_novelty, usable_spreads
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import HeldOut, LinearHead, head_of, held_out, places_of
from lookalike.experiments.paired import Pairing
from lookalike.experiments.rivals import Rivals
from lookalike.experiments.strange_images import strange_images
from lookalike.experiments.tables import Column, Row
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model import PrototypeModel

KINDS = {
    "letters": "letters or digits",
    "digits": "letters or digits",
    "textures": "textures",
    "photographs": "photographs",
    "other classes": "other classes",
}
_TITLES = tuple(dict.fromkeys(KINDS.values()))
_COLUMNS = (
    *(Column(f"auroc, {title}", f"AUROC: {title}", 1, 3) for title in _TITLES),
    *(Column(f"fpr, {title}", f"FPR at 95 % %: {title}", 100, 1) for title in _TITLES),
)
_KNOWN_SHARE = 0.6  # of the photographs' classes


def run_novelty(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Scores familiar test images and unfamiliar ones of several kinds."""
    n = 100 if plan.quick else 500
    rows: list[Row] = []
    for dataset, network in places_of(plan):
        values_by_score: dict[str, dict[str, list[float]]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, n_strange=n, scores=list(NOVELTIES), photographs=8)
            record = cells.get(f"novelty-{subject.name}", key, _measure, bench, subject, n)
            for kind, scores in (record or {}).items():
                for score, figures in scores.items():
                    values = values_by_score.setdefault(score, {})
                    for name, value in figures.items():
                        values.setdefault(f"{name}, {KINDS[kind]}", []).append(value)
        names = table_names(dataset, network)
        rows += [Row((*names, score), values) for score, values in values_by_score.items()]
    remarks = [
        "*AUROC*: area under the receiver operating characteristic, familiar test images against unfamiliar ones; 1 is "
        "perfect, 0.5 chance. *FPR at 95 %*: share of unfamiliar images that pass as familiar at the threshold at "
        "which 95% of familiar ones do. *Letters or digits*: letters, and digits for a model of letters (`glyphs`). "
        "*Photographs*: crops of eight. *Other classes*: the four classes of the photographs (`stamps`) that the model "
        "was not made with.",
        "The scores from the prototypes are fitted to a third of the held-out images, the others to the training "
        "images, and all are tested on the other two thirds. kNN, ViM, SHE and energy: Sun et al. 2022, Wang et al. "
        "2022, Zhang et al. 2023, Liu et al. 2020. ViM and energy need a linear head; for the photographs, whose "
        "networks know ImageNet's classes or none, it is a logistic regression on the same training images.",
    ]
    return Findings(("data", "encoder", "score"), _COLUMNS, rows, {}, remarks)


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns AUROC and FPR of each score on each kind of unfamiliar images."""
    bench.say(f"scoring unfamiliar images with {subject.name}")
    pool = held_out(bench, subject)
    known = _known(pool, subject.seed)
    model, n = known.model, n if known.others is None else n // 5  # photographs are large
    fitted, test = np.split(known.held_out, [len(known.held_out) // 3])
    project = model.similarity.project
    centres, spreads = project(model.prototypes.vectors), usable_spreads(model.prototypes.quantiles[:, 50])
    fitted_scores = {name: fit_novelty(name, project(pool.images.embeddings[fitted]), centres) for name in NOVELTIES}
    rivals = Rivals(known.train, known.train_labels, _predicted(model, known.train), *known.head)

    def all_scores(z: torch.Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad():
            our_scores = {name: score(project(z), centres, spreads).numpy() for name, score in fitted_scores.items()}
        return our_scores | rivals.scores(z.numpy(), _predicted(model, z.numpy()))

    familiar = all_scores(pool.images.embeddings[test])
    results: Record = {}
    for kind, embeddings in _strange(pool, model, n, subject.seed, known.others).items():
        unfamiliar = all_scores(embeddings)
        results[kind] = {name: _figures(familiar[name], unfamiliar[name]) for name in familiar}
    return results


class _Known(NamedTuple):
    """What is known: a model, its training embeddings [n, D] with their classes [n], a head, and rows of a pool."""

    model: PrototypeModel
    train: np.ndarray
    train_labels: np.ndarray
    head: LinearHead
    held_out: np.ndarray
    others: np.ndarray | None


def _known(pool: HeldOut, seed: int) -> _Known:
    """Returns a pool's model, or one that is made of some of its images, of six in ten classes."""
    order = np.random.default_rng(seed).permutation(len(pool.images.labels))
    if pool.model is not None:
        assert pool.train is not None  # a model of its own has training data
        assert pool.train_labels is not None
        return _Known(pool.model, pool.train, pool.train_labels, head_of(pool.encoder), order, None)
    is_other = pool.images.labels >= round(_KNOWN_SHARE * len(pool.class_names))
    order = order[~is_other[order]]
    rows = pool.of_each_class(order, 0.4)
    train, labels = pool.images.embeddings[torch.from_numpy(rows)].numpy(), pool.images.labels[rows]
    held_out_rows = order[~np.isin(order, rows)]
    return _Known(pool.converted(rows, seed), train, labels, pool.probe(rows), held_out_rows, np.flatnonzero(is_other))


def _predicted(model: PrototypeModel, embeddings: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        predicted: np.ndarray = model.scores_of(torch.from_numpy(embeddings)).argmax(1).numpy()
    return predicted


def _strange(
    pool: HeldOut, model: PrototypeModel, n: int, seed: int, others: np.ndarray | None
) -> dict[str, torch.Tensor]:
    """Returns embeddings of unfamiliar images, by kind."""
    images = strange_images(n, seed, without=pool.data.name)
    preprocessing = pool.data.preprocessing
    embeddings = {}
    for kind, pictures in images.items():
        inputs = torch.stack([preprocessing(picture) for picture in pictures])
        embeddings[kind] = model.embed(inputs, 64)
    if others is not None:
        embeddings["other classes"] = pool.images.embeddings[torch.from_numpy(others)]
    return embeddings


def _figures(familiar: np.ndarray, unfamiliar: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    is_unfamiliar = np.r_[np.zeros(len(familiar)), np.ones(len(unfamiliar))]
    threshold = np.quantile(familiar, 0.95)
    return {
        "auroc": float(roc_auc_score(is_unfamiliar, np.r_[familiar, unfamiliar])),
        "fpr": float((unfamiliar <= threshold).mean()),
    }


EXPERIMENTS.register("novelty")(
    Experiment(
        "Scores of unfamiliar images",
        "beyond the paper",
        run_novelty,
        pairing=Pairing(DEFAULT_NOVELTY, tuple(column.name for column in _COLUMNS if column.name.startswith("auroc"))),
    )
)
