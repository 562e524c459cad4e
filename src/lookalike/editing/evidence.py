"""The training data behind edited prototypes: counted again only where an edit changed something."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lookalike.conversion.survey import survey
from lookalike.editing.material import Material
from lookalike.editing.state import State, touched_classes
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import euclidean_distances

_CELLS = 20_000_000  # samples × prototypes or dimensions at a time: 80 MB of float32
_SURVEYED = ("counts", "nearest", "distances", "percentiles", "quantiles")


class Evidence:
    """Keeps which prototype each training sample is most similar to, and updates it edit by edit.

    Counts, nearest samples and distances depend on a class's own prototypes; only touched classes are surveyed again.
    Purity depends on all prototypes: a sample whose most similar prototype is still there is compared with the new
    prototypes only.

    Args:
        material: The training embeddings.
        n_nearest: M, the number of nearest samples to keep.
        nearest_from: Search the prototype's own ``"class"``, or ``"any"`` class, as the conversion did. With ``"any"``
            all prototypes are surveyed after each edit.
    """

    def __init__(self, material: Material, n_nearest: int, nearest_from: Literal["class", "any"] = "class") -> None:
        self.material = material
        self.nearest_from = nearest_from
        self.n_nearest = max(1, n_nearest)
        n_samples = len(material.labels)
        self._winners = torch.full((n_samples,), -1, dtype=torch.int64)  # the winners' keys
        self._best = torch.full((n_samples,), -torch.inf, dtype=torch.float32)
        self._keys = torch.zeros(0, dtype=torch.int64)
        self._labels = torch.from_numpy(np.asarray(material.labels))

    @torch.no_grad()
    def of(self, old: State, old_prototypes: Prototypes, new: State) -> Prototypes:
        """Returns a new state's prototypes with the training data behind each.

        Args:
            old: The state before.
            old_prototypes: Its prototypes, with the training data behind each.
            new: The state.
        """
        position_of = {key: j for j, key in enumerate(old.keys.tolist())}
        origin = [position_of.get(key) for key in new.keys.tolist()]
        all_classes = list(range(len(new.class_names)))
        touched = all_classes if self.nearest_from == "any" else touched_classes(old, new)
        surveyed = self._survey(new, touched)
        columns: dict[str, list[Tensor]] = {name: [] for name in _SURVEYED}
        for position, source in enumerate(origin):
            again = surveyed.get(position)
            for name, rows in columns.items():
                rows.append(again[name] if again is not None else getattr(old_prototypes, name)[source])
        dtypes = {name: getattr(old_prototypes, name).dtype for name in _SURVEYED}
        stacked = {
            name: torch.stack([_fitting(row, rows[0]) for row in rows]).to(dtypes[name])
            for name, rows in columns.items()
        }
        purity = self._purity(new).to(old_prototypes.purity.dtype)
        return Prototypes(new.vectors.clone(), new.labels.clone(), list(new.class_names), purity=purity, **stacked)

    def _survey(self, state: State, touched: list[int]) -> dict[int, dict[str, Tensor]]:
        """Surveys the prototypes of some classes; returns their rows by position."""
        positions = torch.nonzero(torch.isin(state.labels, torch.tensor(touched, dtype=torch.int64)))[:, 0]
        if not len(positions):
            return {}
        rows = np.flatnonzero(np.isin(self.material.labels, touched))
        number = {k: i for i, k in enumerate(touched)}
        sub = Prototypes(
            state.vectors[positions],
            torch.tensor([number[k] for k in state.labels[positions].tolist()]),
            [state.class_names[k] for k in touched],
        )
        embeddings = self.material.read(rows).numpy()
        labels = np.array([number[k] for k in self.material.labels[rows].tolist()], dtype=np.int64)
        result = survey(
            sub,
            self.material.similarity,
            embeddings,
            labels,
            indices=self.material.indices[rows],
            n_nearest=self.n_nearest,
            nearest_from=self.nearest_from,
        )
        found = {
            position: {name: getattr(result, name)[i] for name in _SURVEYED}
            for i, position in enumerate(positions.tolist())
        }
        for i, position in enumerate(positions.tolist()):
            sample = state.shown[position]
            if sample is not None:
                self._put_first(found[position], result, i, sample)
        return found

    def _put_first(self, row: dict[str, Tensor], result: Prototypes, i: int, sample: int) -> None:
        """Puts a chosen sample before the nearest ones, with its distance."""
        vector = self.material.read(np.array([self.material.row_of(sample)]))
        project = self.material.similarity.project
        distances = euclidean_distances(project(vector), project(result.vectors))  # [1, P]
        percentile = result.percentile_of(distances)[0, i]
        is_other_sample = row["nearest"] != sample
        for name, first in (
            ("nearest", torch.tensor(sample)),
            ("distances", distances[0, i]),
            ("percentiles", percentile),
        ):
            length = len(row[name])
            row[name] = torch.cat([first[None].to(row[name].dtype), row[name][is_other_sample]])[:length]

    def _purity(self, state: State) -> Tensor:
        """Returns the purity of each prototype [P]: the share of its class among the samples that are its own."""
        self._follow(state)
        order = state.keys.argsort()
        positions = order[torch.searchsorted(state.keys[order], self._winners)]
        n = len(state)
        won = torch.bincount(positions, minlength=n)
        counts_of_class = torch.bincount(positions[state.labels[positions] == self._labels], minlength=n)
        return counts_of_class / won

    def _follow(self, state: State) -> None:
        """Finds the most similar prototype of each sample, comparing again only where it may have changed."""
        new = torch.nonzero(~torch.isin(state.keys, self._keys))[:, 0]
        lost = torch.nonzero(~torch.isin(self._winners, state.keys))[:, 0]
        everywhere = torch.arange(len(state))
        self._compare(state, lost, everywhere, start_again=True)
        if len(new):
            is_kept = torch.ones(len(self._winners), dtype=torch.bool)
            is_kept[lost] = False
            self._compare(state, torch.nonzero(is_kept)[:, 0], new, start_again=False)
        self._keys = state.keys

    def _compare(self, state: State, rows: Tensor, positions: Tensor, *, start_again: bool) -> None:
        """Compares some samples with some prototypes, and keeps the more similar ones."""
        if start_again:
            self._best[rows] = -torch.inf
        vectors, keys = state.vectors[positions], state.keys[positions]
        step = max(256, _CELLS // max(len(positions), vectors.shape[1]))
        for chunk in rows.split(step):
            best, position = self.material.similarity(self.material.read(chunk.numpy()), vectors).max(1)
            better = best > self._best[chunk]
            self._winners[chunk[better]] = keys[position[better]]
            self._best[chunk[better]] = best[better].to(self._best.dtype)


def _fitting(row: Tensor, like: Tensor) -> Tensor:
    """Pads or cuts a row of nearest samples to the length of another."""
    if row.ndim == 0 or len(row) == len(like):
        return row
    blank = -1 if not row.is_floating_point() else torch.inf
    return torch.cat([row, row.new_full((max(0, len(like) - len(row)),), blank)])[: len(like)]
