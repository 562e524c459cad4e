"""Chooses the weight of the embedding itself in the novelty score ``joint``, on pairs that the results do not report.

Two encoders that were trained on ImageNet and stay as they are. Known are six of the ten classes of the photographs,
half of the digits or half of the letters, each time others; unknown are the other classes, pictures of digits (for
photographs), and known images whose embedding is three times as long, as after a change of contrast.

    python tools/novelty_weight.py
"""

import argparse
import sys
import warnings
from collections import defaultdict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lookalike import LookalikeWarning, convert
from lookalike.data import Batches, load_data
from lookalike.doubt.novelty import Joint, usable_spreads
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.experiments.photographs import ENCODERS
from lookalike.model import PrototypeModel

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
DATASETS = ("stamps", "digits", "glyphs")
N_IMAGES = 400  # of a data set, at most
LONGER = 3.0
TRAIN, FITTED = 0.4, 0.6  # of the known images: up to here for prototypes, up to there for the score, then tests
SEED_OF_DIVISIONS = 1_000


def embedded(encoder: Encoder, dataset: str, preprocessing: object) -> tuple[Tensor, np.ndarray]:
    """Returns embeddings [N, D] of a data set's images, and their classes [N]."""
    data = load_data(dataset, preprocessing)
    parts = [data.test] if dataset != "stamps" else [data.train, data.test]
    embeddings, labels = [], []
    for part in parts:
        rows = np.random.default_rng(0).permutation(len(part))[:N_IMAGES]
        store = embed(encoder, Batches(torch.utils.data.Subset(part, rows.tolist()), 32), precision="float32",
                      progress=False)  # fmt: skip
        embeddings.append(torch.from_numpy(np.array(store.embeddings)))
        labels.append(store.labels)
    return torch.cat(embeddings), np.concatenate(labels)


def divided(labels: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the rows of known images for prototypes, for the score and for tests: the same shares of each class."""
    parts: list[list[int]] = [[], [], []]
    for k in known:
        rows = rng.permutation(np.flatnonzero(labels == k))
        cuts = [max(2, round(TRAIN * len(rows))), max(3, round(FITTED * len(rows)))]
        for part, more in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(more.tolist())
    return [np.array(part) for part in parts]


def scored(model: PrototypeModel, fitted: Tensor, test: Tensor, unknown: dict[str, Tensor]) -> dict[str, list[float]]:
    """Returns the AUROC of each weight for each kind of unknown images."""
    project = model.similarity.project
    centres, spreads = project(model.prototypes.vectors), usable_spreads(model.prototypes.quantiles[:, 50])
    figures = defaultdict(list)
    for weight in WEIGHTS:
        score = type("Weighted", (Joint,), {"share_of_points": weight})().fit(project(fitted), centres)
        known_scores = score(project(test), centres, spreads).numpy()
        for kind, z in unknown.items():
            scores = score(project(z), centres, spreads).numpy()
            truth = np.r_[np.zeros(len(known_scores)), np.ones(len(scores))]
            figures[kind].append(float(roc_auc_score(truth, np.r_[known_scores, scores])))
    return figures


def main() -> int:
    """Prints a table of AUROC by weight, and the mean of all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--divisions", type=int, default=50, help="for each encoder and data set")
    n_divisions = parser.parse_args().divisions
    warnings.simplefilter("ignore", LookalikeWarning)  # prototypes of few images
    table: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for name, make in ENCODERS.items():
        loaded = make()
        sample = next(iter(Batches(load_data("stamps", loaded.preprocessing).test, 2))).inputs
        encoder = Encoder(loaded.model, sample, head=loaded.head, spec=loaded.spec)
        pools = {dataset: embedded(encoder, dataset, loaded.preprocessing) for dataset in DATASETS}
        for dataset, (z, labels) in pools.items():
            for division in range(n_divisions):
                rng = np.random.default_rng([SEED_OF_DIVISIONS, division])
                n_classes = int(labels.max()) + 1
                n_known = 6 if dataset == "stamps" else n_classes // 2
                known = np.sort(rng.permutation(n_classes)[:n_known])
                if dataset == "stamps" and (known < n_known).all():
                    continue  # the pair that the results report
                train, fitted, test = divided(labels, known, rng)
                store = EmbeddingStore(z[train].numpy(), np.searchsorted(known, labels[train]), train)
                model = convert(encoder, store, n_prototypes=2, seed=division, progress=False)
                unknown = {"other classes": z[~np.isin(labels, known)], "longer": LONGER * z[test]}
                if dataset == "stamps":
                    unknown["digits"] = pools["digits"][0]
                for kind, values in scored(model, z[fitted], z[test], unknown).items():
                    table[dataset, name, kind].append(values)
    rows = {names: np.mean(values, axis=0) for names, values in table.items()}
    print("| data | encoder | unknown |", *(f"{weight:g} |" for weight in WEIGHTS))
    for names, means in rows.items():
        print("|", " | ".join(names), "|", *(f"{value:.3f} |" for value in means))
    print("| mean | | |", *(f"{value:.4f} |" for value in np.mean(list(rows.values()), axis=0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
