"""Which score tells unfamiliar images best? Five from the prototypes beside four of others, on one embedding [ours]."""

from typing import Any

import numpy as np
import torch

from lookalike.doubt import NOVELTIES
from lookalike.doubt.novelty import fit_novelty, usable_spreads
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, table_names
from lookalike.experiments.held_out import HeldOut, head_of, held_out
from lookalike.experiments.rivals import Rivals
from lookalike.experiments.strange_images import strange_images
from lookalike.experiments.tables import Column, Row
from lookalike.experiments.workbench import KMEX, Subject, Workbench

_COLUMNS = (Column("auroc", "AUROC", 1, 4), Column("fpr", "FPR at 95 % %", 100, 1))


def run_novelty(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Scores familiar test images and unfamiliar ones of several kinds."""
    n = 100 if plan.quick else 500
    rows: list[Row] = []
    for dataset, network in plan.places():
        collected: dict[tuple[str, str], dict[str, list[float]]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            key = bench.key(subject, n_strange=n)
            record = cells.get(f"novelty-{subject.name}", key, _measure, bench, subject, n)
            for kind, scores in (record or {}).items():
                for score, figures in scores.items():
                    values = collected.setdefault((kind, score), {"auroc": [], "fpr": []})
                    for name, value in figures.items():
                        values[name].append(value)
        names = table_names(dataset, network)
        rows += [Row((*names, kind, score), values) for (kind, score), values in collected.items()]
    remarks = [
        "*AUROC*: area under the receiver operating characteristic, familiar test images against unfamiliar ones; 1 is "
        "perfect, 0.5 chance. *FPR at 95 %*: share of unfamiliar images that pass as familiar at the threshold at "
        "which 95% of familiar ones do. The scores from the prototypes are fitted to a third of the held-out images, "
        "the others to the training images, and all are tested on the other two thirds. kNN, ViM, SHE and energy: Sun "
        "et al. 2022, Wang et al. 2022, Zhang et al. 2023, Liu et al. 2020."
    ]
    return Findings(("data", "network", "unfamiliar images", "score"), _COLUMNS, rows, {}, remarks)


def _measure(bench: Workbench, subject: Subject, n: int) -> Record:
    """Returns AUROC and FPR of each score on each kind of unfamiliar images."""
    bench.say(f"scoring unfamiliar images with {subject.name}")
    pool = held_out(bench, subject)
    order = np.random.default_rng(subject.seed).permutation(len(pool.images.labels))
    model = pool.model
    train, train_labels, strange_rows = pool.train, pool.train_labels, None
    if model is None:
        is_strange = pool.images.labels >= round(0.6 * len(pool.class_names))
        strange_rows = np.flatnonzero(is_strange)
        order = order[~is_strange[order]]
        n //= 5  # their images are large
        rows = pool.of_each_class(order, 0.4)
        order = order[~np.isin(order, rows)]
        model = pool.converted(rows, subject.seed)
        train, train_labels = pool.images.embeddings[rows].numpy(), pool.images.labels[rows]
    assert train is not None  # noqa: S101 - either way
    assert train_labels is not None  # noqa: S101
    fitted, test = np.split(order, [len(order) // 3])
    project = model.similarity.project
    centres, spreads = project(model.prototypes.vectors), usable_spreads(model.prototypes.quantiles[:, 50])
    fitted_scores = {name: fit_novelty(name, project(pool.images.embeddings[fitted]), centres) for name in NOVELTIES}
    rivals = Rivals(train, train_labels, _predicted(model, train), *head_of(pool.encoder))

    def all_scores(z: torch.Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad():
            our_scores = {name: score(project(z), centres, spreads).numpy() for name, score in fitted_scores.items()}
        return our_scores | rivals.scores(z.numpy(), _predicted(model, z.numpy()))

    familiar = all_scores(pool.images.embeddings[test])
    results: Record = {}
    for kind, embeddings in _strange(pool, model, n, subject.seed, strange_rows).items():
        unfamiliar = all_scores(embeddings)
        results[kind] = {name: _figures(familiar[name], unfamiliar[name]) for name in familiar}
    return results


def _predicted(model: Any, embeddings: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        predicted: np.ndarray = model.scores_of(torch.from_numpy(embeddings)).argmax(1).numpy()
    return predicted


def _strange(pool: HeldOut, model: Any, n: int, seed: int, strange_rows: np.ndarray | None) -> dict[str, torch.Tensor]:
    """Returns embeddings of unfamiliar images, by kind."""
    images = strange_images(n, seed, without=pool.data.name)
    preprocessing = pool.data.preprocessing
    embeddings = {}
    for kind, pictures in images.items():
        inputs = torch.stack([preprocessing(picture) for picture in pictures])
        embeddings[kind] = model.embed(inputs, 64)
    if strange_rows is not None:
        embeddings["other classes"] = pool.images.embeddings[torch.from_numpy(strange_rows)]
    return embeddings


def _figures(familiar: np.ndarray, unfamiliar: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    is_unfamiliar = np.r_[np.zeros(len(familiar)), np.ones(len(unfamiliar))]
    threshold = np.quantile(familiar, 0.95)
    return {
        "auroc": float(roc_auc_score(is_unfamiliar, np.r_[familiar, unfamiliar])),
        "fpr": float((unfamiliar <= threshold).mean()),
    }


EXPERIMENTS.register("novelty")(Experiment("Scores of unfamiliar images", "beyond the paper", run_novelty))
