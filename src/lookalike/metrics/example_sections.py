"""Stability of prototypes, and measures of examples, as optional sections of the scorecard."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike.metrics.context import Context
from lookalike.metrics.examples import identical_class, identical_subclass, mislabelled_detection, rank_agreement
from lookalike.metrics.maps import mean_of_finite
from lookalike.metrics.prototype_stability import (
    cluster_again,
    mean_stability,
    prototype_stability,
    shift_stability,
)
from lookalike.metrics.sections import Found
from lookalike.metrics.standard import embeddings_of_store, similarities_to, standard
from lookalike.model.prototypes import Prototypes

_MISLABELLED = 0.05  # share of the training samples


@standard("prototype_stability", "train", "images")
def _prototype_stability(context: Context, run: int) -> Found:
    z, y = _training(context)
    seed = context.options.random_state + run
    figures, details = {}, {}
    for name, change in (("reseeding", "seed"), ("bootstrap", "bootstrap")):
        found = prototype_stability(context.model, z, y, change, seed=seed)  # type: ignore[arg-type]
        means = mean_stability(found)
        figures[f"{name}_moved"], figures[f"{name}_same_cluster"] = means.moved, means.same_cluster
        details[name] = {"moved": list(found.moved), "same_cluster": list(found.same_cluster)}
    kept = shift_stability(_in_batches(context, context.similarities), context.images(run))
    figures["shift_same_prototype"] = float(kept.mean())
    return {name: value for name, value in figures.items() if np.isfinite(value)}, details


@standard("identical_class", "train", "images")
def _identical_class(context: Context, run: int) -> Found:
    """Whether the nearest prototype, and the nearest training image, have the predicted class."""
    z, y = _training(context)
    similarities = _in_batches(context, context.similarities)(context.images(run))
    predicted = context.model.classifier(similarities, context.model.prototypes.labels, context.model.n_classes)
    predicted = predicted.argmax(1).cpu()
    to_images = similarities_to(context, _query_embeddings(context, run), z)
    by_prototype = identical_class(similarities.cpu(), context.model.prototypes.labels.cpu(), predicted)
    by_image = identical_class(to_images, torch.from_numpy(y), predicted)
    figures = {
        "identical_class": float(by_prototype.double().mean()),
        "identical_class_images": float(by_image.double().mean()),
    }
    return figures, {}


@standard("identical_subclass", "train", "images")
def _identical_subclass(context: Context, run: int) -> Found:
    """Merges classes in pairs, clusters again, and asks whether the nearest prototype has the sample's own class."""
    model = context.model
    if model.n_classes < 3:
        raise LookalikeError("identical_subclass merges classes in pairs, and the model has fewer than three")
    z, y = _training(context)
    seed = context.options.random_state + run
    groups = torch.from_numpy(np.random.default_rng(seed).permutation(model.n_classes) // 2)
    merged = _cluster_merged(context, z, y, groups.numpy(), seed)
    vectors = merged.vectors.to(model.device)
    with torch.no_grad():
        own = model.similarity(torch.from_numpy(z).to(model.device), vectors).argmax(1).cpu().numpy()
        queries = model.similarity(_query_embeddings(context, run).to(model.device), vectors).cpu()
    votes = np.zeros((len(merged), model.n_classes), np.int64)
    np.add.at(votes, (own, y), 1)
    labels = context.labels[_rows_of_sample(context, run)]
    found = identical_subclass(queries, torch.from_numpy(votes.argmax(1)), labels)
    return {"identical_subclass": float(found.double().mean())}, {"groups": groups.tolist()}


@standard("model_randomisation", "images")
def _model_randomisation(context: Context, run: int) -> Found:
    """Compares likeness to the prototypes' images before and after the network's weights are drawn anew."""
    model, examples = context.model, context.model.prototype_inputs()
    if examples is None:
        raise LookalikeError("model_randomisation needs the prototypes' images, and the model holds none")
    x, size = context.images(run), context.options.batch_size
    random_network = randomised(model.encoder, context.options.random_state + run)
    tables = []
    with torch.no_grad():
        for encoder in (model.encoder, random_network):
            queries, shown = (
                torch.cat([encoder(part).float() for part in inputs.split(size)]) for inputs in (x, examples.to(x))
            )
            tables.append(model.similarity(queries, shown).cpu())
    found = rank_agreement(*tables)
    return {"model_randomisation": mean_of_finite(found)}, {"per_image": found.tolist()}


@standard("mislabelled_detection", "train")
def _mislabelled_detection(context: Context, run: int) -> Found:
    """Gives some training samples wrong labels, clusters again, and ranks samples by how they fit their label.

    Suspicion is the similarity to the nearest prototype of another class minus that to the nearest of its label's.
    """
    model = context.model
    z, y = _training(context)
    rng = np.random.default_rng([context.options.random_state, run])
    wrong = np.zeros(len(y), bool)
    wrong[rng.permutation(len(y))[: max(1, round(_MISLABELLED * len(y)))]] = True
    given = np.where(wrong, (y + rng.integers(1, max(2, model.n_classes), len(y))) % model.n_classes, y)
    if model.n_classes < 2:
        raise LookalikeError("mislabelled_detection needs two classes or more; the model has one")
    again = cluster_again(model, z, given, seed=context.options.random_state + run)
    with torch.no_grad():
        parts = [
            model.similarity(torch.from_numpy(z[start : start + 8192]).to(model.device), again.vectors.to(model.device))
            for start in range(0, len(z), 8192)
        ]
    similarities, own = torch.cat(parts).cpu(), again.labels[None] == torch.from_numpy(given)[:, None]
    suspicion = similarities.masked_fill(own, -torch.inf).amax(1) - similarities.masked_fill(~own, -torch.inf).amax(1)
    figures = {"mislabelled_detection": mislabelled_detection(suspicion, torch.from_numpy(wrong))}
    return figures, {"n_mislabelled": int(wrong.sum()), "share": _MISLABELLED}


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Returns a copy whose weights are normal with the mean and deviation of the originals, tensor by tensor [ours].

    Vectors, such as biases and the scales of normalisations, stay: drawn at random they can switch a network off.
    """
    drawn = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in drawn.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.copy_(noise * parameter.std(correction=0) + parameter.mean())
    return drawn


def _training(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training embeddings [N, D] and their classes [N]."""
    assert context.train_store is not None  # noqa: S101 - needed
    assert context.train_labels is not None  # noqa: S101
    return embeddings_of_store(context.train_store), context.train_labels.cpu().numpy()


def _rows_of_sample(context: Context, run: int) -> list[int]:
    """Returns where a run's test samples stand in the test store."""
    position = {int(index): row for row, index in enumerate(context.test_store.indices)}
    return [position[index] for index in context.sample(run)]


def _query_embeddings(context: Context, run: int) -> Tensor:
    """Returns the embeddings of a run's test samples [n, D]."""
    return torch.from_numpy(embeddings_of_store(context.test_store)[_rows_of_sample(context, run)])


def _in_batches(context: Context, measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    size = context.options.batch_size
    return lambda x: torch.cat([measure(part) for part in x.split(size)])


def _cluster_merged(context: Context, z: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Prototypes:
    """Clusters embeddings whose classes are merged into groups, with as many prototypes in all."""
    from lookalike.conversion.per_class import Clustering, learn_prototypes

    model = context.model
    clusterer = model.provenance.get("clusterer")
    if clusterer is None:
        raise LookalikeError("identical_subclass clusters again, and this model's prototypes were not clustered")
    counts = np.zeros(int(groups.max()) + 1, np.int64)
    np.add.at(counts, groups[model.prototypes.labels.cpu().numpy()], 1)
    return learn_prototypes(
        z,
        groups[y],
        [str(group) for group in range(len(counts))],
        copy.deepcopy(model.similarity).cpu(),
        Clustering({group: int(count) for group, count in enumerate(counts)}, clusterer, seed=seed),
    )
