"""Prototypes: the vectors that a model decides by, and the training data behind each."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.display import as_html
from lookalike._core.errors import LookalikeError
from lookalike._core.names import text_of
from lookalike._core.wording import counted

N_QUANTILES = 101
ENOUGH_SAMPLES = 10  # behind a prototype: the largest distance of fewer says little about new inputs
_ROUNDING_OF_NOTHING = 1e-5  # relative to the model's largest distance, in single precision
ROUNDING = 1e-4  # relative: the farthest distance is a rounded quantile

Scope = Literal["prototype", "class", "model"]


class FamiliarRange(NamedTuple):
    """How far from each prototype an input is still familiar.

    Attributes:
        farthest: The distance of the farthest training sample [P].
        counts: Number of training samples that it is the farthest of [P].
        scopes: Whose samples these are, of each prototype: its own, those of its class, or all.
    """

    farthest: Tensor
    counts: Tensor
    scopes: list[Scope]


class Prototypes(nn.Module):
    """P prototypes and, after ``survey``, the training data behind each.

    A prototype of KMEx is a centroid, so no image looks exactly like it. The training images nearest to it are shown
    instead, with their distances (paper section 3.3). Distances are Euclidean, in the space in which the similarity
    clusters. A prototype's own training samples are those of its class to which no other prototype of the class is
    more similar.

    Args:
        vectors: [P, D].
        labels: Classes of the prototypes [P], int64.
        class_names: Names of all K classes.

    Attributes:
        vectors: [P, D].
        labels: Classes of the prototypes [P].
        class_names: K names.
        counts: Number of each prototype's own training samples [P]. Ghosting counts the prototypes with 0.
        purity: Share of the prototype's class among all training samples to which the prototype is the most similar of
            all [P]; NaN if there are no such samples.
        nearest: Indices of the training samples nearest to each prototype, nearest first [P, M]; −1 where there are
            fewer than M.
        distances: Distances of these samples to the prototype [P, M].
        percentiles: Share, in percent, of the prototype's own training samples that are at most as far away [P, M].
        quantiles: The 0th to 100th percentile of the distances of the prototype's own training samples [P, 101].
        positions: Of prototypes of patches: which patch of each of the nearest training samples it is, row by row of
            the feature map [P, M]; None for prototypes of whole images. Their samples, counts and distances are those
            of patches.
    """

    vectors: Tensor
    labels: Tensor
    counts: Tensor
    purity: Tensor
    nearest: Tensor
    distances: Tensor
    percentiles: Tensor
    quantiles: Tensor
    positions: Tensor | None

    def __init__(self, vectors: Tensor, labels: Tensor, class_names: Sequence[str], **surveyed: Tensor) -> None:
        super().__init__()
        checks.instance("vectors", vectors, Tensor, "a tensor [P, D]")
        checks.instance("labels", labels, Tensor, "a tensor of classes [P]")
        class_names = checks.names("class_names", class_names)
        if vectors.ndim != 2 or labels.shape != (len(vectors),):
            raise LookalikeError(f"vectors {tuple(vectors.shape)} and labels {tuple(labels.shape)} do not fit")
        if not vectors.is_floating_point():
            raise checks.unfit("vectors", vectors, "a tensor of floating-point numbers [P, D]")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise checks.unfit("labels", labels, "a tensor of whole numbers [P]")
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(class_names)):
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise LookalikeError(f"a prototype has class {wrong}; there are {len(class_names)} classes")
        self.class_names = [text_of(name) for name in class_names]
        if isinstance(vectors, nn.Parameter):
            self.register_parameter("vectors", vectors)
        else:
            self.register_buffer("vectors", vectors)
        self.register_buffer("labels", labels)
        n_prototypes = len(vectors)
        blank = {
            "counts": torch.zeros(n_prototypes, dtype=torch.int64),
            "purity": torch.full((n_prototypes,), torch.nan, dtype=torch.float32),
            "nearest": torch.full((n_prototypes, 0), -1, dtype=torch.int64),
            "distances": torch.zeros(n_prototypes, 0, dtype=torch.float32),
            "percentiles": torch.zeros(n_prototypes, 0, dtype=torch.float32),
            "quantiles": torch.full((n_prototypes, N_QUANTILES), torch.nan, dtype=torch.float32),
        }
        self.register_buffer("positions", None)
        if "positions" in surveyed:
            blank["positions"] = blank["nearest"]
        for name, tensor in {**blank, **surveyed}.items():
            checks.one_of("what is surveyed", name, blank)
            if not isinstance(tensor, Tensor) or tensor.shape[:1] != (n_prototypes,) or tensor.ndim != blank[name].ndim:
                raise checks.unfit(name, tensor, f"a tensor with a row for each of the {n_prototypes} prototypes")
            self.register_buffer(name, tensor)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def have_image(self) -> Tensor:
        """Whether a training image is recorded as nearest to each prototype, bool [P], on the CPU.

        A prototype of an output for which there are no training images has none. All count as having one in a model
        that was saved without these records.
        """
        if not self.nearest.shape[1]:
            return torch.ones(len(self), dtype=torch.bool)
        return (self.nearest[:, 0] >= 0).cpu()

    def class_of(self, prototype: int) -> str:
        """Returns the name of a prototype's class."""
        number = checks.whole_number("prototype", prototype, 0, len(self) - 1)
        return self.class_names[int(self.labels[number])]

    def percentile_of(self, distances: Tensor) -> Tensor:
        """Returns the percentiles of distances [N, P] among those of each prototype's own training samples.

        100 means as far as the farthest of them, or farther; NaN if the prototype has none.
        """
        ranks = torch.searchsorted(self.quantiles, distances.T.contiguous(), right=True).T
        percent = (ranks - 1).clamp(0, N_QUANTILES - 1).to(distances.dtype)
        return torch.where(self.quantiles[:, 0].isnan(), torch.nan, percent)

    @property
    def farthest(self) -> Tensor:
        """Distance of the farthest of each prototype's own training samples [P], and what rounding makes of it.

        A distance of nothing, as of copies of one image, is a rounded number of the size of an embedding's last digit.
        """
        farthest: Tensor = self.quantiles[:, -1]
        return farthest + _ROUNDING_OF_NOTHING * farthest.nan_to_num(0.0).amax()

    def familiar_range(self) -> FamiliarRange:
        """Returns how far away the farthest training sample is, of as many as are needed to tell [ours].

        A prototype with fewer than ten training samples says little about new inputs. Then the samples of its class
        count, each at its distance to its own prototype; if those are fewer than ten too, all samples. The only sample
        of a prototype does not count: it is the prototype, and says nothing of how far away others are.
        """
        own_counts, labels = self.counts.cpu(), self.labels.cpu()  # read from the device once
        own_counts = own_counts.where(own_counts > 1, 0)
        counts, farthest = own_counts.clone(), self.farthest.cpu()
        scopes: list[Scope] = ["prototype"] * len(self)
        known_farthest = torch.where(farthest.isnan(), -torch.inf, farthest)
        for j in torch.nonzero(own_counts < ENOUGH_SAMPLES)[:, 0].tolist():
            of_class = labels == labels[j]
            scopes[j] = "class" if int(own_counts[of_class].sum()) >= ENOUGH_SAMPLES else "model"
            is_counted = of_class if scopes[j] == "class" else torch.ones_like(of_class)
            counts[j], farthest[j] = own_counts[is_counted].sum(), known_farthest[is_counted].max()
        device = self.counts.device
        return FamiliarRange(farthest.to(device), counts.to(device), scopes)

    def to_table(self) -> list[dict[str, Any]]:
        """Returns a row of plain JSON values for each prototype."""
        columns = (self.labels, self.counts, self.purity, self.nearest, self.distances, self.percentiles)
        rows = zip(*(column.tolist() for column in columns), strict=True)  # value by value takes 3 times as long
        table = []
        for j, (label, count, purity, nearest, distances, percentiles) in enumerate(rows):
            ranks = [rank for rank, sample in enumerate(nearest) if sample >= 0]
            table.append(
                {
                    "prototype": j,
                    "class": self.class_names[label],
                    "count": count,
                    "purity": None if math.isnan(purity) else purity,
                    "nearest": [nearest[rank] for rank in ranks],
                    "distances": [distances[rank] for rank in ranks],
                    "percentiles": [None if math.isnan(percentiles[rank]) else percentiles[rank] for rank in ranks],
                }
            )
        return table

    def _repr_html_(self) -> str:
        """Shows a table in a notebook."""
        rows = [
            (row["prototype"], row["class"], row["count"], "–" if row["purity"] is None else f"{row['purity']:.1%}")
            for row in self.to_table()
        ]
        title = f"{counted(len(self), 'prototype')} of {counted(self.n_classes, 'class', 'classes')}"
        return as_html(title, columns=("prototype", "class", "count", "purity"), rows=rows)

    def extra_repr(self) -> str:
        """Shows the numbers of prototypes, classes and dimensions."""
        return f"{len(self)} of {self.n_classes} classes, dim={self.vectors.shape[1]}"
