"""Near and exact duplicates, and samples that are far from everything [ours]."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError

_NEAR = 0.15  # of the usual distance to the nearest neighbour: below it, two images are near duplicates
_EQUAL = 1e-4  # of the usual distance: below it, they are equal to the network
_ROUNDING = 1e-5  # of the embeddings' size: distances of rounding, as those of copies in another place of a batch
_FAR = 5.0  # robust standard deviations of the logarithm of the distance to the third neighbour
_NEIGHBOURS = 4
_MOST_ALIKE = 100  # pairs of one sample
_FIFTH, _MUCH_NEARER = 5, 0.4
_CELLS = 8_000_000  # distances in memory at a time: 32 MB


@dataclass(frozen=True)
class Pair:
    """Two samples that are alike.

    Attributes:
        first: Row of the first.
        second: Row of the second.
        share: Their distance, as a share of the usual distance to the nearest neighbour.
        exact: Whether the network sees no difference.
    """

    first: int
    second: int
    share: float
    exact: bool


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """What lies near each sample.

    Attributes:
        nearest: Row of the nearest other sample [N].
        pairs: Pairs that are alike, the most alike first.
        far: Rows of the samples that are far from everything, the farthest first.
        remoteness: How far each sample is from its third neighbour, in robust standard deviations above the usual [N].
        usual: The usual distance to the nearest neighbour.
    """

    nearest: np.ndarray
    pairs: list[Pair]
    far: np.ndarray
    remoteness: np.ndarray
    usual: float


def look_around(embeddings: np.ndarray) -> Neighbourhood:
    """Finds the nearest neighbours of each sample.

    Args:
        embeddings: [N, D], in the space whose Euclidean distances count. The search compares all pairs; its memory
            does not grow with their number.

    Raises:
        LookalikeError: If there are fewer than two samples.
    """
    if len(embeddings) < 2:
        raise LookalikeError("a single sample has no neighbours")
    z = np.ascontiguousarray(embeddings, dtype=np.float32)
    z = z - z.mean(0)  # a common offset would cost digits
    n = min(_NEIGHBOURS + 1, len(z))
    neighbours = _nearest_rows(torch.from_numpy(z), n)
    distances_to = _distances_to(z, neighbours)
    nearest, third = np.full(len(z), -1), np.zeros(len(z))
    candidates: dict[tuple[int, int], float] = {}
    for row in range(len(z)):
        is_other = neighbours[row] != row
        nearest_rows, distances = neighbours[row][is_other][: n - 1], distances_to[row][is_other][: n - 1]
        order = np.argsort(distances, kind="stable")
        nearest_rows, distances = nearest_rows[order], distances[order]
        if len(nearest_rows):
            nearest[row], third[row] = nearest_rows[0], distances[min(2, len(nearest_rows) - 1)]
        for neighbour, distance in zip(nearest_rows.tolist(), distances.tolist(), strict=True):
            candidates[min(row, neighbour), max(row, neighbour)] = distance
    first = np.array(
        [candidates[min(row, neighbour), max(row, neighbour)] for row, neighbour in enumerate(nearest.tolist())]
    )
    size = _size_of(z)
    usual = _usual_distance(first, third, size)
    candidates |= _further_pairs(z, distances_to.max(1), usual)
    alike = [
        Pair(a, b, distance / usual, _are_equal(distance, usual, size))
        for (a, b), distance in candidates.items()
        if distance <= _NEAR * usual
    ]
    logs = np.log(np.maximum(third, 1e-12))
    middle = np.median(logs)
    spread = 1.4826 * float(np.median(np.abs(logs - middle))) or 1.0
    remoteness = (logs - middle) / spread
    far = np.flatnonzero(remoteness > _FAR)
    alike.sort(key=lambda pair: (pair.share, pair.first, pair.second))
    return Neighbourhood(nearest, alike, far[np.argsort(-remoteness[far], kind="stable")], remoteness, usual)


def _usual_distance(first: np.ndarray, third: np.ndarray, size: float) -> float:
    """Returns the median distance to the nearest neighbour, of the samples that have no copy.

    Args:
        first: Distances to the nearest neighbours [N].
        third: Distances to the third ones [N], in place of the others if each sample has a copy.
        size: Root of the mean square of the embeddings, in place of these if all are copies.
    """
    for distances in (first, third):
        of_others = distances[distances > _ROUNDING * size]
        if len(of_others):
            return float(np.median(of_others))
    return size or 1.0


def _further_pairs(z: np.ndarray, farthest: np.ndarray, usual: float) -> dict[tuple[int, int], float]:
    """Returns the distances of pairs that are alike beyond the neighbours that were searched, by their rows.

    ``farthest`` holds the distance of each sample to the farthest of these neighbours [N]. Only samples all of whose
    neighbours are alike can have more of them: copies of one image, frames of one video. Of these the nearest are
    taken, of equally near ones the first.
    """
    found: dict[tuple[int, int], float] = {}
    if len(z) <= _NEIGHBOURS + 1:
        return found
    near = _NEAR * usual
    surrounded = np.flatnonzero(farthest <= near)
    points = torch.from_numpy(z)
    squares = points.square().sum(1)
    step = max(1, _CELLS // len(z))
    for start in range(0, len(surrounded), step):
        rows = torch.from_numpy(surrounded[start : start + step])
        # by products in single precision, which round: some that are not alike are candidates, too
        rounding = 1e-5 * (squares[rows, None] + squares)
        approximate = squares[rows, None] + squares - 2 * points[rows] @ points.T - rounding
        for row, is_candidate in zip(rows.tolist(), approximate <= near**2, strict=True):
            others = torch.nonzero(is_candidate)[:, 0].numpy()
            distances = np.linalg.norm(z[others].astype(np.float64) - z[row], axis=1)
            order = np.argsort(distances, kind="stable")[: _MOST_ALIKE + 1]
            for other, distance in zip(others[order].tolist(), distances[order].tolist(), strict=True):
                if other != row and distance <= near:
                    found[min(row, other), max(row, other)] = distance
    return found


def _distances_to(z: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Returns the distances of samples [N, D] to their neighbours, in double precision [N, n], block by block."""
    step = max(1, _CELLS // (neighbours.shape[1] * z.shape[1]))
    return np.concatenate(
        [
            np.linalg.norm(
                z[neighbours[start : start + step]].astype(np.float64) - z[start : start + step, None], axis=2
            )
            for start in range(0, len(z), step)
        ]
    )


def look_for(queries: np.ndarray, embeddings: np.ndarray, usual: float, own: np.ndarray) -> list[Pair]:
    """Finds the samples that are near duplicates of others, which are embedded apart, such as mirrored images.

    Args:
        queries: [M, D].
        embeddings: [N, D].
        usual: The usual distance to the nearest neighbour; see ``Neighbourhood``.
        own: The row of ``embeddings`` that each query stems from [M]; it is no duplicate of it.

    Returns:
        The pairs of ``own`` and other rows, the most alike first.
    """
    alike, size = [], _size_of(embeddings - embeddings.mean(0))
    for query, row in zip(queries, own.tolist(), strict=True):
        distances = np.sqrt(np.square(embeddings - query).sum(1, dtype=np.float64))
        distances[row] = np.inf
        alike += [
            Pair(row, int(other), float(distances[other]) / usual, _are_equal(float(distances[other]), usual, size))
            for other in np.flatnonzero(distances <= _NEAR * usual)
        ]
    return sorted(alike, key=lambda pair: (pair.share, pair.first, pair.second))


def _size_of(centred: np.ndarray) -> float:
    """Returns the usual distance of embeddings [N, D] from their mean, which is 0."""
    squares = np.square(centred).sum(1, dtype=np.float64)
    return float(np.sqrt(np.median(squares) or squares.mean()))  # one far embedding must not decide it


def _are_equal(distance: float, usual: float, size: float) -> bool:
    """Says whether two samples are the same to the network, but for rounding."""
    return distance <= max(_EQUAL * usual, _ROUNDING * size)


def in_groups(embeddings: np.ndarray) -> np.ndarray:
    """Says which samples have a nearest neighbour that is much nearer than their fifth, as pictures of one thing have.

    "Much nearer" is less than 40% of the distance. Of samples that lie anywhere in five dimensions, 4% are so near to
    another, in three 23%; of copies that differ a little, nearly all [ours].

    Args:
        embeddings: [N, D], as for ``look_around``.

    Returns:
        [N], bool.
    """
    z = np.ascontiguousarray(embeddings, dtype=np.float32)
    z = z - z.mean(0)
    if len(z) <= _FIFTH:
        return np.zeros(len(z), bool)
    neighbours = _nearest_rows(torch.from_numpy(z), _FIFTH + 1)
    distances = np.sort(_distances_to(z, neighbours), axis=1)
    grouped: np.ndarray = distances[:, 1] < _MUCH_NEARER * distances[:, _FIFTH]
    return grouped


@torch.no_grad()
def _nearest_rows(z: Tensor, n: int) -> np.ndarray:
    """Returns the rows of the n nearest samples of each [N, n], itself among them, by products in single precision.

    faiss does the same, but its import changes the filters of warnings and the environment of the whole process.
    """
    squares = z.square().sum(1)
    step = max(1, _CELLS // len(z))
    nearest = [
        (squares - 2 * z[start : start + step] @ z.T).topk(n, dim=1, largest=False).indices
        for start in range(0, len(z), step)
    ]
    return torch.cat(nearest).numpy()
