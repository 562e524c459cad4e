"""Stability of prototypes under another seed, another training sample or a shifted image.

Co-12: consistency, continuity.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import keeps_torch_settings
from lookalike.conversion.per_class import Clustering, learn_prototypes
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, euclidean_distances

Change = Literal["seed", "bootstrap"]


class Likeness(NamedTuple):
    """How similar two sets of prototypes of the same classes are.

    Attributes:
        moved: Mean distance between matched prototypes, divided by the mean distance of a training sample to its
            nearest prototype, in [0, ∞); lower is better. The matching within a class has the least total distance.
            NaN if every sample is its own prototype.
        same_cluster: Adjusted Rand index between the two clusterings of a class's samples, averaged over classes; about
            0 by chance and at most 1; higher is better.
    """

    moved: float
    same_cluster: float


@dataclass(frozen=True)
class PrototypeStability:
    """How much prototypes change when they are clustered again, one value per repetition.

    Attributes:
        moved: See ``Likeness``.
        same_cluster: See ``Likeness``.
    """

    moved: tuple[float, ...]
    same_cluster: tuple[float, ...]


def prototype_likeness(first: Prototypes, second: Prototypes, embeddings: Any, labels: Any) -> Likeness:
    """Compares two sets of prototypes of the same classes [ours]. Co-12: consistency.

    Args:
        first: Prototypes; the distances of ``moved`` are relative to their spread.
        second: Prototypes to compare with; their number per class may differ.
        embeddings: Training embeddings [N, D], in the space in which the prototypes were clustered.
        labels: Classes of the training samples [N].
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score

    z = checks.tensor("embeddings", embeddings, ("N", "D"), kind="number")
    y = checks.class_indices("labels", labels, first.n_classes, (len(z),))
    distances, spreads, agreements = [], [], []
    for k in range(first.n_classes):
        a, b, members = first.vectors[first.labels == k], second.vectors[second.labels == k], z[y == k]
        if not len(members):  # nothing to agree on
            continue
        between = euclidean_distances(a, b)
        rows, columns = linear_sum_assignment(between.numpy())
        distances.append(between[rows, columns])
        to_a, to_b = euclidean_distances(members, a), euclidean_distances(members, b)
        spreads.append(to_a.min(1).values)
        agreements.append(adjusted_rand_score(to_a.argmin(1).numpy(), to_b.argmin(1).numpy()))
    return Likeness(float(torch.cat(distances).mean() / torch.cat(spreads).mean()), float(np.mean(agreements)))


def prototype_stability(
    model: PrototypeModel, embeddings: Any, labels: Any, change: Change = "seed", *, n_repeats: int = 3, seed: int = 0
) -> PrototypeStability:
    """Clusters again with another seed, or on a bootstrap sample, and compares with the model's prototypes [ours].

    Args:
        model: A model whose prototypes were clustered.
        embeddings: Training embeddings [N, D].
        labels: Their classes in the model's numbering [N].
        change: ``"seed"`` starts the clustering from other points (Co-12: consistency); ``"bootstrap"`` also resamples
            each class with replacement (Co-12: continuity).
        n_repeats: Number of repetitions.
        seed: Seed of the resampling and the new clusterings.

    Raises:
        LookalikeError: If the model's prototypes were not clustered, or a class has no samples.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.one_of("change", change, ("seed", "bootstrap"))
    n_repeats = checks.whole_number("n_repeats", n_repeats, 1)
    seed = checks.seed("seed", seed)
    z = checks.points("embeddings", embeddings)
    y = checks.class_indices("labels", labels, model.n_classes, (len(z),)).cpu().numpy()
    rng = np.random.default_rng(seed)
    original = _projected(model, model.prototypes)
    projected_embeddings = _similarity_on_cpu(model).project(torch.from_numpy(z).float())
    likenesses = []
    for _ in range(n_repeats):
        rows = np.arange(len(z)) if change == "seed" else _bootstrap(y, rng)
        clustered = cluster_again(model, z[rows], y[rows], seed=int(rng.integers(2**31)))
        likenesses.append(prototype_likeness(original, _projected(model, clustered), projected_embeddings, y))
    return PrototypeStability(*(tuple(values) for values in zip(*likenesses, strict=True)))


def cluster_again(model: PrototypeModel, embeddings: np.ndarray, labels: np.ndarray, *, seed: int) -> Prototypes:
    """Clusters embeddings again, with the model's clusterer and number of prototypes per class.

    Raises:
        LookalikeError: If the model's prototypes were trained, not clustered.
    """
    clusterer = model.provenance.get("clusterer")
    if clusterer is None:
        raise LookalikeError(
            f"the prototypes were made by {model.provenance.get('method', 'a method of their own')}, not by "
            "clustering; train the model again to measure their stability"
        )
    counts = model.prototypes.labels.bincount(minlength=model.n_classes).tolist()
    return learn_prototypes(
        embeddings,
        labels,
        model.class_names,
        _similarity_on_cpu(model),
        Clustering(dict(enumerate(counts)), clusterer, int(model.provenance.get("n_init", 10)), seed),
    )


@keeps_torch_settings
@torch.no_grad()
def shift_stability(similarities: Callable[[Tensor], Tensor], inputs: Tensor, *, pixels: int = 1) -> Tensor:
    """Returns the share [N] of four shifted copies of each image with the same most similar prototype [ours].

    In [0, 1]; higher is better. Co-12: continuity. Shifted copies repeat the pixels of the edge.

    Args:
        similarities: Maps inputs to similarities [n, P].
        inputs: Images [N, C, H, W].
        pixels: Number of pixels by which each image is shifted up, down, left and right.

    Raises:
        LookalikeError: If the shift is not smaller than the image.
    """
    checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
    if inputs.ndim != 4 or not len(inputs):
        raise LookalikeError(f"images have the shape [N, C, H, W], not {tuple(inputs.shape)}")
    pixels = checks.whole_number("pixels", pixels, 1, min(inputs.shape[2:]) - 1)
    nearest = similarities(inputs).argmax(1)
    height, width = inputs.shape[2:]
    padded = torch.nn.functional.pad(inputs, [pixels] * 4, mode="replicate")
    offsets = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
    same = [
        similarities(padded[:, :, top_edge : top_edge + height, left_edge : left_edge + width]).argmax(1) == nearest
        for top_edge, left_edge in offsets
    ]
    return torch.stack(same, 1).double().mean(1)


def mean_stability(stability: PrototypeStability) -> Likeness:
    """Returns the means over repetitions, without NaN values."""
    return Likeness(mean_of_finite(torch.tensor(stability.moved)), mean_of_finite(torch.tensor(stability.same_cluster)))


def _bootstrap(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws rows with replacement, class by class, keeping the number of samples per class."""
    groups = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    return np.concatenate([rng.choice(rows, len(rows)) for rows in groups])


def _projected(model: PrototypeModel, prototypes: Prototypes) -> Prototypes:
    """Projects prototypes into the space in which they were clustered; only vectors and labels are kept."""
    similarity = _similarity_on_cpu(model)
    return Prototypes(
        similarity.project(prototypes.vectors.cpu().float()), prototypes.labels.cpu(), prototypes.class_names
    )


def _similarity_on_cpu(model: PrototypeModel) -> Similarity:
    """Copies the model's similarity to the CPU; the model itself must not move."""
    return copy.deepcopy(model.similarity).cpu()
