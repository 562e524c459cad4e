"""The training data behind each prototype: counts, purity, the nearest samples and how far away they are."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lookalike._core import checks
from lookalike._core.files import drop_pages
from lookalike.model.prototypes import N_QUANTILES, Prototypes
from lookalike.model.similarity import Similarity, euclidean_distances

_CELLS = 20_000_000  # rows × prototypes compared at a time


@torch.no_grad()
def survey(
    prototypes: Prototypes,
    similarity: Similarity,
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    indices: np.ndarray | None = None,
    n_nearest: int = 10,
    nearest_from: Literal["class", "any"] = "class",
    nearest_by: Literal["distance", "similarity"] = "distance",
) -> Prototypes:
    """Finds the training data behind each prototype, in one pass that holds no more than a part of it.

    Args:
        prototypes: Vectors, labels and class names.
        similarity: The model's.
        embeddings: Training embeddings [N, D].
        labels: Their classes [N].
        indices: What to call the rows; None numbers them.
        n_nearest: M, how many of the nearest samples to keep.
        nearest_from: Whether the nearest are looked for in the prototype's own class or in all classes.
        nearest_by: Whether the nearest are those at the smallest distance, or those that are most similar, which is
            not the same where the similarity grows with an embedding's length. Distances are recorded either way.

    Returns:
        New prototypes, with everything filled in.
    """
    checks.whole_number("n_nearest", n_nearest, 1)
    checks.one_of("nearest_from", nearest_from, ("class", "any"))
    checks.one_of("nearest_by", nearest_by, ("distance", "similarity"))
    seen = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    names = np.arange(len(embeddings)) if indices is None else np.asarray(indices, dtype=np.int64)
    seen.add(prototypes, similarity, embeddings, labels, names, nearest_from=nearest_from, nearest_by=nearest_by)
    return seen.finish(prototypes)


@dataclass
class Survey:
    """What a part of the training data says about P prototypes; parts that were looked at apart can be merged.

    Attributes:
        won: Of how many samples each prototype is the most similar one [P].
        won_own: Of how many of its own class [P].
        ranks: What the nearest samples are ordered by [M, P]; infinite where there are fewer than M.
        nearest: Their indices [M, P]; −1 where there are fewer.
        distances: Theirs to the prototype [M, P].
        owners: Of each sample the most similar prototype of its class, P where its class has none; in parts [n].
        own_distances: Its distance to that prototype; in parts [n].
    """

    won: Tensor
    won_own: Tensor
    ranks: Tensor
    nearest: Tensor
    distances: Tensor
    owners: list[Tensor] = field(default_factory=list)
    own_distances: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, n_prototypes: int, n_nearest: int, dtype: torch.dtype) -> "Survey":
        """Returns what no data at all say."""
        nothing = torch.zeros(n_prototypes, dtype=torch.int64)
        top = torch.full((n_nearest, n_prototypes), torch.inf, dtype=dtype)
        return cls(nothing, nothing.clone(), top, torch.full(top.shape, -1, dtype=torch.int64), top.clone())

    @torch.no_grad()
    def add(
        self,
        prototypes: Prototypes,
        similarity: Similarity,
        embeddings: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        *,
        nearest_from: Literal["class", "any"] = "class",
        nearest_by: Literal["distance", "similarity"] = "distance",
    ) -> None:
        """Looks at more samples; the arguments are those of ``survey``."""
        vectors, owners = prototypes.vectors.detach(), prototypes.labels
        n_prototypes = len(vectors)
        centres = similarity.project(vectors)
        members = _members(owners, prototypes.n_classes)
        step = max(256, _CELLS // n_prototypes)
        for start in range(0, len(embeddings), step):
            z = torch.from_numpy(np.array(embeddings[start : start + step])).to(vectors.dtype)
            y = torch.from_numpy(np.asarray(labels[start : start + step]))
            names = torch.from_numpy(np.asarray(indices[start : start + step]))
            distances = euclidean_distances(similarity.project(z), centres)
            similarities = None if similarity.falls_with_distance else similarity(z, vectors)
            winner = distances.argmin(1) if similarities is None else similarities.argmax(1)
            self.won += torch.bincount(winner, minlength=n_prototypes)
            self.won_own += torch.bincount(winner[owners[winner] == y], minlength=n_prototypes)
            ranks = distances if nearest_by == "distance" or similarities is None else -similarities
            own = members[y]  # [n, L]: the prototypes of each row's class
            within = ranks.gather(1, own.clamp_min(0)).masked_fill(own < 0, torch.inf)
            closest = distances if similarities is None else -similarities  # counts go by what the model decides by
            best, place = closest.gather(1, own.clamp_min(0)).masked_fill(own < 0, torch.inf).min(1)
            chosen = own.gather(1, place[:, None])
            self.owners.append(chosen[:, 0].masked_fill(best.isinf(), n_prototypes))  # of a class without prototypes
            self.own_distances.append(distances.gather(1, chosen.clamp_min(0))[:, 0])
            if nearest_from == "class":
                row, column = torch.nonzero(own >= 0, as_tuple=True)
                prototype = own[row, column]
                self._take(prototype, within[row, column], names[row], distances[row, prototype])
            else:
                self._take_all(ranks, names, distances)
            drop_pages(embeddings)

    def _take(self, prototype: Tensor, ranks: Tensor, nearest: Tensor, distances: Tensor) -> None:
        """Takes in pairs of a prototype and a sample, each given as one entry [E] of four lists."""
        n_nearest = len(self.ranks)
        order = ranks.argsort(stable=True)
        order = order[prototype[order].argsort(stable=True)]  # by prototype, and within each by rank
        touched, counts = prototype[order].unique_consecutive(return_counts=True)
        within = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        column = torch.arange(len(touched)).repeat_interleave(counts)
        kept = within < n_nearest
        at, order = (within[kept], column[kept]), order[kept]
        fresh = {}
        for name, values in (("ranks", ranks), ("nearest", nearest), ("distances", distances)):
            blank = torch.full((n_nearest, len(touched)), -1 if name == "nearest" else torch.inf, dtype=values.dtype)
            fresh[name] = torch.cat([getattr(self, name)[:, touched], blank.index_put(at, values[order])])
        best = fresh["ranks"].argsort(dim=0, stable=True)[:n_nearest]
        for name, values in fresh.items():
            getattr(self, name)[:, touched] = values.gather(0, best)

    def _take_all(self, ranks: Tensor, nearest: Tensor, distances: Tensor) -> None:
        """Takes in every pair of some samples and all prototypes: [n, P], [n] and [n, P]."""
        n_nearest = len(self.ranks)
        self.ranks, order = torch.cat([self.ranks, ranks]).topk(n_nearest, dim=0, largest=False)
        none = self.ranks.isinf()
        rows = nearest[:, None].expand_as(ranks)
        self.nearest = torch.cat([self.nearest, rows]).gather(0, order).masked_fill(none, -1)
        self.distances = torch.cat([self.distances, distances]).gather(0, order).masked_fill(none, torch.inf)

    def merge(self, other: "Survey") -> None:
        """Takes in what another part of the data says, in any order; of equally near samples the first ones stay."""
        self.won += other.won
        self.won_own += other.won_own
        self.owners += other.owners
        self.own_distances += other.own_distances
        n_nearest = len(self.ranks)
        ranks, nearest, distances = (
            torch.cat([getattr(self, name), getattr(other, name)]) for name in ("ranks", "nearest", "distances")
        )
        order = nearest.argsort(dim=0, stable=True)
        order = order.gather(0, ranks.gather(0, order).argsort(dim=0, stable=True))[:n_nearest]
        self.ranks, self.nearest, self.distances = (part.gather(0, order) for part in (ranks, nearest, distances))

    def finish(self, prototypes: Prototypes) -> Prototypes:
        """Returns new prototypes, with everything filled in."""
        n_nearest, n_prototypes = self.ranks.shape
        dtype = self.ranks.dtype
        own = torch.cat([*self.owners, torch.empty(0, dtype=torch.int64)])
        own_distance = torch.cat([*self.own_distances, torch.empty(0, dtype=dtype)])
        counts = torch.bincount(own, minlength=n_prototypes)[:n_prototypes]
        quantiles = torch.full((n_prototypes, N_QUANTILES), torch.nan, dtype=dtype)
        percentiles = torch.full((n_prototypes, n_nearest), torch.nan, dtype=dtype)
        levels = np.linspace(0, 1, N_QUANTILES)
        order = torch.argsort(own, stable=True)
        for j, members in enumerate(order[: int(counts.sum())].split(counts.tolist())):
            if len(members):
                spread = own_distance[members].sort().values
                quantiles[j] = torch.from_numpy(np.quantile(spread.numpy(), levels)).to(dtype)
                at_most = torch.searchsorted(spread, self.distances[:, j].contiguous(), right=True)
                percentiles[j] = 100 * at_most.to(dtype) / len(spread)
        return Prototypes(
            prototypes.vectors,
            prototypes.labels,
            prototypes.class_names,
            counts=counts,
            purity=self.won_own / self.won,
            nearest=self.nearest.T.contiguous(),
            distances=self.distances.T.contiguous(),
            percentiles=percentiles,
            quantiles=quantiles,
        )


def _members(owners: Tensor, n_classes: int) -> Tensor:
    """Returns the prototypes of each class [K, L]; −1 where a class has fewer than L."""
    counts = torch.bincount(owners, minlength=n_classes)
    found = torch.full((n_classes, max(1, int(counts.max()))), -1)
    for k in range(n_classes):
        own = torch.nonzero(owners == k)[:, 0]
        found[k, : len(own)] = own
    return found
