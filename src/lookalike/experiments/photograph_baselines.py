"""The paper's baselines on photographs: trained on the embeddings of frozen, pretrained backbones [ours].

A hundred photographs cannot train a network, and the backbones are too large to train several seeds of four methods on
a CPU. So the backbone is frozen and each method trains on its embeddings, as images [D, 1, 1]; decoders reconstruct
these. Backbone and trained encoder, one behind the other, are then a network of photographs, which has heat-maps.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import override

from lookalike.baselines import METHODS, train
from lookalike.conversion.convert import convert
from lookalike.data import Batches, DataBundle
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.measure import predict_seconds
from lookalike.experiments.photograph_boxes import without_head
from lookalike.experiments.photographs import lacks_stamps, prepared, rows_by_backbone
from lookalike.experiments.tables import Column
from lookalike.experiments.workbench import PAPERS_RULE, Workbench, title_of
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
_IMAGES, _STEPS, _DRAWS = 10, 10, 2  # for heat-maps, as for those of KMEx on photographs
_MAPS = (
    Column("explanation_divergence", "D_fth"),
    Column("explanation_correlation", "correlation of heat-maps"),
    Column("auroc", "AUROC"),
    Column("auroc_black_box", "black box's"),
    Column("auroc_random", "in random order"),
)
_TIMES = (
    Column("train_seconds", "training or conversion s, least", 1, 2, least=True),
    Column("total_seconds", "with what is converted and the backbone's pass s, least", 1, 2, least=True),
    Column("predict_seconds", "prediction of a photograph ms, least", 1000, 1, least=True),
)


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
    settings = {"options": [COMMON, OWN]}
    rows = rows_by_backbone("photographs-baselines", settings, _COLUMNS, plan, bench, cells, measure)
    remarks = [
        f"All are trained on the embeddings of the frozen backbone, with {_PER_CLASS} prototypes per class and as many "
        "steps as on the digits; decoders reconstruct the embedding in place of the image. One split into some 105 and "
        "26 photographs per seed. D_dvs is at the temperature of each model: fitted for KMEx, 1 for the others. "
        "*Training*: of the black box for KMEx, of the baseline's encoder for its KMEx."
    ]
    return Findings(("backbone", "model"), _COLUMNS, rows, {}, remarks)


def run_photographs_baseline_maps(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the heat-maps of the same models, each behind the backbone that its embeddings are of."""
    settings = {"options": [COMMON, OWN], "maps": [_IMAGES, _STEPS, _DRAWS]}
    rows = rows_by_backbone("photographs-baseline-maps", settings, _MAPS, plan, bench, cells, measure_maps)
    remarks = [
        "Models as in the table above, backbone and trained encoder one behind the other. PRP by the paper's rule; "
        f"{_IMAGES} test photographs, curves of {_STEPS} steps and {_DRAWS} draws."
    ]
    return Findings(("backbone", "model"), _MAPS, rows, {}, remarks)


def run_photographs_runtime(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Times the training of the same models, and their predictions behind the backbone."""
    settings = {"options": [COMMON, OWN], "black box": "beside each model"}
    rows = rows_by_backbone("photographs-runtime", settings, _TIMES, plan, bench, cells, measure_times)
    remarks = [
        "Models as in the table above, trained on embeddings; the backbone embeds the training photographs once, with "
        "reading and preparing them. A prediction is of one photograph in memory, by the backbone and the model behind "
        "it, the median of 30; of the black box, which predicts in turn with each model, the median of these."
    ]
    return Findings(("backbone", "model"), _TIMES, rows, {}, remarks)


def measure(name: str, seed: int) -> Record:
    """Trains every method on one split, and converts the black box and each method's encoder."""
    data = embedded(name, seed).data
    box, seconds = _trained_box(data, seed)
    measured_box = BlackBox.of(box, Batches(data.test))
    return {
        title: _figures(model, measured_box, data, seed, trained_in)
        for title, model, trained_in in _models(data, box, seconds, seed)
    }


def measure_maps(name: str, seed: int) -> Record:
    """Trains and converts the same, and measures their heat-maps of photographs behind the backbone."""
    embeddings, photographs = embedded(name, seed), prepared(name, seed)[1]
    box, seconds = _trained_box(embeddings.data, seed)
    sample = _two_of(photographs)
    measured_box = BlackBox(Encoder(embeddings.behind_backbone(box).eval(), sample))
    record = {}
    for title, model, _ in _models(embeddings.data, box, seconds, seed):
        of_photographs = embeddings.model_behind_backbone(model, sample)
        card = evaluate(
            of_photographs, photographs.test, black_box=measured_box, only=("explanations", "robustness"), seed=seed,
            rule=PAPERS_RULE, n_images=_IMAGES, n_steps=_STEPS, n_draws=_DRAWS, noise="mersenne", progress=False,
        ).to_dict()  # fmt: skip
        record[title] = {column.name: card.get(column.name) for column in _MAPS}
    return record


def measure_times(name: str, seed: int) -> Record:
    """Trains and converts the same, and times that and a prediction of one photograph."""
    embeddings, photographs = embedded(name, seed), prepared(name, seed)[1]
    box, box_seconds = _trained_box(embeddings.data, seed)
    box_of_photographs = embeddings.behind_backbone(box).eval()
    sample = _two_of(photographs)
    record, times_of_box = {}, []
    for title, model, trained_in in _models(embeddings.data, box, box_seconds, seed):
        converted_in = float(model.provenance.get("convert_seconds", 0.0))
        times = predict_seconds(embeddings.model_behind_backbone(model, sample), box_of_photographs, sample[:1])
        record[title] = {
            "train_seconds": converted_in or trained_in,
            "total_seconds": embeddings.seconds + trained_in + converted_in,
            "predict_seconds": times["predict_seconds"],
        }
        times_of_box.append(times["black_box_predict_seconds"])
    of_box = {"train_seconds": box_seconds, "total_seconds": embeddings.seconds + box_seconds}
    return {title_of("blackbox"): of_box | {"predict_seconds": statistics.median(times_of_box)}, **record}


def _trained_box(data: DataBundle, seed: int) -> tuple[nn.Module, float]:
    """Trains the black box. Returns its network and the seconds that it took."""
    trained = train("blackbox", data, options=COMMON, seed=seed, progress=False)
    assert isinstance(trained.model, LoadedClassifier)
    return trained.model.model, trained.seconds


def _models(
    data: DataBundle, box: nn.Module, box_seconds: float, seed: int
) -> Iterator[tuple[str, PrototypeModel, float]]:
    """Yields KMEx of the black box, each baseline and its KMEx: the name in tables, the model, seconds of training."""
    yield "KMEx", convert(box, data.train, _PER_CLASS, seed=seed, progress=False), box_seconds
    for method in _METHODS:
        trained = train(method, data, options=COMMON | OWN[method], seed=seed, progress=False)
        assert isinstance(trained.model, PrototypeModel)
        title, encoder = METHODS[method].title, trained.model.encoder
        yield title, trained.model, trained.seconds
        again = convert(encoder, data.train, _PER_CLASS, seed=seed, progress=False)
        yield f"{title} + KMEx", again, trained.seconds


def _figures(model: PrototypeModel, box: BlackBox, data: DataBundle, seed: int, seconds: float) -> Record:
    card = evaluate(
        model, data.test, black_box=box, train=data.train, seed=seed, noise="mersenne", progress=False,
        only=("faithfulness", "transparency", "diversity"),
    ).to_dict()  # fmt: skip
    figures = {column.name: card.get(column.name) for column in _COLUMNS}
    return figures | {"difference": card["accuracy"] - card["black_box_accuracy"], "train_seconds": seconds}


class BehindBackbone(nn.Module):
    """A frozen backbone, and behind it a network that was trained on its embeddings as images [D, 1, 1].

    Args:
        backbone: Returns embeddings [N, D] or feature maps [N, D, h, w].
        centre: Mean of the training part's embeddings, over all values.
        spread: Their deviation.
        trained: The network.
    """

    def __init__(self, backbone: nn.Module, centre: float, spread: float, trained: nn.Module) -> None:
        super().__init__()
        self.backbone, self.centre, self.spread, self.trained = backbone, centre, spread, trained

    @override
    def forward(self, photographs: Tensor) -> Tensor:
        z = self.backbone(photographs)
        z = z.mean((2, 3)) if z.ndim == 4 else z
        outputs: Tensor = self.trained(((z - self.centre) / self.spread)[:, :, None, None])
        return outputs


class EmbeddedPhotographs(NamedTuple):
    """Embeddings of photographs as a data set of their own.

    Attributes:
        data: Embeddings of both parts, as images [D, 1, 1]; the training part's values have mean 0 and variance 1.
        backbone: Computes them, before they are scaled.
        centre: Mean of the values that were scaled.
        spread: Their deviation.
        seconds: Time that the training part's embedding took.
    """

    data: DataBundle
    backbone: nn.Module
    centre: float
    spread: float
    seconds: float

    def behind_backbone(self, trained: nn.Module) -> BehindBackbone:
        """Returns a network of these embeddings as a network of photographs."""
        return BehindBackbone(self.backbone, self.centre, self.spread, trained)

    def model_behind_backbone(self, model: PrototypeModel, sample: Tensor) -> PrototypeModel:
        """Returns a prototype model of these embeddings as one of photographs like a sample [2, 3, H, W]."""
        trained = model.encoder
        assert isinstance(trained, Encoder)
        head = "output" if trained.head_name is None else f"trained.{trained.head_name}"
        encoder = Encoder(self.behind_backbone(trained.model).eval(), sample, head=head)
        return PrototypeModel(encoder, model.prototypes, model.similarity, model.classifier)


def _two_of(data: DataBundle) -> Tensor:
    """Returns two training images [2, …], by which an encoder learns its shapes."""
    return torch.stack([data.train[i][0] for i in (0, 1)])


def embedded(name: str, seed: int) -> EmbeddedPhotographs:
    """Embeds both parts of the photographs by a frozen backbone."""
    loaded, data = prepared(name, seed)
    backbone = without_head(loaded)
    encoder = Encoder(backbone, _two_of(data), head="output")

    def embeddings_of(part: Any) -> EmbeddingStore:
        return embed(encoder, part, batch_size=32, precision="float32", progress=False)

    started = time.perf_counter()
    train_store = embeddings_of(data.train)
    seconds = time.perf_counter() - started
    stores = [train_store, embeddings_of(data.test)]
    z = np.asarray(stores[0].embeddings)
    centre, spread = z.mean(), z.std()  # reconstruction losses expect values of the size of normalised pixels

    def part(index: int) -> TensorDataset:
        scaled = torch.from_numpy((np.asarray(stores[index].embeddings) - centre) / spread).float()
        return TensorDataset(scaled[:, :, None, None], torch.from_numpy(np.asarray(stores[index].labels)).long())

    bundle = replace(data, train=part(0), test=part(1))
    return EmbeddedPhotographs(bundle, backbone, float(centre), float(spread), seconds)


for _name, _title, _run in (
    ("photographs-baselines", "Photographs: the baselines on frozen backbones", run_photographs_baselines),
    ("photographs-baseline-maps", "Photographs: heat-maps of the baselines", run_photographs_baseline_maps),
    ("photographs-runtime", "Photographs: training and prediction time of all models", run_photographs_runtime),
):
    EXPERIMENTS.register(_name)(Experiment(_title, "on photographs", _run, lacking=lacks_stamps))
