"""The paper's framework on photographs: black boxes with six outputs on pretrained backbones [ours].

The backbone is frozen and a linear head is fitted to the embeddings of the training photographs; or the whole network
is then trained a few epochs more. Either is a black box with the photographs' classes, which its KMEx is compared with.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from lookalike.conversion.convert import convert
from lookalike.data import Batches, DataBundle
from lookalike.embedding import as_encoder, embed
from lookalike.encoder import LoadedClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.photographs import ENCODERS, lacks_stamps, of_seeds, prepared
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import Workbench
from lookalike.metrics import BlackBox, evaluate

# similarity, number per class
_VARIANTS: tuple[tuple[str, int], ...] = (
    ("l2", 1), ("l2", 3), ("l2", 5), ("cosine", 3), ("dot", 3), ("rbf", 3), ("mahalanobis", 3),
)  # fmt: skip
_MAPPED = ("l2", 3)  # the variant whose heat-maps are measured
_IMAGES, _STEPS, _DRAWS = 10, 10, 2  # a pass at 224 pixels is too slow on a CPU for the paper's numbers
_EPOCHS, _BATCH, _RATE = 3, 16, 1e-3
_PLAIN = (
    Column("black_box_accuracy", "black box %", 100, 1),
    Column("accuracy", "KMEx %", 100, 1),
    Column("agreement", "agreement %", 100, 1),
    Column("ghosting", "D_tsp"),
    Column("diversity", "D_dvs"),
)
_MAPS = (
    Column("explanation_divergence", "D_fth"),
    Column("explanation_divergence_mismatched", "between different images"),
    Column("explanation_correlation", "correlation of heat-maps"),
    Column("auroc", "AUROC"),
    Column("auroc_black_box", "black box's"),
    Column("auroc_random", "in random order"),
)


class WithHead(nn.Module):
    """A backbone, its feature maps averaged if it returns maps, and a linear head.

    Args:
        backbone: Returns embeddings [N, D] or feature maps [N, D, h, w].
        head: The head.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    @override
    def forward(self, x: Tensor) -> Tensor:
        z = self.backbone(x)
        scores: Tensor = self.head(z.mean((2, 3)) if z.ndim == 4 else z)
        return scores


def run_photographs_models(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures accuracy, agreement, ghosting and diversity of conversions with several similarities and numbers."""
    rows = []
    for name in ENCODERS:
        for similarity, number in _VARIANTS:
            records = _of_seeds("models", name, plan, bench, cells, _measure_models)
            figures = [record[f"{similarity}, {number}"] for record in records]
            if figures:
                rows.append(Row((name, similarity, str(number)), gather(figures, _PLAIN)))
    remarks = [
        "The backbone is frozen; a logistic regression on the training photographs is its head. One split into about "
        "105 and 26 photographs per seed. D_dvs is at the fitted temperature."
    ]
    return Findings(("backbone", "similarity", "per class"), _PLAIN, rows, {}, remarks)


def run_photographs_maps(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the heat-maps of KMEx and of its black box."""
    return _run_maps("maps", _measure_maps, plan, bench, cells)


def run_photographs_tuned(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures the same after a short fine-tuning of the whole network."""
    return _run_maps("tuned", _measure_tuned, plan, bench, cells)


def _run_maps(
    topic: str, measure: Callable[[str, int], Record], plan: Plan, bench: Workbench, cells: Cells
) -> Findings:
    columns = (*_PLAIN, *_MAPS)
    rows = [
        Row((name,), gather(records, columns))
        for name in ENCODERS
        if (records := _of_seeds(topic, name, plan, bench, cells, measure))
    ]
    remarks = [
        f"KMEx by `{_MAPPED[0]}`, {_MAPPED[1]} per class; {_IMAGES} test photographs, relevance-ordering curves of "
        f"{_STEPS} steps and {_DRAWS} draws, where the other pages have 100, 20 and 5. Default rules."
    ]
    return Findings(("backbone",), columns, rows, {}, remarks)


def _of_seeds(
    topic: str, name: str, plan: Plan, bench: Workbench, cells: Cells, measure: Callable[[str, int], Record]
) -> list[Record]:
    """Returns a measurement with a backbone for each seed; those that failed are left out."""
    settings = {"backbone": name, "variants": _VARIANTS, "training": [_EPOCHS, _RATE], "shrinkage": 2}
    return of_seeds(f"photographs-{topic}", name, settings, plan, bench, cells, measure)


def _measure_models(name: str, seed: int) -> Record:
    box, data = black_box(name, seed)
    measured_box, batches = BlackBox.of(box, Batches(data.test)), Batches(data.train)
    encoder = as_encoder(box, batches)
    train, test = (embed(encoder, part, progress=False) for part in (batches, data.test))
    sections = ("faithfulness", "transparency", "diversity")
    record = {}
    for similarity, number in _VARIANTS:
        model = convert(encoder, batches, number, similarity, seed=seed, embeddings=train, progress=False)
        card = evaluate(
            model, data.test, black_box=measured_box, train=train, test_embeddings=test, only=sections, seed=seed,
            noise="mersenne", progress=False,
        )  # fmt: skip
        record[f"{similarity}, {number}"] = {column.name: card.to_dict().get(column.name) for column in _PLAIN}
    return record


def _measure_maps(name: str, seed: int) -> Record:
    return _measure_box(*black_box(name, seed), seed)


def _measure_tuned(name: str, seed: int) -> Record:
    box, data = black_box(name, seed)
    return _measure_box(fine_tune(box, data, seed), data, seed)


def _measure_box(box: nn.Module, data: DataBundle, seed: int) -> Record:
    similarity, number = _MAPPED
    model = convert(box, data.train, number, similarity, seed=seed, progress=False)
    card = evaluate(
        model, data.test, black_box=box, train=data.train, seed=seed, progress=False,
        only=("faithfulness", "transparency", "diversity", "robustness", "explanations"),
        n_images=_IMAGES, n_steps=_STEPS, n_draws=_DRAWS, noise="mersenne",
    ).to_dict()  # fmt: skip
    return {column.name: card.get(column.name) for column in (*_PLAIN, *_MAPS)}


def black_box(name: str, seed: int) -> tuple[WithHead, DataBundle]:
    """Returns a frozen backbone with a head fitted to the training photographs, and the photographs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    loaded, data = prepared(name, seed)
    backbone = without_head(loaded)
    x = torch.stack([data.train[i][0] for i in range(len(data.train))])
    labels = np.array([int(data.train[i][1]) for i in range(len(data.train))])
    with torch.no_grad():
        z = torch.cat([backbone(batch) for batch in x.split(_BATCH)])
    z = z.mean((2, 3)) if z.ndim == 4 else z
    scaler = StandardScaler().fit(z.numpy())
    fitted = LogisticRegression(max_iter=1_000, random_state=seed).fit(scaler.transform(z.numpy()), labels)
    weight = fitted.coef_ / scaler.scale_  # the scaling is folded into the head
    bias = fitted.intercept_ - weight @ scaler.mean_
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()})
    return WithHead(backbone, head).eval(), data


def without_head(loaded: LoadedClassifier) -> nn.Module:
    """Returns a network up to its embedding: timm's without their classifier, any other as it is."""
    if hasattr(loaded.model, "reset_classifier"):
        loaded.model.reset_classifier(0)  # type: ignore[operator]
    return loaded.model.eval()


def fine_tune(box: WithHead, data: DataBundle, seed: int) -> WithHead:
    """Trains a whole black box for a few epochs with SGD; its batch statistics stay those of ImageNet."""
    rng = np.random.default_rng([seed, 0xF7])
    optimiser = torch.optim.SGD(box.parameters(), lr=_RATE, momentum=0.9)
    for _ in range(_EPOCHS):
        for rows in np.array_split(rng.permutation(len(data.train)), max(1, len(data.train) // _BATCH)):
            x = torch.stack([data.train[int(row)][0] for row in rows])
            labels = torch.tensor([int(data.train[int(row)][1]) for row in rows])
            optimiser.zero_grad()
            nn.functional.cross_entropy(box(x), labels).backward()
            optimiser.step()
    return box.eval()


for _name, _title, _run in (
    ("photographs-models", "Photographs: accuracy, transparency, diversity beside a black box", run_photographs_models),
    ("photographs-maps", "Photographs: heat-maps beside a black box's", run_photographs_maps),
    ("photographs-tuned", "Photographs: a fine-tuned black box", run_photographs_tuned),
):
    EXPERIMENTS.register(_name)(Experiment(_title, "on photographs", _run, lacking=lacks_stamps))
