"""Nonsense in arguments is refused by the project's own error, which names argument, value and what it can be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lookalike import Encoder, LookalikeError, PrototypeClassifier, convert, embed, evaluate, explain
from lookalike.baselines import hyperparameters, train
from lookalike.conversion.automatic_number import choose_n_clusters
from lookalike.conversion.clustering import cluster
from lookalike.data import Augmentation, Batches, ImageArray, Preprocessing, find_images, load_data, load_folder
from lookalike.metrics import (
    ExplanationDivergence,
    FaithfulnessOfPredictions,
    Ghosting,
    Noise,
    Options,
    RelevanceOrdering,
    accuracy,
    activation_counts,
    attribute_representation,
    compare,
    deletion,
    diversity,
    explanation_divergence,
    faithfulness_of_predictions,
    ghosting,
    increase_and_drop,
    insertion,
    relevance_ordering,
    relevance_shares,
    separability,
    share,
)
from lookalike.model import Mahalanobis, Origin, PrototypeModel, Prototypes
from lookalike.model.classifier import LinearHead, NearestPrototype
from lookalike.model.similarity import RBF, Log, make_similarity
from lookalike.networks import small_cnn
from lookalike.plots import plot_activations, plot_heat_map, plot_map, plot_ordering, plot_radar, project_2d
from lookalike.relevance import AlphaBeta, Composite, Epsilon, Gamma, lrp, prp

NONSENSE: list[Any] = [
    None, "x", "", -1, 0, 2.5, float("nan"), True, [], {}, object(), np.zeros((0, 3)),
    torch.zeros(2, 2, dtype=torch.cfloat),
]  # fmt: skip


@pytest.fixture
def sem(net, blobs):
    return convert(net, blobs, n_prototypes=2)


TABLE = [
    (lambda m, x, y: lrp(m.encoder.model, x[:2], output="x"), "the model has no .*output 'x'"),
    (
        lambda m, x, y: lrp(m.encoder.model, x[:2], batch_size=0),
        "batch_size must be .* at least 1, not 0",
    ),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], "ant"), "target must be a tensor of whole numbers, not 'ant'"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], 1.5), "target must be a tensor of whole numbers"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], True), "target must be a tensor of whole numbers"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], -1), "target -1 is no class"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], 3), "target 3 is no class"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], strict="no"), "strict must be True or False, not 'no'"),
    (lambda m, x, y: lrp(m.encoder.model, x[:2], composite=None), "no composite is called None"),
    (lambda m, x, y: lrp(m.encoder.model, torch.rand(2, 3, 8, 8)), r"cannot run inputs of shape \(3, 8, 8\)"),
    (lambda m, x, y: prp(m, x[:2], 1.5), "prototypes must be a tensor of whole numbers"),
    (lambda m, x, y: prp(m, x[:2], [6]), "there are prototypes 0 to 5"),
    (lambda m, x, y: prp(m, x[:2], []), "prototypes must not be empty"),
    (lambda m, x, y: prp(m, x[:2], [[0], [1], [2]]), "2 images and prototypes for 3"),
    (lambda m, x, y: prp(m.encoder.model, x[:2]), "model must be a PrototypeModel, not a Sequential"),
    (lambda m, x, y: explain(m, x[:2], labels=[0, 3]), "labels 3 is no class; there are 0 to 2"),
    (lambda m, x, y: explain(m, x[:2], batch_size=0), "batch_size must be a whole number of at least 1"),
    (lambda m, x, y: m.predict(torch.rand(2, 3, 8, 8)), r"cannot run inputs of shape \(3, 8, 8\)"),
    (lambda m, x, y: m.predict(x[:2], batch_size=2.0), "batch_size must be a whole number of at least 1, not 2.0"),
    (lambda m, x, y: m.scores_of(torch.rand(2, 5)), r"embeddings must be a tensor \[N, 24\]"),
    (lambda m, x, y: evaluate(m, (x, y), scope="x"), "scope must be 'class' or 'all', not 'x'"),
    (lambda m, x, y: evaluate(m, (x, y), seed=-1), "seed must be a whole number from 0 to 4294967295"),
    (lambda m, x, y: evaluate(m, (x, y), composite="x"), "no composite is called 'x'"),
    (lambda m, x, y: convert(m.encoder.model, (x, y), n_init=0), "n_init must be a whole number of at least 1, not 0"),
    (
        lambda m, x, y: convert(m.encoder.model, (x, y), nearest_from="clas"),
        "nearest_from must be 'class' or 'any', not 'clas'",
    ),
    (
        lambda m, x, y: convert(m, (x, y), n_prototypes=True),
        "n_prototypes must be a whole number of at least 1",
    ),
    (lambda m, x, y: convert(m.encoder.model, (x, y), similarity_options={"sigma": 1}), "does not take"),
    (lambda m, x, y: cluster(np.ones((3, 2)), 2, seed=-1), "seed must be a whole number from 0 to 4294967295, not -1"),
    (lambda m, x, y: cluster(np.full((3, 2), np.nan), 2), "points must be finite"),
    (lambda m, x, y: RBF(float("nan")), "sigma must be a number above 0, not nan"),
    (lambda m, x, y: Options(scope=["class"]), "scope must be 'class' or 'all'"),
    (lambda m, x, y: Batches((x, y), num_workers=-1), "num_workers must be a whole number of at least 0, not -1"),
    (lambda m, x, y: plot_heat_map(np.zeros((2, 2)), ax="here"), "ax must be Axes of matplotlib, not 'here'"),
]


@pytest.mark.parametrize(("call", "message"), TABLE, ids=[str(number) for number in range(len(TABLE))])
def test_nonsense_is_told_in_one_line(sem, blobs, call, message):
    with pytest.raises(LookalikeError, match=message) as raised:
        call(sem, *blobs)
    assert "\n" not in str(raised.value)


def _with_origin(sem: PrototypeModel) -> Callable[..., PrototypeModel]:
    """Returns a function that makes a model which remembers these values."""

    def with_origin(**values: Any) -> PrototypeModel:
        return PrototypeModel(sem.encoder, sem.prototypes, sem.similarity, sem.classifier, origin=Origin(**values))

    return with_origin


def good_calls(
    sem: PrototypeModel, x: torch.Tensor, y: torch.Tensor, folder: Any
) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Returns functions, with arguments that they take; each argument is replaced by nonsense in turn."""
    net, images = sem.encoder.model, x[:2]
    maps, labels, prototypes = torch.rand(2, 8, 8), y[:2], sem.prototypes
    noise = Noise(torch.zeros(1), torch.ones(1), 1)
    pixels = np.zeros((4, 8, 8), dtype=np.uint8)
    grey = Preprocessing.square(8, mean=(0.5,), std=(0.5,))
    names = ["a", "b", "c"]
    return [
        (
            lrp,
            {
                "model": net,
                "x": images,
                "target": 0,
                "composite": "epsilon",
                "of": "score",
                "output": None,
                "batch_size": 2,
                "strict": False,
            },
        ),
        (
            prp,
            {
                "model": sem,
                "x": images,
                "prototypes": [0],
                "composite": "epsilon",
                "rule": "share",
                "batch_size": 2,
                "strict": False,
            },
        ),
        (
            explain,
            {
                "model": sem,
                "inputs": images,
                "n_nearest": 1,
                "labels": [0, 1],
                "names": ["a", "b"],
                "relevance": False,
                "composite": "epsilon",
                "batch_size": 2,
            },
        ),
        (
            embed,
            {
                "model": net,
                "data": (images, labels),
                "batch_size": 2,
                "num_workers": 0,
                "folder": None,
                "resume": False,
                "overwrite": False,
                "precision": "float32",
                "dtype": "float32",
                "on_error": "stop",
                "head": "6",
                "progress": False,
            },
        ),
        (Encoder, {"model": net, "sample": images, "head": "6", "output": None}),
        (
            convert,
            {
                "model": net,
                "train": (images, labels),
                "n_prototypes": 2,
                "similarity": "l2",
                "similarity_options": None,
                "clusterer": "kmeans",
                "probabilities": "max",
                "n_init": 1,
                "n_nearest": 1,
                "n_images": 1,
                "nearest_from": "class",
                "head": None,
                "output": None,
                "batch_size": 2,
                "num_workers": 0,
                "on_error": "stop",
                "precision": "float32",
                "memory_limit": None,
                "seed": 0,
                "progress": False,
            },
        ),
        (sem.predict, {"inputs": images, "batch_size": 2}),
        (sem.predict_proba, {"inputs": images, "batch_size": 2}),
        (sem.similarities, {"inputs": images, "batch_size": 2}),
        (sem.scores_of, {"embeddings": torch.rand(2, 24)}),
        (sem.prototype_inputs, {"rank": 0}),
        (compare, {"model": sem, "data": (images, labels), "batch_size": 2}),
        (
            Options,
            {
                "n_images": 1,
                "n_runs": 1,
                "n_steps": 1,
                "n_draws": 1,
                "seed": 0,
                "composite": "epsilon",
                "scope": "class",
                "precision": "float32",
                "batch_size": 1,
            },
        ),
        (
            evaluate,
            {
                "model": sem,
                "test": (images, labels),
                "only": ("diversity",),
                "n_images": 1,
                "n_steps": 1,
                "n_draws": 1,
                "scope": "class",
                "precision": "float32",
                "batch_size": 2,
                "progress": False,
            },
        ),
        (Batches, {"data": (images, labels), "batch_size": 2, "num_workers": 0, "on_error": "stop"}),
        (
            PrototypeModel,
            {
                "encoder": sem.encoder,
                "prototypes": prototypes,
                "similarity": sem.similarity,
                "classifier": sem.classifier,
                "origin": None,
            },
        ),
        (
            _with_origin(sem),
            {
                "images": None,
                "value_range": None,
                "provenance": {},
                "training_keys": None,
                "training_names": None,
            },
        ),
        (Prototypes, {"vectors": torch.rand(3, 4), "labels": torch.arange(3), "class_names": names}),
        (
            cluster,
            {
                "points": np.random.default_rng(0).random((6, 2)),
                "n_clusters": 2,
                "clusterer": "kmeans",
                "n_init": 1,
                "seed": 0,
            },
        ),
        (
            choose_n_clusters,
            {
                "points": np.random.default_rng(0).random((6, 2)),
                "clusterer": "kmeans",
                "seed": 0,
            },
        ),
        (make_similarity, {"similarity": "l2", "options": None}),
        (Log, {"epsilon": 0.1}),
        (RBF, {"sigma": 1.0}),
        (Mahalanobis, {"shrinkage": 0.1, "max_samples": 10}),
        (NearestPrototype, {"reading": "max"}),
        (LinearHead, {"weight": torch.rand(3, 4), "bias": None}),
        (LinearHead.from_labels, {"labels": torch.arange(3), "n_classes": 3, "own": 1.0, "other": -0.5}),
        (Epsilon, {"epsilon": 0.1}),
        (Gamma, {"gamma": 0.1}),
        (AlphaBeta, {"alpha": 1.0, "beta": 0.0}),
        (Composite, {"name": "mine", "rules": {"linear": Epsilon()}, "first": None}),
        (Noise, {"low": torch.zeros(1), "high": torch.ones(1), "draws": 1, "seed": 0}),
        (
            relevance_ordering,
            {
                "score": sem.predict_proba,
                "inputs": images,
                "relevance": maps,
                "noise": noise,
                "samples": [0, 1],
                "n_steps": 1,
                "batch_size": 2,
            },
        ),
        (
            increase_and_drop,
            {
                "activation": sem.similarities,
                "inputs": images,
                "relevance": maps,
                "noise": noise,
                "targets": [0, 1],
                "samples": [0, 1],
                "keep": 0.5,
                "batch_size": 2,
            },
        ),
        (RelevanceOrdering, {"n_steps": 2}),
        (Ghosting, {"prototype_labels": torch.arange(3), "scope": "class"}),
        (FaithfulnessOfPredictions, {"n_classes": 3, "black_box": True}),
        (ExplanationDivergence, {"direction": "model", "magnitude": "absolute", "floor": 1e-12}),
        (
            explanation_divergence,
            {
                "maps": maps,
                "black_box_maps": maps,
                "direction": "model",
                "magnitude": "absolute",
                "floor": 1e-12,
            },
        ),
        (relevance_shares, {"maps": maps, "magnitude": "absolute", "floor": 1e-12}),
        (
            activation_counts,
            {
                "similarities": torch.rand(2, 3),
                "labels": labels,
                "prototype_labels": torch.arange(3),
                "scope": "class",
            },
        ),
        (ghosting, {"counts": torch.arange(3)}),
        (
            diversity,
            {
                "similarities": torch.rand(3, 3),
                "prototype_labels": torch.arange(3),
                "within": "all",
            },
        ),
        (accuracy, {"predictions": labels, "labels": labels}),
        (share, {"successes": 1, "n": 2}),
        (faithfulness_of_predictions, {"predictions": labels, "labels": labels, "black_box": labels, "n_classes": 3}),
        (attribute_representation, {"train_attributes": torch.ones(3, 2), "nearest": torch.arange(2)}),
        (
            separability,
            {
                "embeddings": np.random.default_rng(0).random((6, 2)),
                "labels": [0, 0, 0, 1, 1, 1],
                "prototypes": torch.rand(2, 2),
                "prototype_labels": torch.arange(2),
                "per_class": 3,
                "seed": 0,
            },
        ),
        (Preprocessing, {"resize": 8, "crop": (8, 8), "mean": (0.5,), "std": (0.5,), "interpolation": "bilinear"}),
        (Augmentation, {"preprocessing": grey, "padding": 1, "flip": 0.5}),
        (ImageArray, {"images": pixels, "labels": np.zeros(4, dtype=int), "classes": ["a"], "transform": grey}),
        (load_folder, {"root": folder, "preprocessing": grey, "seed": 0}),
        (find_images, {"paths": [folder]}),
        (load_data, {"source": str(folder), "preprocessing": grey, "seed": 0}),
        (hyperparameters, {"method": "flint", "dataset": "digits", "preset": "paper", "given": None}),
        (train, {"method": "no such", "data": None, "seed": 0, "num_workers": 0, "options": None}),
        (small_cnn, {"n_classes": 2, "channels": 1, "width": 2}),
        (plot_heat_map, {"relevance": np.ones((2, 2)), "image": None, "limit": 1.0, "ax": None}),
        (plot_radar, {"models": {"a": {"b": 0.5}}}),
        (
            plot_ordering,
            {
                "fractions": [0, 1],
                "curves": {"a": [1, 0]},
                "references": None,
            },
        ),
        (plot_activations, {"counts": [1, 2], "labels": [0, 1], "class_names": names}),
        (
            plot_map,
            {
                "points": np.ones((2, 2)),
                "labels": [0, 1],
                "prototypes": np.ones((1, 2)),
                "prototype_labels": [0],
                "class_names": names,
            },
        ),
        (
            project_2d,
            {
                "embeddings": np.random.default_rng(0).random((6, 3)),
                "prototypes": np.ones((1, 3)),
                "method": "pca",
                "seed": 0,
            },
        ),
    ]


@pytest.mark.filterwarnings("ignore")
def test_no_nonsense_reaches_torch(sem, blobs, image_folder, tmp_path, monkeypatch):
    """Whatever is put in place of an argument is taken, or refused by the project's error."""
    monkeypatch.chdir(tmp_path)  # a folder named "x" is written
    torch.manual_seed(0)
    escaped = []
    for function, good in good_calls(sem, *blobs, image_folder):
        for name in good:
            for value in NONSENSE:
                try:
                    function(**good | {name: value})
                except LookalikeError:
                    continue
                except Exception as error:
                    escaped.append(f"{function.__name__}({name}={value!r}): {type(error).__name__}: {str(error)[:80]}")
    assert not escaped, "\n".join(escaped)


def test_the_estimator_keeps_the_contract_of_its_own_library():
    for options in (
        {"n_init": 0},
        {"random_state": -1},
        {"n_prototypes": "many"},
        {"clusterer": 5},
        {"similarity": None},
    ):
        with pytest.raises(ValueError, match=next(iter(options)).replace("clusterer", "clusterer|no ")):
            PrototypeClassifier(**options).fit(np.eye(4), [0, 0, 1, 1])


def test_whole_numbers_of_numpy_do_as_those_of_python_do(net, blobs, tmp_path):
    x, _ = blobs
    n, seed = np.int64, np.uint8(1)
    options = {"n_prototypes": n(2), "n_init": n(1), "n_images": n(1), "n_nearest": n(2), "batch_size": n(16)}
    sem = convert(net, blobs, seed=seed, **options)
    plain = convert(net, blobs, n_prototypes=2, n_init=1, seed=1, n_images=1, n_nearest=2, batch_size=16)
    assert torch.equal(sem.prototypes.vectors, plain.prototypes.vectors)
    sem.save(tmp_path / "model")  # its record is JSON
    card = evaluate(
        sem, blobs, train=blobs, n_images=n(4), n_runs=n(1), n_steps=n(2), n_draws=n(1), seed=seed, batch_size=n(16)
    )
    card.save(tmp_path / "card.json")
    assert explain(sem, x[:3], n_nearest=n(1), batch_size=n(2))
    assert len(embed(net, blobs, batch_size=n(16), num_workers=n(0))) == len(x)
    relevance, noise = np.ones((3, 8, 8), np.float32), Noise(torch.zeros(1), torch.ones(1), n(2), seed)
    options = {"batch_size": n(2)}
    assert len(lrp(net, x[:3], **options).maps) == len(prp(sem, x[:3], **options).maps) == 3
    found = increase_and_drop(net, x[:3], relevance, noise, np.zeros(3, np.int64), **options)
    assert found.increase >= 0
    maps = torch.from_numpy(relevance)
    for measure in (deletion, insertion):
        assert len(measure(net, x[:3], maps, n_steps=n(2), seed=seed, **options).probabilities) == 3
    curves = relevance_ordering(net, x[:3], maps, noise, n_steps=n(2), **options)
    assert curves.probabilities.shape[1] == 3
