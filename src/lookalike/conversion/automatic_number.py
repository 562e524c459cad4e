"""The automatic number of clusters of a class, by the silhouette [ours]."""

from collections.abc import Iterable

import numpy as np
import torch

from lookalike._core import checks
from lookalike.conversion.clustering import CLUSTERERS, Array, cluster, count_distinct
from lookalike.embedding.silhouette import pairwise_distances, silhouettes_of_distances

_AUTO_SAMPLE = 2_000  # points; a silhouette compares all n² pairs of them
LEAST_PER_PROTOTYPE = 3  # images; a prototype of one or two images is these images, and not what they share [ours]
ENOUGH_FOR_AUTO = 200  # embeddings: a smaller sample hardly shows the number of clusters of a class
_CLOUDS_OF_FEW = 10  # clouds without clusters that so few embeddings are compared with
_MOST = 10  # clusters
_AUTO_MARGIN = 0.02  # silhouette that clusters must have above a cloud without clusters


def choose_n_clusters(points: Array, clusterer: str = "kmeans", *, seed: int = 0) -> int:
    """Chooses the number of clusters of a class by the silhouette [ours].

    Tries 2 to 10 clusters on up to 2,000 of the points and takes the number with the largest mean silhouette
    (Rousseeuw, 1987), of those numbers with at least three points in every cluster. The class gets one cluster unless
    that silhouette is at least 0.02 above that of Gaussian clouds of the same covariance: a cloud without clusters has
    a silhouette above zero too. From 200 points on there is one cloud, cut into the same number of clusters. Fewer
    points vary more by chance: there are ten clouds, and the best number of each counts.

    Args:
        points: The class's embeddings [n, D].
        clusterer: Name of a registered clusterer.
        seed: Seed; the same seed gives the same number.
    """
    points = checks.points("points", points)
    _ = CLUSTERERS[clusterer]
    rng = np.random.default_rng(checks.seed("seed", seed))
    if len(points) > _AUTO_SAMPLE:
        points = points[np.sort(rng.choice(len(points), _AUTO_SAMPLE, replace=False))]
    distinct = count_distinct(points, at_most=_MOST + 1)
    most = max(1, len(points) // LEAST_PER_PROTOTYPE)
    if distinct < 3 or most == 1:
        return min(distinct, most)
    # With centred points X [n, D] and a standard normal G [n, n], rows of G X / √n have the points' covariance XᵀX / n.
    centred = points - points.mean(0)
    numbers = range(2, min(_MOST, most, distinct - 1) + 1)
    scores = _silhouettes(points, numbers, clusterer, seed)
    if not scores:
        return 1
    best = max(scores, key=lambda k: scores[k])
    is_few = len(points) < ENOUGH_FOR_AUTO
    by_chance = -1.0
    for _ in range(_CLOUDS_OF_FEW if is_few else 1):
        cloud = (rng.standard_normal((len(points), len(points)), dtype=np.float32) @ centred) / np.sqrt(len(points))
        cloud_scores = _silhouettes(cloud.astype(points.dtype), numbers if is_few else [best], clusterer, seed)
        by_chance = max([by_chance, *cloud_scores.values()])
        if scores[best] < by_chance + _AUTO_MARGIN:
            return 1
    return best


def _silhouettes(points: Array, numbers: Iterable[int], clusterer: str, seed: int) -> dict[int, float]:
    """Returns the mean silhouette of points [n, D] in each number of clusters that leaves no cluster below three.

    A cluster of one or two images is these images, such as several pictures of one object: no new image is like it.
    """
    distances = pairwise_distances(torch.as_tensor(points))
    scores = {}
    for k in numbers:
        labels = cluster(points, k, clusterer, n_init=3, seed=seed).labels
        if labels.max() > 0 and np.bincount(labels).min() >= LEAST_PER_PROTOTYPE:
            scores[k] = float(silhouettes_of_distances(distances, labels, labels).mean())
    return scores
