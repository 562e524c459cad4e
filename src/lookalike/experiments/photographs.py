"""Prototypes of photographs, from pretrained encoders without any training [ours].

Six classes of the stamps, in five folds that keep the pictures of one object together: prototypes against logistic
regression, 1-NN and the nearest class mean on the same embedding; and whether their heat-maps lie on the objects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from lookalike.conversion.advice import choose_similarity
from lookalike.conversion.convert import convert
from lookalike.conversion.per_class import Clustering
from lookalike.data import DataBundle, MaskedFiles, load_stamps
from lookalike.data.stamps import FOLDERS, object_of
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder, LoadedClassifier
from lookalike.encoder.packaged import load_efficientnet_lite0, load_mobilenet_v2
from lookalike.estimator import PrototypeClassifier
from lookalike.experiments.cells import Cells, Record
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan
from lookalike.experiments.tables import Column, Row, gather
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.metrics import evaluate, paired_difference, plain_predictions

CLASSES = ["bird", "bovine", "flower", "fruit", "tool", "vegetable"]  # those with at least twelve pictures
ENCODERS: dict[str, Callable[[], LoadedClassifier]] = {
    "EfficientNet-Lite0": load_efficientnet_lite0,
    "MobileNetV2": load_mobilenet_v2,
}
_FOLDS = 5
Choices = tuple[tuple[str, int | str], ...]  # similarity, number per class
_PROTOTYPES: Choices = (
    ("l2", 1), ("l2", 2), ("l2", 3), ("l2", 5), ("l2", "auto"), ("mahalanobis", 1), ("mahalanobis", 3),
    ("auto", 5), ("auto", "auto"),
)  # fmt: skip
FIGURES = (
    Column("accuracy", "accuracy %", 100, 1),
    Column("difference", "minus logistic regression, points", 100, 1),
    Column("low", "95% from", 100, 1),
    Column("high", "to", 100, 1),
)
_ON_OBJECTS = (
    Column("pointing_game", "pointing game %", 100, 1),
    Column("relevance_mass", "relevance on the object %", 100, 1),
    Column("relevance_rank", "most relevant pixels on the object %", 100, 1),
    Column("object_share", "by chance %", 100, 1),
    Column("accuracy", "accuracy %", 100, 1),
)


def run_photographs(
    plan: Plan, bench: Workbench, cells: Cells, classes: Sequence[str] = CLASSES, topic: str = "photographs"
) -> Findings:
    """Compares classifiers on the embeddings of two encoders, in five folds, for each seed."""
    rows = []
    for name in ENCODERS:
        records = of_seeds(topic, name, _settings(name), plan, bench, cells, partial(_compare, classes=tuple(classes)))
        for method in records[0] if records else ():
            values = {column.name: [record[method][column.name] for record in records] for column in FIGURES}
            rows.append(Row((name, method), values))
    remarks = [
        f"Classes: {', '.join(classes)}; five folds, drawn anew for each seed; pictures of one object "
        "(the first word of the file's name) are always in the same fold. Nothing is trained. *Prototypes*: similarity "
        "and number per class; `auto` chooses on the other four folds. The interval is that of the paired difference "
        "over all pictures, averaged over seeds.",
        "The pictures are photographs from Debian's package `tuxpaint-stamps-default`, cut out and laid on white.",
    ]
    return Findings(("encoder", "classifier on the embedding"), FIGURES, rows, {}, remarks)


def run_all_photographs(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Compares the same classifiers on all ten classes."""
    return run_photographs(plan, bench, cells, sorted(FOLDERS), "photographs-ten")


def run_photographs_objects(plan: Plan, bench: Workbench, cells: Cells) -> Findings:
    """Measures how much of PRP's relevance is on the objects, for two encoders."""
    rows = []
    for name in ENCODERS:
        records = of_seeds("photographs-objects", name, _settings(name), plan, bench, cells, _localise)
        if records:
            values = {column.name: [record[column.name] for record in records] for column in _ON_OBJECTS}
            rows.append(Row((name,), values))
    remarks = [
        "PRP maps of the most similar prototype, three prototypes per class, on the test pictures of the data set's "
        "own split, one split per seed. *By chance*: the object's share of the picture, which a map unrelated to it "
        "reaches in all three. The objects lie on white: photographs with a background are not measured here."
    ]
    return Findings(("encoder",), _ON_OBJECTS, rows, {}, remarks)


def _settings(name: str) -> dict[str, Any]:
    # auto 2: chosen by several divisions; 3: by log loss, and with a shrinkage by leaving out
    return {"encoder": name, "prototypes": _PROTOTYPES, "folds": _FOLDS, "auto": 3}


def of_seeds(
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    plan: Plan,
    bench: Workbench,
    cells: Cells,
    measure: Callable[[str, int], Record],
) -> list[Record]:
    """Returns a measurement with an encoder for each seed; those that failed are left out.

    Args:
        experiment: The experiment, by which records are kept.
        name: The encoder's name.
        settings: What else a record depends on.
        plan: The data and the seeds.
        bench: Says what is measured.
        cells: Keeps the records.
        measure: Measures one record, given the encoder's name and the seed.
    """
    records = []
    for seed in plan.seeds:
        subject = Subject(plan.datasets[0], plan.networks[0], KMEX, seed)
        key = {"data": bench.key(subject)["data"], "seed": seed, "classes": CLASSES, **settings}
        bench.say(f"{experiment}: {name}, seed {seed}")
        records.append(cells.get(f"{experiment}-{name}-{seed}", key, measure, name, seed))
    return [record for record in records if record is not None]


def rows_by_backbone(
    experiment: str,
    settings: Mapping[str, Any],
    columns: Sequence[Column],
    plan: Plan,
    bench: Workbench,
    cells: Cells,
    measure: Callable[[str, int], Record],
) -> list[Row]:
    """Measures with each backbone and seed. Returns a row for each backbone and entry of its records.

    Args:
        experiment: The experiment, by which records are kept.
        settings: What else a record depends on.
        columns: The figures of a row.
        plan: The data and the seeds.
        bench: Says what is measured.
        cells: Keeps the records.
        measure: Measures one record, which holds figures by entry, given the backbone's name and the seed.
    """
    rows = []
    for name in ENCODERS:
        records = of_seeds(experiment, name, {"backbone": name, **settings}, plan, bench, cells, measure)
        rows += [
            Row((name, entry), gather([record[entry] for record in records], columns))
            for entry in (records[0] if records else ())
        ]
    return rows


def encoder_of_whole_pictures(name: str) -> LoadedClassifier:
    """Loads an encoder whose images are each fitted whole into its input."""
    loaded = ENCODERS[name]()
    assert loaded.preprocessing is not None  # both have one
    whole = replace(loaded.preprocessing, resize=(224, 224), crop=(224, 224), fit="contain", fill=(255,), window=None)
    return replace(loaded, preprocessing=whole)


def prepared(name: str, seed: int, classes: Sequence[str] = CLASSES) -> tuple[LoadedClassifier, DataBundle]:
    """Loads an encoder, and the stamps as it takes images, each fitted whole into its input."""
    loaded = encoder_of_whole_pictures(name)
    return loaded, load_stamps(loaded.preprocessing, seed=seed, classes=list(classes))


def _compare(name: str, seed: int, classes: tuple[str, ...]) -> Record:
    """Predicts each picture by all classifiers, each fitted to the other folds."""
    from sklearn.model_selection import StratifiedGroupKFold

    files, store = _embedded(name, classes)
    z, labels = np.asarray(store.embeddings), np.asarray(store.labels)
    objects = [f"{label} {object_of(file)}" for file, label in zip(files.files, labels, strict=True)]
    predicted: dict[str, np.ndarray] = {}
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(z, labels, objects)
    for train, test in folds:
        for method, values in predict_by_all(z[train], labels[train], z[test], _PROTOTYPES, seed).items():
            predicted.setdefault(method, np.zeros_like(labels))[test] = values
    reference = predicted["logistic regression"] == labels
    return {method: compare_with(reference, values == labels) for method, values in predicted.items()}


def predict_by_all(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, prototypes: Choices, seed: int
) -> dict[str, np.ndarray]:
    """Predicts embeddings by plain classifiers and by prototypes, fitted to others.

    Args:
        train: The others [N, D].
        labels: Their classes [N].
        test: The embeddings [M, D].
        prototypes: Similarity and number per class.
        seed: Seed of the clustering.

    Returns:
        Classes [M] by the classifier's name in tables.
    """
    plain = plain_predictions(train, labels, test, seed=seed)
    predicted = {
        "logistic regression": plain["logistic_regression"],
        "1-NN": plain["nearest_neighbour"],
        "nearest mean": plain["nearest_mean"],
    }
    for similarity, number in prototypes:
        predicted[f"prototypes, {similarity}, {number}"] = predict_by_prototypes(
            train, labels, test, similarity, number, seed
        )
    return predicted


def predict_by_prototypes(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, similarity: str, number: Any, seed: int
) -> np.ndarray:
    """Predicts embeddings by prototypes of others; the similarity ``"auto"`` is chosen on these others."""
    if similarity == "auto":
        names = [str(k) for k in range(labels.max() + 1)]
        store = EmbeddingStore(train, labels, np.arange(len(labels)))
        similarity = choose_similarity(store, names, None, Clustering(number, seed=seed))
    classifier = PrototypeClassifier(number, similarity=similarity, temperature=1.0, random_state=seed)
    predicted: np.ndarray = classifier.fit(train, labels).predict(test)
    return predicted


def compare_with(reference: np.ndarray, correct: np.ndarray) -> Record:
    """Returns an accuracy, and its difference from a reference on the same images with its 95% interval.

    Args:
        reference: Whether the reference is right, by image [N].
        correct: Whether the classifier is right [N].
    """
    only, only_reference = int((correct & ~reference).sum()), int((~correct & reference).sum())
    difference = paired_difference(only, only_reference, len(correct))
    return {
        "accuracy": float(correct.mean()),
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
    }


def _localise(name: str, seed: int) -> Record:
    """Converts on the training part, and measures where relevance is on the test part."""
    loaded, bundle = prepared(name, seed)
    model = convert(loaded, bundle.train, n_prototypes=3, seed=seed, progress=False)
    card = evaluate(
        model, bundle.test, only=("faithfulness", "localisation"), seed=seed, noise="mersenne", progress=False
    )
    return {column.name: card[column.name] for column in _ON_OBJECTS}


@cache  # the embeddings are the same for all seeds
def _embedded(name: str, classes: tuple[str, ...]) -> tuple[MaskedFiles, EmbeddingStore]:
    """Embeds all pictures of the classes, of both parts, by an encoder."""
    loaded, bundle = prepared(name, 0, classes)
    assert isinstance(bundle.train, MaskedFiles)  # of load_stamps
    assert isinstance(bundle.test, MaskedFiles)
    files = bundle.train.joined(bundle.test)
    sample = torch.stack([files[0][0], files[1][0]])
    encoder = Encoder(loaded.model, sample, head=loaded.head, spec=loaded.spec)
    return files, embed(encoder, files, batch_size=32, precision="float32", progress=False)


def lacks_stamps(bundle: DataBundle) -> str | None:
    """Returns why the experiments on photographs cannot use other data; None for the stamps."""
    return None if bundle.name == "stamps" else f"photographs are measured on 'stamps', not on {bundle.name!r}"


EXPERIMENTS.register("photographs")(
    Experiment(
        "Photographs, pretrained encoders, no training", "beyond the paper", run_photographs, lacking=lacks_stamps
    )
)
EXPERIMENTS.register("photographs-ten")(
    Experiment(
        "The same on all ten classes of the stamps", "beyond the paper", run_all_photographs, lacking=lacks_stamps
    )
)
EXPERIMENTS.register("photographs-objects")(
    Experiment("Is relevance on the object?", "beyond the paper", run_photographs_objects, lacking=lacks_stamps)
)
