"""Questions that the paper leaves open: how many prototypes, and what of unequal classes?"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lookalike.baselines import train
from lookalike.data import Batches, DataBundle, ImageArray
from lookalike.encoder import LoadedClassifier
from lookalike.errors import LookalikeError
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, named
from lookalike.experiments.side_by_side import ACCURACY, AGREEMENT, GHOSTING
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.variants import Converter, draw_against_numbers
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.kmex import KMEx
from lookalike.metrics import evaluate
from lookalike.prototypes import Prototypes
from lookalike.similarity import euclidean_distances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERS: tuple[int | str, ...] = (1, 2, 3, 5, 8, 12, 20, 35, 50, "auto")
_RESEEDED = 1000  # added to the seed
_RATIOS = (1, 2, 10, 100)
_PER_CLASS = 5

_HOW_MANY = (
    ACCURACY,
    AGREEMENT,
    Column("moved", "moved by reseeding"),
    Column("same_cluster", "same cluster (ARI)"),
    Column("attributes_captured", "captured attributes", 1, 1),
    Column("n_prototypes", "prototypes", 1, 1),
)


def run_how_many(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures accuracy, stability and attributes against the number of prototypes per class."""
    rows = []
    for dataset, network in plan.places():
        found: dict[str, list[Record]] = {}
        for subject in plan.subjects(dataset, network, KMEX):
            converter = Converter(bench, subject)
            for number in _NUMBERS:
                name = f"how-many-{number}-{subject.name}"
                record = cells.get(name, bench.key(subject, number=number), _stability, converter, number)
                if record is not None:
                    found.setdefault(str(number), []).append(record)
        for label, records in found.items():
            rows.append(Row((*named(dataset, network), label), gather(records, _HOW_MANY)))
    remarks = [
        "*moved by reseeding*: distance between prototypes of two seeds, matched within their class, over the distance "
        "of a training sample to its prototype; *same cluster*: adjusted Rand index of the two clusterings, the mean "
        "over classes."
    ]
    return Findings(("data", "network", "per class"), _HOW_MANY, rows, {}, remarks)


def _stability(converter: Converter, number: int | str) -> Record:
    converter.bench.say(f"converting {converter.subject.name} twice with {number} per class")
    first = converter.convert(n_prototypes=number)
    second = converter.convert(n_prototypes=number, seed=converter.subject.seed + _RESEEDED)
    _, train_store, _ = converter.embedded()
    data = converter.bench.data(converter.subject)
    sections = ["faithfulness", *(["attributes"] if data.attributes is not None else [])]
    card = converter.evaluate(first, sections)
    z, y = torch.from_numpy(np.asarray(train_store.embeddings)), torch.from_numpy(np.asarray(train_store.labels))
    moved, same = stability(first.prototypes, second.prototypes, z, y)
    return {
        **{name: card[name] for name in card.runs},
        "moved": moved,
        "same_cluster": same,
        "n_prototypes": float(len(first.prototypes)),
    }


def stability(first: Prototypes, second: Prototypes, embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """Compares two sets of prototypes of the same classes.

    Args:
        first: Some prototypes.
        second: As many for each class, or not.
        embeddings: Of the training samples [N, D].
        labels: Their classes [N].

    Returns:
        The mean distance between prototypes, matched within their class at the least total distance, over the mean
        distance of a sample to its nearest prototype of the first set; and the mean over classes of the adjusted Rand
        index between the clusterings that the two sets make of a class's samples.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score

    distances, spreads, agreements = [], [], []
    for k in range(first.n_classes):
        a, b, z = first.vectors[first.labels == k], second.vectors[second.labels == k], embeddings[labels == k]
        between = euclidean_distances(a, b)
        rows, columns = linear_sum_assignment(between.numpy())
        distances.append(between[rows, columns])
        to_a, to_b = euclidean_distances(z, a), euclidean_distances(z, b)
        spreads.append(to_a.min(1).values)
        agreements.append(adjusted_rand_score(to_a.argmin(1).numpy(), to_b.argmin(1).numpy()))
    return float(torch.cat(distances).mean() / torch.cat(spreads).mean()), float(np.mean(agreements))


def draw_how_many(found: Findings) -> "Figure":
    """Draws the figures against the number of prototypes per class."""
    return draw_against_numbers(found, _HOW_MANY[:-1], 2)


_IMBALANCE = (
    ACCURACY,
    Column("rare", "rarest third %", 100, 1),
    Column("common", "commonest third %", 100, 1),
    GHOSTING,
    Column("n_prototypes", "prototypes", 1, 0),
)


def run_imbalance(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Thins the training classes, trains a black box on what is left, and converts it in three ways."""
    rows: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for dataset, network in plan.places():
        for subject in plan.subjects(dataset, network, KMEX):
            for ratio in _RATIOS:
                name, key = f"imbalance-{ratio}-{subject.name}", bench.key(subject, ratio=ratio)
                record = cells.get(name, key, _thinned_results, bench, subject, ratio)
                for model, figures in (record or {}).items():
                    row = rows.setdefault((*named(dataset, network), f"1:{ratio}", model), {})
                    for name, value in figures.items():
                        row.setdefault(name, []).append(value)
    remark = (
        "Class k of K keeps a share r^(−k / (K − 1)) of its training images, so that the last has 1/r of the "
        "first's; the test images stay. In proportion: 5 per class on average, each "
        "class by its number of images, at least one."
    )
    heads = ("data", "network", "imbalance", "model")
    return Findings(heads, _IMBALANCE, [Row(names, values) for names, values in rows.items()], {}, [remark])


def thinned(data: DataBundle, ratio: int, seed: int) -> DataBundle:
    """Returns the data with fewer training images from class to class; the last has 1/ratio of what it had.

    Raises:
        LookalikeError: If the training images are not held in memory.
    """
    part = data.train
    if not isinstance(part, ImageArray):
        raise LookalikeError(f"{data.name!r} is read from files; the imbalance experiment takes data held in memory")
    rng, kept = np.random.default_rng(seed), []
    n_classes = len(data.class_names)
    for k in range(n_classes):
        rows = rng.permutation(np.flatnonzero(part.labels == k))
        share = ratio ** (-k / max(1, n_classes - 1))
        kept.append(rows[: max(1, round(share * len(rows)))])
    chosen = np.sort(np.concatenate(kept))
    images = ImageArray(part.images[chosen], part.labels[chosen], part.classes, part.transform)
    return DataBundle(data.name, images, data.test, data.class_names, data.preprocessing, data.notes)


def in_proportion(labels: np.ndarray, class_names: list[str], per_class: int = _PER_CLASS) -> dict[str, int]:
    """Returns numbers of prototypes in proportion to the classes' samples, ``per_class`` on average, at least one."""
    counts = np.bincount(labels, minlength=len(class_names))
    wanted = np.maximum(1, np.round(per_class * len(class_names) * counts / counts.sum())).astype(int)
    return dict(zip(class_names, wanted.tolist(), strict=True))


def _thinned_results(bench: Workbench, subject: Subject, ratio: int) -> Record:
    bench.say(f"training {subject.name} on classes thinned to 1:{ratio}")
    data, given = thinned(bench.data(subject), ratio, subject.seed), bench.given("blackbox", subject.network)
    made = train("blackbox", data, options=given, seed=subject.seed, accelerator="cpu", progress=bench.progress)
    box = made.model
    assert isinstance(box, LoadedClassifier)  # noqa: S101 - narrows the type
    labels: Any = data.train.labels  # type: ignore[attr-defined]
    numbers: dict[str, Any] = {
        "5 per class": _PER_CLASS,
        "in proportion": in_proportion(labels, data.class_names),
        "auto": "auto",
    }
    found: Record = {}
    for label, number in numbers.items():
        model = KMEx(box, number, random_state=subject.seed, progress=bench.progress).fit(Batches(data.train))
        card = evaluate(
            model, data.test, train=data.train, only=("faithfulness", "transparency"), progress=bench.progress
        )
        per_class = card.details["faithfulness"][0]["per_class"]
        third = max(1, len(per_class) // 3)
        for title, key in (("black box", "black_box_accuracy"), (f"KMEx, {label}", "accuracy")):
            found[title] = {
                "accuracy": card[key],
                "rare": float(np.mean([one[key]["value"] for one in per_class[-third:]])),
                "common": float(np.mean([one[key]["value"] for one in per_class[:third]])),
            }
        found[f"KMEx, {label}"] |= {"ghosting": card["ghosting"], "n_prototypes": float(len(model.prototypes))}
    return found


EXPERIMENTS.register("how-many")(Experiment("How many prototypes?", "open question", run_how_many, draw_how_many))
EXPERIMENTS.register("imbalance")(Experiment("Unequal classes", "open question", run_imbalance))
