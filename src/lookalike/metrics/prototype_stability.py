"""Whether prototypes stay when the seed, the training sample or the image changes a little.

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
from lookalike.conversion.per_class import Clustering, learn_prototypes
from lookalike.metrics.maps import mean_of_finite
from lookalike.model import PrototypeModel
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, euclidean_distances

Change = Literal["seed", "bootstrap"]


class Likeness(NamedTuple):
    """How alike two sets of prototypes of the same classes are.

    Attributes:
        moved: Mean distance between prototypes that are matched within their class at the least total distance, over
            the mean distance of a training sample to its nearest prototype, in [0, ∞); lower is better. NaN where every
            sample is its own prototype.
        same_cluster: Mean over classes of the adjusted Rand index between the two clusterings of a class's samples,
            about 0 by chance and at most 1; higher is better.
    """

    moved: float
    same_cluster: float


@dataclass(frozen=True)
class PrototypeStability:
    """How far prototypes change when they are clustered again, one value per repetition.

    Attributes:
        moved: See ``Likeness``.
        same_cluster: See ``Likeness``.
    """

    moved: tuple[float, ...]
    same_cluster: tuple[float, ...]


def prototype_likeness(first: Prototypes, second: Prototypes, embeddings: Any, labels: Any) -> Likeness:
    """Compares two sets of prototypes of the same classes [ours]. Co-12: consistency.

    Args:
        first: Some prototypes.
        second: As many for each class, or not.
        embeddings: Of the training samples [N, D], in the space in which the prototypes were clustered.
        labels: Their classes [N].
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score

    z = checks.tensor("embeddings", embeddings, ("N", "D"), kind="number")
    y = checks.class_indices("labels", labels, first.n_classes, (len(z),))
    distances, spreads, agreements = [], [], []
    for k in range(first.n_classes):
        a, b, members = first.vectors[first.labels == k], second.vectors[second.labels == k], z[y == k]
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
        embeddings: Of the training samples [N, D].
        labels: Their classes in the model's numbering [N].
        change: ``"seed"`` starts the clustering from other points (Co-12: consistency); ``"bootstrap"`` also draws each
            class's samples anew, with replacement (Co-12: continuity).
        n_repeats: How often.
        seed: For the draws and the new clusterings.

    Raises:
        LookalikeError: If the model's prototypes were not clustered, or a class has no samples.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    checks.one_of("change", change, ("seed", "bootstrap"))
    checks.whole_number("n_repeats", n_repeats, 1)
    checks.seed("seed", seed)
    z = checks.points("embeddings", embeddings)
    y = checks.class_indices("labels", labels, model.n_classes, (len(z),)).cpu().numpy()
    rng = np.random.default_rng(seed)
    first = _projected(model, model.prototypes)
    space = _on_cpu(model).project(torch.from_numpy(z).float())
    found = []
    for _ in range(n_repeats):
        rows = np.arange(len(z)) if change == "seed" else _bootstrap(y, rng)
        again = cluster_again(model, z[rows], y[rows], seed=int(rng.integers(2**31)))
        found.append(prototype_likeness(first, _projected(model, again), space, y))
    return PrototypeStability(*(tuple(values) for values in zip(*found, strict=True)))


def cluster_again(model: PrototypeModel, embeddings: np.ndarray, labels: np.ndarray, *, seed: int) -> Prototypes:
    """Clusters embeddings as the model's prototypes were clustered, as many per class.

    Raises:
        LookalikeError: If they were not clustered, but trained.
    """
    clusterer = model.provenance.get("clusterer")
    if clusterer is None:
        raise LookalikeError(
            f"the prototypes were made by {model.provenance.get('method', 'a method of their own')}, not by "
            "clustering; train the model again to see whether they stay"
        )
    counts = model.prototypes.labels.bincount(minlength=model.n_classes).tolist()
    return learn_prototypes(
        embeddings,
        labels,
        model.class_names,
        _on_cpu(model),
        Clustering(dict(enumerate(counts)), clusterer, int(model.provenance.get("n_init", 10)), seed),
    )


@torch.no_grad()
def shift_stability(similarities: Callable[[Tensor], Tensor], inputs: Tensor, *, pixels: int = 1) -> Tensor:
    """Returns the share of the four shifts of each image after which the most similar prototype is the same [ours].

    Of shape [N], in [0, 1]; higher is better. Co-12: continuity. The edge's pixels are repeated where the image ends.

    Args:
        similarities: Maps inputs to similarities [n, P].
        inputs: Images [N, C, H, W].
        pixels: How far each image is shifted, up, down, left and right.

    Raises:
        LookalikeError: If the shift is not smaller than the image.
    """
    checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
    if inputs.ndim != 4 or not len(inputs):
        raise LookalikeError(f"images have the shape [N, C, H, W], not {tuple(inputs.shape)}")
    checks.whole_number("pixels", pixels, 1, min(inputs.shape[2:]) - 1)
    nearest = similarities(inputs).argmax(1)
    height, width = inputs.shape[2:]
    padded = torch.nn.functional.pad(inputs, [pixels] * 4, mode="replicate")
    corners = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
    same = [
        similarities(padded[:, :, top : top + height, left : left + width]).argmax(1) == nearest
        for top, left in corners
    ]
    return torch.stack(same, 1).double().mean(1)


def mean_stability(found: PrototypeStability) -> Likeness:
    """Returns the means over repetitions; values that are no numbers are left out."""
    return Likeness(mean_of_finite(torch.tensor(found.moved)), mean_of_finite(torch.tensor(found.same_cluster)))


def _bootstrap(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns rows drawn with replacement, as many of each class as there are."""
    groups = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    return np.concatenate([rng.choice(rows, len(rows)) for rows in groups])


def _projected(model: PrototypeModel, prototypes: Prototypes) -> Prototypes:
    """Returns prototypes in the space in which they were clustered, without what was surveyed."""
    similarity = _on_cpu(model)
    return Prototypes(
        similarity.project(prototypes.vectors.cpu().float()), prototypes.labels.cpu(), prototypes.class_names
    )


def _on_cpu(model: PrototypeModel) -> Similarity:
    """Returns a copy of the model's similarity, as the model itself must not move."""
    return copy.deepcopy(model.similarity).cpu()
