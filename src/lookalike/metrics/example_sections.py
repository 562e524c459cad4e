"""Optional sections of the scorecard: stability of prototypes, and measures of examples as explanations."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core.draws import normal, seeded
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
from lookalike.metrics.sanity import deep_copy
from lookalike.metrics.sections import SectionResult
from lookalike.metrics.standard import embeddings_of_store, similarities_to, standard
from lookalike.model.prototypes import Prototypes

_ROWS = 8192  # embeddings per batch
_MISLABELLED = 0.05  # share of the training samples that get a wrong label [ours]


@standard("prototype_stability", "train", "images", "whole images", "clusters")
def _prototype_stability(context: Context, run: int) -> SectionResult:
    z, y = _training(context)
    seed = context.options.seed + run
    figures, details = {}, {}
    for name, change in (("reseeding", "seed"), ("bootstrap", "bootstrap")):
        stability = prototype_stability(context.model, z, y, change, seed=seed)  # type: ignore[arg-type]
        means = mean_stability(stability)
        figures[f"{name}_moved"], figures[f"{name}_same_cluster"] = means.moved, means.same_cluster
        details[name] = {"moved": list(stability.moved), "same_cluster": list(stability.same_cluster)}
    same_prototype = shift_stability(_in_batches(context, context.similarities), context.images(run))
    figures["shift_same_prototype"] = float(same_prototype.mean())
    return {name: value for name, value in figures.items() if np.isfinite(value)}, details


@standard("identical_class", "train", "images", "whole images")
def _identical_class(context: Context, run: int) -> SectionResult:
    """Asks whether the nearest prototype, and the nearest training image, have the predicted class."""
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


@standard("identical_subclass", "train", "images", "whole images", "clusters", "three classes")
def _identical_subclass(context: Context, run: int) -> SectionResult:
    """Merges classes in pairs, clusters again, and asks whether the nearest prototype has the sample's own class.

    The new prototypes only know pairs of classes; each one's own class is that of most training samples nearest to it.
    """
    model = context.model
    z, y = _training(context)
    seed = context.options.seed + run
    groups = torch.from_numpy(np.random.default_rng(seed).permutation(model.n_classes) // 2)
    merged = _cluster_merged(context, z, y, groups.numpy(), seed)
    vectors = merged.vectors.to(model.device)
    with torch.no_grad():
        nearest = model.similarity(torch.from_numpy(z).to(model.device), vectors).argmax(1).cpu().numpy()
        queries = model.similarity(_query_embeddings(context, run).to(model.device), vectors).cpu()
    votes = np.zeros((len(merged), model.n_classes), np.int64)
    np.add.at(votes, (nearest, y), 1)
    labels = context.labels[_rows_of_sample(context, run)]
    matches = identical_subclass(queries, torch.from_numpy(votes.argmax(1)), labels)
    return {"identical_subclass": float(matches.double().mean())}, {"groups": groups.tolist()}


@standard("model_randomisation", "images", "whole images", "prototype images")
def _model_randomisation(context: Context, run: int) -> SectionResult:
    """Compares similarities to the prototypes' images before and after the network's weights are randomised."""
    model, examples = context.model, context.model.prototype_inputs()
    if examples is None:
        raise LookalikeError("model_randomisation needs the prototypes' images, and they cannot be made inputs again")
    examples = examples[model.prototypes.have_image]
    x, size = context.images(run), context.options.batch_size
    random_network = randomised(model.encoder, context.options.seed + run)
    tables = []
    with torch.no_grad():
        for encoder in (model.encoder, random_network):
            queries, example_embeddings = (
                torch.cat([encoder(batch).float() for batch in inputs.split(size)]) for inputs in (x, examples.to(x))
            )
            tables.append(model.similarity(queries, example_embeddings).cpu())
    agreement = rank_agreement(*tables)
    return {"model_randomisation": mean_of_finite(agreement)}, {"per_image": agreement.tolist()}


@standard("mislabelled_detection", "train", "whole images", "clusters", "two classes")
def _mislabelled_detection(context: Context, run: int) -> SectionResult:
    """Gives some training samples wrong labels, clusters again, and ranks samples by suspicion.

    Suspicion is the similarity to the nearest prototype of another class minus the similarity to the nearest prototype
    of the sample's label.
    """
    model = context.model
    z, y = _training(context)
    rng = np.random.default_rng([context.options.seed, run])
    mislabelled = np.zeros(len(y), bool)
    mislabelled[rng.permutation(len(y))[: max(1, round(_MISLABELLED * len(y)))]] = True
    labels = np.where(mislabelled, (y + rng.integers(1, max(2, model.n_classes), len(y))) % model.n_classes, y)
    clustered = cluster_again(model, z, labels, seed=context.options.seed + run)
    with torch.no_grad():
        batches = [
            model.similarity(
                torch.from_numpy(z[start : start + _ROWS]).to(model.device), clustered.vectors.to(model.device)
            )
            for start in range(0, len(z), _ROWS)
        ]
    similarities, same_class = torch.cat(batches).cpu(), clustered.labels[None] == torch.from_numpy(labels)[:, None]
    suspicion = similarities.masked_fill(same_class, -torch.inf).amax(1) - similarities.masked_fill(
        ~same_class, -torch.inf
    ).amax(1)
    figures = {"mislabelled_detection": mislabelled_detection(suspicion, torch.from_numpy(mislabelled))}
    return figures, {"n_mislabelled": int(mislabelled.sum()), "share": _MISLABELLED}


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """Returns a copy with random weights: normal, with the mean and deviation of each original weight tensor [ours].

    Vectors, such as biases and the scales of normalisation layers, stay as they are: random ones can set all
    activations to zero.
    """
    randomised_network = deep_copy(network)
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in randomised_network.parameters():
            if parameter.ndim > 1:
                noise = normal(parameter.shape, generator).to(parameter)
                parameter.copy_(noise * parameter.std(correction=0) + parameter.mean())
    return randomised_network


def _training(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training embeddings [N, D] and their classes [N]."""
    assert context.train_store is not None  # needed
    assert context.train_labels is not None
    return embeddings_of_store(context.train_store), context.train_labels.cpu().numpy()


def _rows_of_sample(context: Context, run: int) -> list[int]:
    """Returns the rows of a run's test samples in the test store."""
    position = {int(index): row for row, index in enumerate(context.test_store.indices)}
    return [position[index] for index in context.sample(run)]


def _query_embeddings(context: Context, run: int) -> Tensor:
    """Returns the embeddings of a run's test samples [n, D]."""
    return torch.from_numpy(embeddings_of_store(context.test_store)[_rows_of_sample(context, run)])


def _in_batches(context: Context, measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Makes a function of inputs run in batches."""
    size = context.options.batch_size
    return lambda x: torch.cat([measure(batch) for batch in x.split(size)])


def _cluster_merged(context: Context, z: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Prototypes:
    """Clusters embeddings whose classes are merged into groups, into the same total number of prototypes."""
    from lookalike.conversion.per_class import Clustering, learn_prototypes

    model = context.model
    clusterer = model.provenance["clusterer"]
    counts = np.zeros(int(groups.max()) + 1, np.int64)
    np.add.at(counts, groups[model.prototypes.labels.cpu().numpy()], 1)
    return learn_prototypes(
        z,
        groups[y],
        [str(group) for group in range(len(counts))],
        copy.deepcopy(model.similarity).cpu(),
        Clustering({group: int(count) for group, count in enumerate(counts)}, clusterer, seed=seed),
    )
