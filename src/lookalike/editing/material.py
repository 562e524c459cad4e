"""The training embeddings that edits work on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.files import at_least_single, read_rows
from lookalike.conversion.clustering import cluster
from lookalike.editing.state import State
from lookalike.model.similarity import Similarity


@dataclass(frozen=True, eq=False)
class Material:
    """The training embeddings that edits work on, and how they are clustered.

    Attributes:
        embeddings: [N, D], in memory or mapped.
        labels: Classes [N], as the model numbers them.
        indices: Number of each row's sample in the data [N].
        similarity: The model's, on the CPU.
        held_out: Rows that no edit learns from, because edits are judged on them [N].
        clusterer: Name of the clusterer that splits a prototype.
        n_init: Number of its random starts.
        seed: Its seed.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    similarity: Similarity
    held_out: np.ndarray
    clusterer: str = "kmeans"
    n_init: int = 10
    seed: int = 0

    def read(self, rows: np.ndarray) -> Tensor:
        """Returns a copy of some rows [n, D], at least in single precision."""
        return torch.from_numpy(read_rows(self.embeddings, rows, at_least_single(self.embeddings.dtype)))

    def row_of(self, sample: int) -> int:
        """Returns the row of a training sample.

        Raises:
            LookalikeError: If there is none of that number.
        """
        rows = np.flatnonzero(self.indices == sample)
        if not len(rows):
            raise LookalikeError(f"there is no training sample {sample}; the largest number is {self.indices.max()}")
        return int(rows[0])

    def is_held_out(self, sample: int) -> bool:
        """Returns whether edits are judged on a training sample."""
        return bool(self.held_out[self.indices == sample].any())

    @torch.no_grad()
    def members(self, state: State, positions: list[int], *, with_held_out: bool = False) -> np.ndarray:
        """Returns the rows behind some prototypes of one class: each sample counts for its most similar prototype.

        Args:
            state: The state.
            positions: The prototypes.
            with_held_out: Return also the rows that no edit learns from.
        """
        k = int(state.labels[positions[0]])
        is_of_class = self.labels == k
        rows = np.flatnonzero(is_of_class if with_held_out else is_of_class & ~self.held_out)
        if not len(rows):
            return rows
        of_class = state.of_class(k)
        winners = of_class[self.similarity(self.read(rows), state.vectors[of_class]).argmax(1)]
        return np.asarray(rows[torch.isin(winners, torch.tensor(positions)).numpy()])

    def mean(self, rows: np.ndarray) -> Tensor:
        """Returns the mean of some rows [D], in the space in which the model clusters."""
        points = self.similarity.project(self.read(rows))
        return self.similarity.unproject(points.double().mean(0, keepdim=True).to(points.dtype))[0]

    def split(self, rows: np.ndarray, n: int) -> Tensor:
        """Clusters some rows; returns at most n centres [n, D]."""
        points = self.similarity.project(self.read(rows)).numpy()
        centres = cluster(points, n, self.clusterer, n_init=self.n_init, seed=self.seed).centres
        return self.similarity.unproject(torch.from_numpy(np.ascontiguousarray(centres)))
