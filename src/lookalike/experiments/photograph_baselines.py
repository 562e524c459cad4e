"""The paper's baselines on photographs: trained on the embeddings of frozen, pretrained backbones [ours].

A hundred photographs cannot train a network, and the backbones are too large to train several seeds of four methods on
a CPU. So the backbone is frozen and each method trains on its embeddings, as images [D, 1, 1]; decoders reconstruct
these.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from lookalike.baselines import METHODS, train
from lookalike.conversion.convert import convert
from lookalike.data import Batches, DataBundle
from lookalike.embedding import embed
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.photographs import ENCODERS, lacks_stamps, of_seeds, prepared
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import Workbench
from lookalike.metrics import BlackBox, evaluate
from lookalike.model import PrototypeModel
from lookalike.networks import NETWORKS

_METHODS = ("protopnet", "flint", "protovae")
_PER_CLASS = 3
# The values for the embedded data sets, which are trained from random weights too, with as many steps: there 4,000
# images in batches of 128 for 12 epochs are 375 steps; here 105 in batches of 16 for 54 epochs. With the digits'
# learning rate of 0.002, ProtoVAE classifies a third of its training photographs correctly; with 0.01 all.
COMMON: dict[str, Any] = {
    "network": "lookalike:embedding-classifier", "pretrained": False, "epochs": 54, "batch_size": 16,
    "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0005, "schedule": "cosine",
    "warm_up": 2, "n_prototypes": _PER_CLASS,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "protopnet": {"warm_epochs": 9, "push_every": 45, "last_layer_epochs": 22, "embedding_dim": 128},
    "flint": {"learning_rate": 0.002, "embedding_dim": 128, "weight_decay": 0.0},
    "protovae": {"epochs": 108, "learning_rate": 0.01, "weight_decay": 0.0, "divergence": 1.0, "embedding_dim": 32},
}
_COLUMNS = (
    Column("accuracy", "accuracy %", 100, 1),
    Column("difference", "minus black box, points", 100, 1),
    Column("agreement", "agreement %", 100, 1),
    Column("ghosting", "D_tsp"),
    Column("diversity", "D_dvs"),
    Column("train_seconds", "training, s", 1, 1),
)
_DIM = 1_280  # of both backbones


@NETWORKS.register("embedding-classifier")
class EmbeddingClassifier(nn.Module):
    """A linear classifier of embeddings [N, D, 1, 1], standardised by a batch norm.

    Args:
        n_classes: K.
        channels: D.
    """

    def __init__(self, n_classes: int = 10, channels: int = _DIM) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, n_classes)

    @override
    def forward(self, embeddings: Tensor) -> Tensor:
        scores: Tensor = self.head(self.scale(embeddings).mean((2, 3)))
        return scores


def run_photographs_baselines(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the baselines, a black box and its KMEx, all trained on the same embeddings."""
    rows = []
    for name in ENCODERS:
        settings = {"backbone": name, "options": [COMMON, OWN]}
        records = of_seeds("photographs-baselines", name, settings, plan, bench, cells, measure)
        rows += [
            Row((name, method), gather([record[method] for record in records], _COLUMNS))
            for method in (records[0] if records else ())
        ]
    remarks = [
        f"All are trained on the embeddings of the frozen backbone, with {_PER_CLASS} prototypes per class and as many "
        "steps as on the digits; decoders reconstruct the embedding in place of the image. One split into some 105 and "
        "26 photographs per seed. D_dvs is at the temperature of each model: fitted for KMEx, 1 for the others. "
        "*Training*: of the black box for KMEx, of the baseline's encoder for its KMEx."
    ]
    return Findings(("backbone", "model"), _COLUMNS, rows, {}, remarks)


def measure(name: str, seed: int) -> Record:
    """Trains every method on one split, and converts the black box and each method's encoder."""
    data = embedded_bundle(name, seed)
    trained = train("blackbox", data, options=COMMON, seed=seed, progress=False)
    assert isinstance(trained.model, LoadedClassifier)
    box = trained.model.model
    kmex = convert(box, data.train, _PER_CLASS, seed=seed, progress=False)
    measured_box = BlackBox.of(box, Batches(data.test))
    record = {"KMEx": _figures(kmex, measured_box, data, seed, trained.seconds)}
    for method in _METHODS:
        trained = train(method, data, options=COMMON | OWN[method], seed=seed, progress=False)
        assert isinstance(trained.model, PrototypeModel)
        encoder = trained.model.encoder
        title = METHODS[method].title
        record[title] = _figures(trained.model, measured_box, data, seed, trained.seconds)
        again = convert(encoder, data.train, _PER_CLASS, seed=seed, progress=False)
        record[f"{title} + KMEx"] = _figures(again, measured_box, data, seed, trained.seconds)
    return record


def _figures(model: PrototypeModel, box: BlackBox, data: DataBundle, seed: int, seconds: float) -> Record:
    card = evaluate(
        model, data.test, black_box=box, train=data.train, seed=seed, noise="mersenne", progress=False,
        only=("faithfulness", "transparency", "diversity"),
    ).to_dict()  # fmt: skip
    figures = {column.name: card.get(column.name) for column in _COLUMNS}
    return figures | {"difference": card["accuracy"] - card["black_box_accuracy"], "train_seconds": seconds}


def embedded_bundle(name: str, seed: int) -> DataBundle:
    """Returns the embeddings of both parts of the photographs, as images [D, 1, 1] of variance one."""
    loaded, data = prepared(name, seed)
    encoder = Encoder(loaded.model, torch.stack([data.train[i][0] for i in (0, 1)]), head=loaded.head, spec=loaded.spec)
    parts = (data.train, data.test)
    stores = [embed(encoder, part, batch_size=32, precision="float32", progress=False) for part in parts]
    z = np.asarray(stores[0].embeddings)
    centre, spread = z.mean(), z.std()  # reconstruction losses expect values of the size of normalised pixels

    def part(index: int) -> TensorDataset:
        scaled = torch.from_numpy((np.asarray(stores[index].embeddings) - centre) / spread).float()
        return TensorDataset(scaled[:, :, None, None], torch.from_numpy(np.asarray(stores[index].labels)).long())

    return replace(data, train=part(0), test=part(1))


_TITLE = "Photographs: the baselines on frozen backbones"
EXPERIMENTS.register("photographs-baselines")(
    Experiment(_TITLE, "on photographs", run_photographs_baselines, lacking=lacks_stamps)
)
