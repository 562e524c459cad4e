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

_CELLS = 20_000_000  # samples × prototypes compared at a time: 80 MB of float32


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
    """Finds the training data behind each prototype, in one pass over the embeddings in chunks.

    Args:
        prototypes: Vectors, labels and class names.
        similarity: The model's similarity.
        embeddings: Training embeddings [N, D].
        labels: Classes of the embeddings [N].
        indices: Numbers of the samples [N]; None numbers them from 0.
        n_nearest: M, the number of nearest samples to keep for each prototype.
        nearest_from: Search the prototype's own ``"class"``, or ``"any"`` class.
        nearest_by: The nearest samples are those with the smallest ``"distance"``, or with the largest
            ``"similarity"``. The two differ if the similarity grows with an embedding's length. Distances are recorded
            either way.

    Returns:
        New prototypes with counts, purity, nearest samples and distances.
    """
    n_nearest = checks.whole_number("n_nearest", n_nearest, 1)
    checks.one_of("nearest_from", nearest_from, ("class", "any"))
    checks.one_of("nearest_by", nearest_by, ("distance", "similarity"))
    result = Survey.empty(len(prototypes), n_nearest, prototypes.vectors.dtype)
    sample_indices = np.arange(len(embeddings)) if indices is None else np.asarray(indices, dtype=np.int64)
    result.add(
        prototypes, similarity, embeddings, labels, sample_indices, nearest_from=nearest_from, nearest_by=nearest_by
    )
    return result.finish(prototypes)


@dataclass
class Survey:
    """Statistics of P prototypes over some training data. Surveys of different data can be merged.

    Attributes:
        n_won: Number of samples to which each prototype is the most similar one [P].
        n_won_in_class: Number of these samples that are of the prototype's class [P].
        ranks: Values that order the nearest samples, smallest first [M, P]; infinite where there are fewer than M.
        nearest: Indices of the nearest samples [M, P]; −1 where there are fewer than M.
        distances: Distances of the nearest samples to the prototype [M, P].
        nearest_in_class: The prototype of its own class that each sample is most similar to, or P if its class has no
            prototypes; in chunks [n].
        distances_in_class: Distance of each sample to that prototype; in chunks [n].
    """

    n_won: Tensor
    n_won_in_class: Tensor
    ranks: Tensor
    nearest: Tensor
    distances: Tensor
    nearest_in_class: list[Tensor] = field(default_factory=list)
    distances_in_class: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, n_prototypes: int, n_nearest: int, dtype: torch.dtype) -> "Survey":
        """Returns the survey of no data."""
        counts = torch.zeros(n_prototypes, dtype=torch.int64)
        infinite = torch.full((n_nearest, n_prototypes), torch.inf, dtype=dtype)
        nearest = torch.full(infinite.shape, -1, dtype=torch.int64)
        return cls(counts, counts.clone(), infinite, nearest, infinite.clone())

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
        """Adds samples to the survey; the arguments are those of ``survey``."""
        vectors, prototype_labels = prototypes.vectors.detach(), prototypes.labels
        n_prototypes = len(vectors)
        centres = similarity.project(vectors)
        prototypes_of_class = _prototypes_by_class(prototype_labels, prototypes.n_classes)
        chunk_size = max(256, _CELLS // n_prototypes)
        for start in range(0, len(embeddings), chunk_size):
            z = torch.from_numpy(np.array(embeddings[start : start + chunk_size])).to(vectors.dtype)
            y = torch.from_numpy(np.asarray(labels[start : start + chunk_size]))
            sample_indices = torch.from_numpy(np.asarray(indices[start : start + chunk_size]))
            distances = euclidean_distances(similarity.project(z), centres)
            similarities = None if similarity.falls_with_distance else similarity(z, vectors)
            most_similar = distances.argmin(1) if similarities is None else similarities.argmax(1)
            self.n_won += torch.bincount(most_similar, minlength=n_prototypes)
            is_of_class = prototype_labels[most_similar] == y
            self.n_won_in_class += torch.bincount(most_similar[is_of_class], minlength=n_prototypes)
            ranks = distances if nearest_by == "distance" or similarities is None else -similarities
            candidates = prototypes_of_class[y]  # [n, L]: the prototypes of each sample's class, padded with −1
            ranks_in_class = ranks.gather(1, candidates.clamp_min(0)).masked_fill(candidates < 0, torch.inf)
            decision_ranks = distances if similarities is None else -similarities  # counts follow the model's decision
            decision_ranks = decision_ranks.gather(1, candidates.clamp_min(0)).masked_fill(candidates < 0, torch.inf)
            best_rank, best_position = decision_ranks.min(1)
            nearest_candidate = candidates.gather(1, best_position[:, None])
            self.nearest_in_class.append(nearest_candidate[:, 0].masked_fill(best_rank.isinf(), n_prototypes))
            self.distances_in_class.append(distances.gather(1, nearest_candidate.clamp_min(0))[:, 0])
            if nearest_from == "class":
                row, column = torch.nonzero(candidates >= 0, as_tuple=True)
                prototype = candidates[row, column]
                ranks_of_pairs, distances_of_pairs = ranks_in_class[row, column], distances[row, prototype]
                self._merge_pairs(prototype, ranks_of_pairs, sample_indices[row], distances_of_pairs)
            else:
                self._merge_all_pairs(ranks, sample_indices, distances)
            drop_pages(embeddings)

    def _merge_pairs(self, prototype: Tensor, ranks: Tensor, nearest: Tensor, distances: Tensor) -> None:
        """Merges E pairs of a prototype and a sample into the nearest samples; the arguments are [E].

        The pairs are laid out as a table with a column per prototype, its samples in the order of their ranks, cut to
        M rows. The table goes below the samples found so far, and the best M of each column stay:

            found so far   [M, touched prototypes]
            new pairs      [M, touched prototypes]   →   sorted by rank, first M rows
        """
        n_nearest = len(self.ranks)
        order = ranks.argsort(stable=True)
        order = order[prototype[order].argsort(stable=True)]  # by prototype, and within each by rank
        touched, counts = prototype[order].unique_consecutive(return_counts=True)
        position = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        prototype_column = torch.arange(len(touched)).repeat_interleave(counts)
        within_limit = position < n_nearest
        slots, order = (position[within_limit], prototype_column[within_limit]), order[within_limit]
        merged = {}
        for name, values in (("ranks", ranks), ("nearest", nearest), ("distances", distances)):
            blank = -1 if name == "nearest" else torch.inf
            table = torch.full((n_nearest, len(touched)), blank, dtype=values.dtype).index_put(slots, values[order])
            merged[name] = torch.cat([getattr(self, name)[:, touched], table])
        best_rows = merged["ranks"].argsort(dim=0, stable=True)[:n_nearest]
        for name, values in merged.items():
            getattr(self, name)[:, touched] = values.gather(0, best_rows)

    def _merge_all_pairs(self, ranks: Tensor, nearest: Tensor, distances: Tensor) -> None:
        """Merges the pairs of some samples with all prototypes into the nearest samples.

        Args:
            ranks: [n, P].
            nearest: Indices of the samples [n].
            distances: [n, P].
        """
        n_nearest = len(self.ranks)
        self.ranks, order = torch.cat([self.ranks, ranks]).topk(n_nearest, dim=0, largest=False)
        none = self.ranks.isinf()
        rows = nearest[:, None].expand_as(ranks)
        self.nearest = torch.cat([self.nearest, rows]).gather(0, order).masked_fill(none, -1)
        self.distances = torch.cat([self.distances, distances]).gather(0, order).masked_fill(none, torch.inf)

    def merge(self, other: "Survey") -> None:
        """Merges the survey of other data into this one.

        The order of merging does not matter: of equally near samples those with the smallest indices are kept.
        """
        self.n_won += other.n_won
        self.n_won_in_class += other.n_won_in_class
        self.nearest_in_class += other.nearest_in_class
        self.distances_in_class += other.distances_in_class
        n_nearest = len(self.ranks)
        ranks, nearest, distances = (
            torch.cat([getattr(self, name), getattr(other, name)]) for name in ("ranks", "nearest", "distances")
        )
        order = nearest.argsort(dim=0, stable=True)
        order = order.gather(0, ranks.gather(0, order).argsort(dim=0, stable=True))[:n_nearest]
        self.ranks, self.nearest, self.distances = (values.gather(0, order) for values in (ranks, nearest, distances))

    def finish(self, prototypes: Prototypes) -> Prototypes:
        """Returns new prototypes with counts, purity, nearest samples and distances."""
        n_nearest, n_prototypes = self.ranks.shape
        dtype = self.ranks.dtype
        nearest_in_class = torch.cat([*self.nearest_in_class, torch.empty(0, dtype=torch.int64)])
        distances_in_class = torch.cat([*self.distances_in_class, torch.empty(0, dtype=dtype)])
        counts = torch.bincount(nearest_in_class, minlength=n_prototypes)[:n_prototypes]
        quantiles = torch.full((n_prototypes, N_QUANTILES), torch.nan, dtype=dtype)
        percentiles = torch.full((n_prototypes, n_nearest), torch.nan, dtype=dtype)
        levels = np.linspace(0, 1, N_QUANTILES)
        order = torch.argsort(nearest_in_class, stable=True)
        for j, rows in enumerate(order[: int(counts.sum())].split(counts.tolist())):
            if len(rows):
                sorted_distances = distances_in_class[rows].sort().values
                quantiles[j] = torch.from_numpy(np.quantile(sorted_distances.numpy(), levels)).to(dtype)
                n_at_most_as_far = torch.searchsorted(sorted_distances, self.distances[:, j].contiguous(), right=True)
                percentiles[j] = 100 * n_at_most_as_far.to(dtype) / len(sorted_distances)
        return Prototypes(
            prototypes.vectors,
            prototypes.labels,
            prototypes.class_names,
            counts=counts,
            purity=self.n_won_in_class / self.n_won,
            nearest=self.nearest.T.contiguous(),
            distances=self.distances.T.contiguous(),
            percentiles=percentiles,
            quantiles=quantiles,
        )


def _prototypes_by_class(prototype_labels: Tensor, n_classes: int) -> Tensor:
    """Returns the indices of each class's prototypes [K, L]; −1 where a class has fewer than L."""
    counts = torch.bincount(prototype_labels, minlength=n_classes)
    prototypes_of_class = torch.full((n_classes, max(1, int(counts.max()))), -1)
    for k in range(n_classes):
        indices = torch.nonzero(prototype_labels == k)[:, 0]
        prototypes_of_class[k, : len(indices)] = indices
    return prototypes_of_class
