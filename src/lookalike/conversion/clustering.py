"""Clustering the embeddings of one class into prototypes.

``cluster`` is the one entry point to a registry of clusterers. Whatever the clusterer, the same seed gives the same
result, no cluster is empty, and no array of size N×N is formed.

Sources: paper section 3.2 (k-means per class, k-means++, larger data) and appendix A.6.3 (bisecting k-means,
k-medoids, Gaussian mixtures).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.errors import warn_of
from lookalike._core.registry import Registry

Array = np.ndarray

_ROWS = 4_096  # rows summed in single precision, before their sum is added to a total in double precision
_OVERSAMPLING = 8  # seedings drawn per requested start
_EXPLORED = 2_048  # points on which k-means chooses among its starts, or
_EXPLORED_PER_CLUSTER = 256  # points per cluster, if that is more
_FINALISTS = 5  # starts that continue on all points, where only a sample was explored
_TOLERANCE = 1e-4  # k-means from several starts stops when no inertia improves by more than this share
_CELLS = 8_000_000  # points × centres compared at a time: 32 MB of float32
_MEDOID_CANDIDATES = 512  # bounds a medoid's search to 512 × n distances; it is exact for clusters of up to 512
_SMALL, _LARGE = 2.0**-32, 2.0**32  # outside, squared distances come near the limits of single precision


_device: ContextVar[torch.device | None] = ContextVar("device", default=None)  # None is the CPU


@contextmanager
def clustering_on(device: torch.device) -> Iterator[None]:
    """Runs the k-means iterations inside the ``with`` block on a CUDA device; any other device means the CPU.

    Seedings are drawn on the CPU, and the last means are computed there. In between, each device rounds in its own way:
    the same seed gives the same clusters on one device, and equally good ones on another.
    """
    token = _device.set(device if device.type == "cuda" else None)  # others lack double precision
    try:
        yield
    finally:
        _device.reset(token)


class Clusterer(Protocol):
    """Finds the centres of clusters."""

    def __call__(self, points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
        """Clusters points.

        Args:
            points: [n, D], finite, with at least ``n_clusters`` distinct rows.
            n_clusters: k, at least 2.
            n_init: Number of random starts, of which the best counts; ignored by clusterers without random starts.
            seed: Seed; the same seed gives the same centres.

        Returns:
            Centres [k, D].
        """


CLUSTERERS: Registry[Clusterer] = Registry("clusterer")


@dataclass(frozen=True)
class Clusters:
    """The clusters of one class.

    Attributes:
        centres: [k, D].
        labels: Index of the nearest centre of each point [n]; each centre has at least one point.
        inertia: Sum of the points' squared distances to their nearest centres.
    """

    centres: Array
    labels: Array
    inertia: float


def cluster(points: Array, n_clusters: int, clusterer: str = "kmeans", *, n_init: int = 10, seed: int = 0) -> Clusters:
    """Clusters the rows of an array.

    Args:
        points: [n, D], finite.
        n_clusters: Number of clusters; the result has fewer if fewer points differ by more than rounding.
        clusterer: Name of a registered clusterer.
        n_init: Number of random starts, of which the best counts.
        seed: Seed. The same seed gives the same clusters, bit for bit.

    Returns:
        The clusters, none of them empty.

    Raises:
        LookalikeError: If the clusterer is unknown, there are no points, or ``n_clusters`` is below 1.

    Example:
        >>> clusters = cluster(np.array([[0.0], [0.2], [5.0], [5.2]]), 2)
        >>> sorted(clusters.centres.ravel().tolist())
        [0.1, 5.1]
    """
    find_centres = CLUSTERERS[clusterer]
    n_clusters = checks.whole_number("n_clusters", n_clusters, 1)
    n_init, seed = checks.whole_number("n_init", n_init, 1), checks.seed("seed", seed)
    points = checks.points("points", points)
    if not points.flags.writeable:
        points = points.copy()  # a read-only array cannot be shared with torch
    points, exponent = _rescaled(points)
    n_clusters = min(n_clusters, count_distinct(points, at_most=n_clusters))
    if n_clusters == 1:
        # The only cluster's centre is the mean of all points, except for k-medoids: a medoid is always a point.
        centres = _medoid(points)[None] if clusterer == "kmedoids" else points.mean(0, keepdims=True)
    else:
        centres = find_centres(points, n_clusters, n_init=n_init, seed=seed)
    centres, labels, squares = _fill_empty_clusters(points, np.asarray(centres, dtype=points.dtype))
    inertia = squares.sum(dtype=np.float64)
    if exponent:
        centres, inertia = np.ldexp(centres, exponent), np.ldexp(inertia, 2 * exponent)
    return Clusters(centres, labels, float(inertia))


def _rescaled(points: Array) -> tuple[Array, int]:
    """Divides points by a power of two, so that their squared distances neither overflow nor vanish.

    Dividing by a power of two is exact, so every clusterer finds the same clusters. Points of ordinary size are
    returned unchanged.

    Returns:
        The points and the exponent; 0 if they are unchanged.
    """
    largest = float(np.abs(points).max())
    if largest == 0 or _SMALL <= largest <= _LARGE:
        return points, 0
    exponent = int(np.frexp(largest)[1])
    return np.ldexp(points, -exponent), exponent


def count_distinct(points: Array, at_most: int) -> int:
    """Counts distinct rows, and stops at ``at_most``.

    Example:
        >>> count_distinct(np.zeros((1000, 3)), at_most=5)
        1
    """
    distinct_rows: set[bytes] = set()
    for row in points:
        # -0.0 equals 0.0 and has other bytes; adding 0.0 turns it into 0.0
        distinct_rows.add(np.ascontiguousarray(row + 0.0).tobytes())
        if len(distinct_rows) >= at_most:
            break
    return len(distinct_rows)


def assign(points: Array | Tensor, centres: Array) -> tuple[Array, Array]:
    """Returns the index of each point's nearest centre [n], and the squared distance to it [n].

    The nearest centre c minimises ‖x − c‖² = ‖x‖² − 2(x·c − ½‖c‖²): it maximises x·c − ½‖c‖², which is one matrix
    product. The centres' mean is subtracted from both sides, because a common offset would cost digits. Points that
    are a tensor are compared on its device.
    """
    x = points if isinstance(points, Tensor) else torch.from_numpy(points)
    c = torch.from_numpy(centres).to(x.device)
    offset = c.mean(0)
    c = c - offset
    half_norms = 0.5 * c.square().sum(1)
    labels, squares = [], []
    for chunk in x.split(max(1, _CELLS // max(len(c), x.shape[1]))):
        rows = chunk - offset
        closeness, nearest = torch.addmm(half_norms, rows, c.T, beta=-1).max(1)
        labels.append(nearest)
        squares.append((rows.square().sum(1) - 2 * closeness).clamp_min(0))
    return torch.cat(labels).cpu().numpy(), torch.cat(squares).cpu().numpy()


@CLUSTERERS.register("kmeans")
def kmeans(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """K-means (Lloyd) from greedy k-means++ seedings; all starts run together, as matrix products.

    Each step keeps the starts of lowest inertia:

        few points:   8 · n_init seedings → 5 iterations → the best n_init until they settle → the best one
        many points:  8 · n_init seedings of a sample → the best n_init for 5 iterations on the sample
                      → the best 5 until they settle, on all points → the best one

    "Few" means up to 2,048 points, or 256 per cluster if that is more; a sample has that size. The last start then runs
    to its fixed point, where every centre is the mean of its points.
    """
    rng = np.random.default_rng(seed)
    single = np.ascontiguousarray(points, dtype=np.float32)
    explored = max(_EXPLORED, _EXPLORED_PER_CLUSTER * n_clusters)
    n_starts, n_finalists, sample = _OVERSAMPLING * n_init, n_init, single
    if len(single) > explored:
        subsample = single[np.sort(rng.choice(len(single), explored, replace=False))]
        if count_distinct(subsample, at_most=n_clusters) == n_clusters:  # otherwise nearly all points coincide
            n_starts, n_finalists, sample = n_init, _FINALISTS, subsample
    seedings = _seed_greedily(sample, n_clusters, _OVERSAMPLING * n_init, rng)[:n_starts]
    starts, inertias = _lloyd_together(sample, sample[seedings], max_iter=5)
    finalists = starts[np.argsort(inertias, kind="stable")[:n_finalists]]

    def settle(device: torch.device | None) -> Array:
        settled, inertias = _lloyd_together(single, finalists, max_iter=100, device=device)
        return _lloyd(points, settled[inertias.argmin()].astype(points.dtype), device)

    try:
        return settle(_device.get())
    except torch.OutOfMemoryError:
        warn_of(f"{len(points):,} embeddings do not fit into the memory of {_device.get()}: clustering on the CPU")
    return settle(None)


@CLUSTERERS.register("faiss")
def faiss_kmeans(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """K-means by faiss, with its k-means++ seedings; the best run continues to its fixed point."""
    import faiss

    options: dict[str, Any] = {"niter": 100, "nredo": n_init, "seed": int(seed % 2**31), "min_points_per_centroid": 1}
    if hasattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS"):
        options |= {"init_method": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS, "early_stop_threshold": 1e-4}
    single = np.ascontiguousarray(points, dtype=np.float32)
    model: Any = faiss.Kmeans(single.shape[1], n_clusters, max_points_per_centroid=len(single), **options)
    model.train(single)
    return _lloyd(points, np.asarray(model.centroids, dtype=points.dtype))


@CLUSTERERS.register("minibatch")
def minibatch(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """Mini-batch k-means (scikit-learn), for classes with very many samples."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(n_clusters, n_init=n_init, batch_size=4096, random_state=seed)
    return np.asarray(model.fit(points).cluster_centers_)


@CLUSTERERS.register("bisecting")
def bisecting(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """Bisecting k-means (scikit-learn): splits the largest cluster in two until there are enough."""
    from sklearn.cluster import BisectingKMeans

    model = BisectingKMeans(n_clusters, n_init=n_init, random_state=seed)
    return np.asarray(model.fit(points).cluster_centers_)


@CLUSTERERS.register("kmedoids")
def kmedoids(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """K-medoids by alternation (Park and Jun, 2009): every prototype is the embedding of a training sample.

    A cluster's medoid is the member with the smallest sum of distances to all members. The 512 members nearest to the
    cluster's mean are its candidates, which in clusters of up to 512 are all members.
    """
    rng = np.random.default_rng(seed)
    best_cost, best = np.inf, points[:n_clusters]
    for seeding in _seed_greedily(points, n_clusters, _OVERSAMPLING * n_init, rng)[:n_init]:
        medoids: Array = points[seeding]
        labels, squares = assign(points, medoids)
        cost = float(np.sqrt(squares).sum(dtype=np.float64))
        while True:
            members = [points[labels == j] for j in range(n_clusters)]
            moved = np.stack([_medoid(m) if len(m) else medoids[j] for j, m in enumerate(members)])
            labels, squares = assign(points, moved)
            moved_cost = float(np.sqrt(squares).sum(dtype=np.float64))
            if not moved_cost < cost * (1 - 1e-6):
                break
            medoids, cost = moved, moved_cost
        if cost < best_cost:
            best_cost, best = cost, medoids
    return best


@CLUSTERERS.register("gmm")
def gmm(points: Array, n_clusters: int, *, n_init: int, seed: int) -> Array:
    """Means of a Gaussian mixture with diagonal covariances (scikit-learn), started from the k-means centres."""
    from sklearn.mixture import GaussianMixture

    points = points.astype(np.float64)
    start = kmeans(points, n_clusters, n_init=n_init, seed=seed)
    floor = 1e-3 * float(points.var(0).mean())  # keeps a component of coinciding points from having no width
    model = GaussianMixture(
        n_clusters, covariance_type="diag", means_init=start, reg_covar=floor, max_iter=200, random_state=seed
    )
    return np.asarray(model.fit(points).means_)


def _seed_greedily(points: Array, n_clusters: int, n_seedings: int, rng: np.random.Generator) -> Array:
    """Draws greedy k-means++ seedings (Arthur and Vassilvitskii, 2007), as indices of points.

    A seeding grows by one centre per step. Each step draws a few candidates, in proportion to the points' squared
    distances to the seeding's centres so far, and adds the candidate that leaves the lowest inertia. All seedings take
    each step together, so that a step is one matrix product over the points.

    Returns:
        Seedings [n_seedings, k], that of the lowest inertia first.
    """
    trials = 2 + int(np.log(n_clusters))
    x = torch.from_numpy(points)
    x = x - x.mean(0)
    norms = x.square().sum(1)

    def squared_distances_to(centre_indices: Tensor) -> Tensor:  # [c] → [c, n]
        squares = torch.addmm(norms, x[centre_indices], x.T, alpha=-2)
        return squares.add_(norms[centre_indices, None]).clamp_min_(0)

    seeds = torch.empty(n_seedings, n_clusters, dtype=torch.int64)
    seeds[:, 0] = torch.from_numpy(rng.integers(len(points), size=n_seedings))
    inertias = torch.empty(n_seedings, dtype=torch.float64)
    group_size = max(1, 2 * _CELLS // (len(points) * trials))  # seedings that fit into memory together
    for start in range(0, n_seedings, group_size):
        in_group = slice(start, start + group_size)
        closest = squared_distances_to(seeds[in_group, 0])
        rows = torch.arange(len(closest))
        for j in range(1, n_clusters):
            candidates = draw_in_proportion(closest, trials, rng)
            squares = squared_distances_to(candidates.ravel()).view(len(rows), trials, -1)
            squares = torch.minimum(squares, closest[:, None])
            best = squares.sum(2).argmin(1)
            seeds[in_group, j] = candidates[rows, best]
            closest = squares[rows, best]
        inertias[in_group] = closest.sum(1, dtype=torch.float64)
    return seeds[inertias.argsort(stable=True)].numpy()


def draw_in_proportion(weights: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Draws ``size`` indices per row of weights [..., n], in proportion to them; the last one if all are 0."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    levels = torch.from_numpy(rng.random((*weights.shape[:-1], size))) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, levels, right=True).clamp_max(weights.shape[-1] - 1)


def _lloyd_together(
    points: Array, starts: Array, max_iter: int, device: torch.device | None = None
) -> tuple[Array, Array]:
    """Runs k-means from several starts at once.

    One matrix product gives the distances of points to all centres of all starts, and one the sums of each cluster's
    points: with ``members`` [n, R · k] as 0 or 1, they are membersᵀ x. A start's inertia needs no second pass: it is
    Σ‖x‖² − 2 Σ max(x·c − ½‖c‖²), see ``assign``.

    Args:
        points: [n, D], float32.
        starts: [R, k, D].
        max_iter: Largest number of iterations.
        device: Where to compute; None is the CPU.

    Returns:
        Centres [R, k, D] and inertias [R].
    """
    n_starts, k, dim = starts.shape
    offset = torch.from_numpy(points.mean(0)).to(device)
    x = torch.from_numpy(points).to(device) - offset
    centres = (torch.from_numpy(starts).to(device) - offset).reshape(n_starts * k, dim)
    total = float(x.square().sum(dtype=torch.float64))
    first = torch.arange(n_starts, device=device) * k
    inertia = torch.full((n_starts,), torch.inf, dtype=torch.float64, device=device)
    for _ in range(max_iter):
        sums, counts = torch.zeros_like(centres), x.new_zeros(n_starts * k)
        gain = torch.zeros(n_starts, dtype=torch.float64, device=device)
        half_norms = 0.5 * centres.square().sum(1)
        for rows in x.split(max(1, _CELLS // (n_starts * k))):
            closeness = torch.addmm(half_norms, rows, centres.T, beta=-1).view(len(rows), n_starts, k)
            best, labels = closeness.max(2)
            members = torch.zeros(len(rows), n_starts * k, dtype=x.dtype, device=device).scatter_(
                1, labels + first, 1.0
            )
            sums.addmm_(members.T, rows)
            counts += members.sum(0)
            gain += best.sum(0, dtype=torch.float64)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres)
        previous, inertia = inertia, total - 2 * gain
        if bool((previous - inertia <= _TOLERANCE * inertia).all()):
            break
    return (centres + offset).view(n_starts, k, dim).cpu().numpy(), inertia.cpu().numpy()


def _lloyd(points: Array, centres: Array, device: torch.device | None = None, max_iter: int = 300) -> Array:
    """Runs k-means from centres [k, D] to its fixed point, where each centre is the mean of its points.

    Distances are compared on the device. Means are taken on the CPU, where their rounding does not depend on the order
    in which threads add.
    """
    x = torch.from_numpy(points)
    on_device = x.to(device)
    previous: Array | None = None
    for _ in range(max_iter):
        centres, labels, _ = _fill_empty_clusters(points, centres, on_device)
        if previous is not None and np.array_equal(labels, previous):
            break
        previous = labels
        counts = torch.from_numpy(np.bincount(labels, minlength=len(centres)))[:, None]
        centres = (sums_of_clusters(x, torch.from_numpy(labels), len(centres)) / counts).to(x.dtype).numpy()
    return centres


def sums_of_clusters(points: Tensor, labels: Tensor, n_clusters: int) -> Tensor:
    """Returns the sum of each cluster's points [k, D], as float64.

    Args:
        points: [n, D], on the CPU.
        labels: The points' clusters [n].
        n_clusters: k.
    """
    sums = torch.zeros(n_clusters, points.shape[1], dtype=torch.float64)
    for rows, labels_of_rows in zip(points.split(_ROWS), labels.split(_ROWS), strict=True):
        sums += torch.zeros(sums.shape, dtype=points.dtype).index_add_(0, labels_of_rows, rows)
    return sums


def _fill_empty_clusters(points: Array, centres: Array, on_device: Tensor | None = None) -> tuple[Array, Array, Array]:
    """Moves each centre without points onto the point that is farthest from its own centre.

    Where the points that are left differ only by rounding, a moved centre may get none either; then it is dropped.

    Args:
        points: [n, D].
        centres: [k, D].
        on_device: The points on the device that compares distances; None compares on the CPU.

    Returns:
        At most k centres, each with points; the points' labels [n]; their squared distances to their centres [n].
    """
    compared = points if on_device is None else on_device
    labels, squares = assign(compared, centres)
    n_moved = 0
    while not (has_points := np.bincount(labels, minlength=len(centres)) > 0).all():
        centres = centres.copy()
        if n_moved < len(centres):
            centres[has_points.argmin()] = points[squares.argmax()]
            n_moved += 1
        else:
            centres = centres[has_points]
        labels, squares = assign(compared, centres)
    return centres, labels, squares


def _medoid(members: Array) -> Array:
    """Returns the member [D] with the smallest sum of distances to all members [n, D]."""
    x = torch.from_numpy(members)
    centre = x.mean(0)
    if len(x) <= _MEDOID_CANDIDATES:
        candidates = torch.arange(len(x))
    else:
        squares = (x - centre).square().sum(1)
        candidates = squares.topk(_MEDOID_CANDIDATES, largest=False).indices.sort().values
    shifted = x[candidates] - centre
    norms = shifted.square().sum(1)
    sums = torch.zeros(len(candidates), dtype=torch.float64)
    for chunk in x.split(_ROWS):
        rows = chunk - centre
        squares = torch.addmm(norms, rows, shifted.T, alpha=-2) + rows.square().sum(1, keepdim=True)
        sums += squares.clamp_min(0).sqrt().sum(0, dtype=torch.float64)
    return np.asarray(members[int(candidates[sums.argmin()])])
