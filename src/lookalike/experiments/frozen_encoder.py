"""Prototypes of images that are nothing like those an encoder was trained on, without training it further [ours].

EfficientNet-Lite0 has ImageNet's weights and never saw a digit. A logistic regression on its embeddings is the black
box; prototypes on the same embeddings are what a conversion finds. The paper's black boxes were trained on their data.
"""

from functools import cache

import numpy as np
import torch

from lookalike.data import load_data
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.encoder.packaged import load_efficientnet_lite0
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.photographs import FIGURES, Choices, compare_with, predict_by_all
from lookalike.experiments.tables import Row, gather
from lookalike.experiments.workbench import KMEX, Workbench, data_name

ENCODER = "EfficientNet-Lite0"
_PROTOTYPES: Choices = (
    ("l2", 1), ("l2", 5), ("l2", 20), ("l2", 50), ("mahalanobis", 1), ("mahalanobis", 5), ("auto", 5),
)  # fmt: skip


def run_frozen_encoder(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares classifiers on the embeddings of an encoder that was trained on other images."""
    rows = []
    for dataset in plan.datasets:
        records = []
        for subject in plan.subjects(dataset, plan.networks[0], KMEX):
            key = {"data": bench.key(subject)["data"], "seed": subject.seed, "encoder": ENCODER, "tried": _PROTOTYPES}
            name = f"frozen-encoder-{data_name(dataset)}-{subject.seed}"
            records.append(cells.get(name, key, _compare, dataset, subject.seed))
        measured = [record for record in records if record is not None]
        rows += [
            Row((data_name(dataset), method), gather([record[method] for record in measured], FIGURES))
            for method in (measured[0] if measured else ())
        ]
    remarks = [
        f"{ENCODER} with ImageNet's weights, frozen, at its own 224 × 224; everything is fitted to the embeddings of "
        "the training images. *Prototypes*: similarity and number per class; `auto` chooses on the training images. "
        "The interval is that of the paired difference over the test images, averaged over seeds."
    ]
    return Findings(("data", "classifier on the embedding"), FIGURES, rows, {}, remarks)


def _compare(dataset: str, seed: int) -> Record:
    """Predicts the test images by all classifiers."""
    train, test = _embedded(dataset)
    z, labels = np.asarray(train.embeddings), np.asarray(train.labels)
    test_z, truth = np.asarray(test.embeddings), np.asarray(test.labels)
    predicted = predict_by_all(z, labels, test_z, _PROTOTYPES, seed)
    reference = predicted["logistic regression"] == truth
    return {method: compare_with(reference, values == truth) for method, values in predicted.items()}


@cache  # the embeddings are the same for all seeds
def _embedded(dataset: str) -> tuple[EmbeddingStore, EmbeddingStore]:
    """Embeds the training and the test images of a data set."""
    loaded = load_efficientnet_lite0()
    bundle = load_data(dataset, loaded.preprocessing)
    sample = torch.stack([bundle.train[row][0] for row in range(2)])
    encoder = Encoder(loaded.model, sample, head=loaded.head, spec=loaded.spec)
    train, test = (
        embed(encoder, part, batch_size=32, precision="float32", progress=False) for part in (bundle.train, bundle.test)
    )
    return train, test


EXPERIMENTS.register("frozen-encoder")(
    Experiment("An encoder that never saw such images", "beyond the paper", run_frozen_encoder)
)
